//! Ctrl-C ends the process at once with exit code 130, except while a command checks for it itself ([`graceful`]) because it
//! has something to finish: an answer's statistics, a temporary file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static PRESSED: AtomicBool = AtomicBool::new(false);
static GRACEFUL: AtomicUsize = AtomicUsize::new(0);
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Installs handlers for Ctrl-C, SIGTERM and SIGHUP.
///
/// # Errors
/// If the system refuses a signal handler.
pub fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let first = !PRESSED.swap(true, Ordering::SeqCst);
        if !first || GRACEFUL.load(Ordering::SeqCst) == 0 {
            for path in SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                remove(path);
            }
            std::process::exit(130);
        }
    })
}

/// An unfinished output: if Ctrl-C ends the process while this lives, the output is removed.
pub struct Scratch(PathBuf);

/// See [`Scratch`]. The file or folder need not exist yet.
pub fn scratch(path: PathBuf) -> Scratch {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
    Scratch(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// Removes a file or folder that another thread may still be writing to.
fn remove(path: &Path) {
    for _ in 0..3 {
        let gone = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        if gone.is_ok() {
            return;
        }
    }
}

/// While this lives, a first Ctrl-C only sets the flag that [`pressed`] reads; a second one ends the
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
