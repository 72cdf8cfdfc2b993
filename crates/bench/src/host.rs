//! [`Host`]: the services that a child process needs from its program. The bench itself does not depend on backends.

use crate::record::config::Work;
use crate::record::model_cost::ModelCost;
use crate::record::peaks::Peaks;
use crate::record::subject::Subject;
use serde::{Deserialize, Serialize};
use zonda_engine::forward::Backend;
use zonda_engine::{Engine, TextProcessor, TokenId};

/// The engine that a child opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// Backend, model, options.
    pub subject: Subject,
    /// The planned work, which determines the necessary context ([`ChildSpec::context_needed`]).
    pub work: Vec<Work>,
    /// Whether to restrict the process to the cores of its threads.
    pub isolate: bool,
}

/// An engine and facts about its model.
#[derive(Debug)]
pub struct Opened {
    /// The engine.
    pub engine: Engine,
    /// The cost of one token; `None` if unknown.
    pub cost: Option<ModelCost>,
}

impl From<Engine> for Opened {
    fn from(engine: Engine) -> Opened {
        Opened { engine, cost: None }
    }
}

/// Gets a row of logits, `[vocab]`; an error ends the evaluation.
pub type OnLogits<'a> = dyn FnMut(&[f32]) -> Result<(), String> + 'a;

/// Measures the current read bandwidth in bytes per second.
pub type Reader = Box<dyn FnMut() -> f64>;

/// The services of a child process. Each error is one sentence.
pub trait Host {
    /// Opens the engine of a subject.
    ///
    /// # Errors
    /// The reason.
    fn open(&self, spec: &ChildSpec) -> Result<Opened, String>;

    /// The text processor of a subject's model (`None` without a tokenizer), and its vocabulary size.
    ///
    /// # Errors
    /// The reason.
    fn text(&self, subject: &Subject) -> Result<(Option<TextProcessor>, usize), String>;

    /// Opens the backend of a subject, without an engine, for sequences of at most `context` tokens, with the same options as for
    /// measuring.
    ///
    /// # Errors
    /// The reason.
    fn backend(&self, subject: &Subject, context: usize) -> Result<Box<dyn Backend>, String>;

    /// Passes the reference logits of a subject's weights to `look`, for every position of every sequence, in order. Returns a
    /// description of the reference.
    ///
    /// # Errors
    /// The reason, or the error of `look`.
    fn reference(
        &self,
        subject: &Subject,
        sequences: &[Vec<TokenId>],
        look: &mut OnLogits<'_>,
    ) -> Result<String, String>;

    /// Measures the machine's peaks with the number of threads in a subject's options; with `large`, also reads of large memory.
    ///
    /// # Errors
    /// The reason.
    fn peaks(&self, subject: &Subject, large: bool) -> Result<Peaks, String>;

    /// Prepares repeated measurements of the read bandwidth in bytes per second: as many threads as in a subject's options read
    /// half a GiB of memory in at most a fifth of a second.
    ///
    /// # Errors
    /// The reason.
    fn reader(&self, subject: &Subject) -> Result<Reader, String>;

    /// The CPUs that a subject's threads run on; empty if unknown.
    fn cpus(&self, _subject: &Subject) -> Vec<usize> {
        Vec::new()
    }
}
