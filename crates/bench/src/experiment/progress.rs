//! The progress of a running experiment: updates for an observer, who may also stop it.

use crate::experiment::process::Watch;
use crate::record::row::Row;
use crate::record::subject::Subject;
use crate::record::warning::Warning;

/// An update of the progress.
#[derive(Debug)]
pub enum Update<'a> {
    /// The experiment begins, with at most `runs` runs in total.
    Planned {
        /// Maximum number of runs.
        runs: usize,
    },
    /// The machine's peaks are being measured.
    Peaks,
    /// A subject's logits are being computed and compared.
    Comparing(&'a Subject),
    /// The quality of a subject is being measured.
    Quality(&'a Subject),
    /// A child is loading its model.
    Loading(&'a Subject),
    /// A warm-up run begins.
    WarmUp(&'a Subject),
    /// A measured run begins.
    Running {
        /// The subject.
        subject: &'a Subject,
        /// The name of the work.
        work: String,
        /// The block, from 1.
        run: usize,
        /// Tokens to generate.
        tokens: usize,
    },
    /// The number of its tokens that have arrived.
    Tokens(usize),
    /// A run ended, successfully or not.
    Row(&'a Row),
    /// A possible disturbance of the measurement.
    Warning(&'a Warning),
}

/// An observer of an experiment, who may stop it.
pub trait Progress {
    /// Called with every update.
    fn update(&mut self, update: Update<'_>);
    /// True once the user has asked to stop (Ctrl-C): the record is then marked as partial.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Ignores all updates.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn update(&mut self, _: Update<'_>) {}
}

/// Passes the callbacks of a waiting parent on to the observer.
pub(crate) struct Watcher<'a>(pub &'a mut dyn Progress);

impl Watch for Watcher<'_> {
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
    fn tokens(&mut self, tokens: usize) {
        self.0.update(Update::Tokens(tokens));
    }
}
