//! Following an experiment while it runs: what happens is told, and whoever follows may stop it.

use crate::experiment::process::Watch;
use crate::record::row::Row;
use crate::record::subject::Subject;
use crate::record::warning::Warning;

/// What happens, as it happens.
#[derive(Debug)]
pub enum Update<'a> {
    /// About to begin: at most `runs` runs in all.
    Planned {
        /// Runs in all.
        runs: usize,
    },
    /// What the machine can do at most is being measured.
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
        /// Who.
        subject: &'a Subject,
        /// What, by name.
        work: String,
        /// The block, from 1.
        run: usize,
        /// Tokens to come.
        tokens: usize,
    },
    /// So many tokens of it have arrived.
    Tokens(usize),
    /// A run ended, well or not.
    Row(&'a Row),
    /// Something that may disturb the measurement.
    Warning(&'a Warning),
}

/// Who follows an experiment, and may stop it.
pub trait Progress {
    /// Something happened.
    fn update(&mut self, update: Update<'_>);
    /// True once the person has asked to stop (Ctrl-C): the record is then partial, and says so.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Follows nothing.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn update(&mut self, _: Update<'_>) {}
}

/// Lets the process that waits reach the one who follows.
pub(crate) struct Watcher<'a>(pub &'a mut dyn Progress);

impl Watch for Watcher<'_> {
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
    fn tokens(&mut self, tokens: usize) {
        self.0.update(Update::Tokens(tokens));
    }
}
