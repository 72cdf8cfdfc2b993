//! [`Context`]: what every command gets, and the model store as the command line shows it.

use crate::console::note;
use crate::interrupt::{self, Graceful};
use crate::output::Progress;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use zonda::Store;

/// The context of every command.
pub struct Context {
    /// No progress and no statistics on standard error.
    pub quiet: bool,
}

impl Context {
    /// The model store. Downloads show their progress on standard error, and Ctrl-C cancels them.
    ///
    /// # Errors
    /// As [`Store::from_env`].
    pub fn store(&self) -> anyhow::Result<Store> {
        let shown = Shown { quiet: self.quiet, now: Mutex::default() };
        Ok(Store::from_env()?.with_progress(shown))
    }
}

/// Shows a download on the terminal.
struct Shown {
    quiet: bool,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// While a model is downloaded, Ctrl-C only requests the end.
    graceful: Option<Graceful>,
    bar: Option<Progress>,
}

impl Shown {
    fn with(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl zonda::store::Progress for Shown {
    fn enter(&self) {
        self.with(|now| now.graceful = Some(interrupt::graceful()));
    }

    fn leave(&self) {
        self.with(|now| now.graceful = None);
    }

    fn begin(&self, what: &str, bytes: u64) {
        self.with(|now| now.bar = Some(Progress::bytes(what, bytes, self.quiet)));
    }

    fn advance(&self, done: u64, bytes: u64) {
        self.with(|now| now.bar.iter().for_each(|bar| bar.set(done, bytes)));
    }

    fn end(&self, complete: bool) {
        self.with(|now| {
            let bar = now.bar.take().filter(|_| complete);
            bar.into_iter().for_each(Progress::finish);
        });
    }

    fn waiting(&self, folder: &Path) {
        note!("waiting for another zonda process that is changing {}", folder.display());
    }

    fn shows_output(&self) -> bool {
        !self.quiet
    }

    fn cancelled(&self) -> bool {
        interrupt::pressed()
    }
}
