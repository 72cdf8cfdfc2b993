//! Ctrl-C: ends the process at once with exit code 130, except where a command said that it looks for itself
//! ([`graceful`]) because it has something to finish: an answer's statistics, a temporary file.

use crate::error::Interrupted;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static PRESSED: AtomicBool = AtomicBool::new(false);
static GRACEFUL: AtomicUsize = AtomicUsize::new(0);

/// Takes over Ctrl-C, SIGTERM and SIGHUP.
///
/// # Errors
/// If the system refuses a signal handler.
pub fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let first = !PRESSED.swap(true, Ordering::SeqCst);
        if !first || GRACEFUL.load(Ordering::SeqCst) == 0 {
            std::process::exit(130);
        }
    })
}

/// While this lives, a first Ctrl-C only sets the flag that [`pressed`] and [`check`] read; a second one ends the
/// process. Dropping it forgets the press.
pub struct Graceful(());

/// See [`Graceful`].
pub fn graceful() -> Graceful {
    GRACEFUL.fetch_add(1, Ordering::SeqCst);
    Graceful(())
}

impl Drop for Graceful {
    fn drop(&mut self) {
        if GRACEFUL.fetch_sub(1, Ordering::SeqCst) == 1 {
            PRESSED.store(false, Ordering::SeqCst);
        }
    }
}

/// True once Ctrl-C was pressed.
pub fn pressed() -> bool {
    PRESSED.load(Ordering::SeqCst)
}

/// For the middle of long work: an error once Ctrl-C was pressed.
///
/// # Errors
/// [`Interrupted`].
pub fn check() -> Result<(), Interrupted> {
    if pressed() { Err(Interrupted) } else { Ok(()) }
}
