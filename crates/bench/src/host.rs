//! [`Host`]: what a child process needs from the program that starts it. The bench itself knows no backend.

use crate::record::config::Work;
use crate::record::model_cost::ModelCost;
use crate::record::peaks::Peaks;
use crate::record::subject::Subject;
use serde::{Deserialize, Serialize};
use zonda_engine::forward::Backend;
use zonda_engine::{Engine, TextProcessor, TokenId};

/// What a child opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// Backend, model, options.
    pub subject: Subject,
    /// The work to come; what decides the context it needs ([`ChildSpec::context_needed`]).
    pub work: Vec<Work>,
    /// Keep the process to the cores its threads run on.
    pub isolate: bool,
}

/// An engine and what is known of its model.
#[derive(Debug)]
pub struct Opened {
    /// The engine.
    pub engine: Engine,
    /// What one token costs; `None` if it isn't known.
    pub cost: Option<ModelCost>,
}

impl From<Engine> for Opened {
    fn from(engine: Engine) -> Opened {
        Opened { engine, cost: None }
    }
}

/// Gets a row of logits, `[vocab]`; an error ends the evaluation.
pub type OnLogits<'a> = dyn FnMut(&[f32]) -> Result<(), String> + 'a;

/// Measures the read bandwidth now, in bytes a second.
pub type Reader = Box<dyn FnMut() -> f64>;

/// What a child process can do. Each error is one sentence.
pub trait Host {
    /// Opens the engine of a subject.
    ///
    /// # Errors
    /// The reason.
    fn open(&self, spec: &ChildSpec) -> Result<Opened, String>;

    /// The text of a subject's model, `None` if it has no tokenizer; and its vocabulary's size.
    ///
    /// # Errors
    /// The reason.
    fn text(&self, subject: &Subject) -> Result<(Option<TextProcessor>, usize), String>;

    /// Opens the bare backend of a subject for sequences of at most `context` tokens, with the options it is measured with.
    ///
    /// # Errors
    /// The reason.
    fn backend(&self, subject: &Subject, context: usize) -> Result<Box<dyn Backend>, String>;

    /// Passes the logits of the highest-precision form of a subject's weights to `look`, for every position of every
    /// sequence, in order. Returns what that form is.
    ///
    /// # Errors
    /// The reason, or the error of `look`.
    fn reference(
        &self,
        subject: &Subject,
        sequences: &[Vec<TokenId>],
        look: &mut OnLogits<'_>,
    ) -> Result<String, String>;

    /// Measures the machine's peaks, with the number of threads in a subject's options; with `large`, also reads of a large
    /// memory region.
    ///
    /// # Errors
    /// The reason.
    fn peaks(&self, subject: &Subject, large: bool) -> Result<Peaks, String>;

    /// Prepares repeated measurements of the read bandwidth, in bytes a second: the number of threads in a subject's options
    /// read half a GiB of memory, in a fifth of a second or less.
    ///
    /// # Errors
    /// The reason.
    fn reader(&self, subject: &Subject) -> Result<Reader, String>;

    /// The CPUs that a subject's threads run on; empty if unknown.
    fn cpus(&self, _subject: &Subject) -> Vec<usize> {
        Vec::new()
    }
}
