//! [`Progress`]: how a program observes and cancels the work of the store.

use crate::error::{Error, Result};

/// Observes a download and can cancel it. Every method does nothing by default.
pub trait Progress: Send + Sync {
    /// The store begins to download a model.
    fn enter(&self) {}

    /// The download has ended, successfully or not.
    fn leave(&self) {}

    /// A piece of work begins: `what` is a phrase such as `downloading model.gguf`; `bytes` is its size, 0 if unknown.
    fn begin(&self, _what: &str, _bytes: u64) {}

    /// `done` of `bytes` bytes (0: unknown) are done.
    fn advance(&self, _done: u64, _bytes: u64) {}

    /// The piece of work has ended, completely or not.
    fn end(&self, _complete: bool) {}

    /// Another process is changing `folder`, and the store waits for it.
    fn waiting(&self, _folder: &std::path::Path) {}

    /// Whether pip, which downloads some models, may write to standard error; otherwise its output becomes part of the
    /// error.
    fn shows_output(&self) -> bool {
        false
    }

    /// Whether to stop as soon as possible. Downloaded bytes are kept, and the next download continues there.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Observes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silent;

impl Progress for Silent {}

/// Returns an error once the program has cancelled.
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// A download; [`Progress::leave`] is called when it is dropped.
#[cfg(feature = "hub")]
pub(crate) struct Fetch<'a>(&'a dyn Progress);

#[cfg(feature = "hub")]
impl<'a> Fetch<'a> {
    pub fn start(progress: &'a dyn Progress) -> Fetch<'a> {
        progress.enter();
        Fetch(progress)
    }
}

#[cfg(feature = "hub")]
impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A piece of work; [`Progress::end`] is called when it is dropped.
#[cfg(feature = "hub")]
pub(crate) struct Piece<'a> {
    progress: &'a dyn Progress,
    complete: bool,
}

#[cfg(feature = "hub")]
impl<'a> Piece<'a> {
    pub fn begin(progress: &'a dyn Progress, what: &str, bytes: u64) -> Piece<'a> {
        progress.begin(what, bytes);
        Piece { progress, complete: false }
    }

    pub fn advance(&self, done: u64, bytes: u64) {
        self.progress.advance(done, bytes);
    }

    pub fn check(&self) -> Result<()> {
        check(self.progress)
    }

    pub fn complete(mut self) {
        self.complete = true;
    }
}

#[cfg(feature = "hub")]
impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.progress.end(self.complete);
    }
}
