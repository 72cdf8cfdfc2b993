//! What a child process can do, which the bench leaves to whoever starts it: the bench knows no backend.

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

/// Sees a row of logits, `[vocab]`; an error ends the walk.
pub type OnLogits<'a> = dyn FnMut(&[f32]) -> Result<(), String> + 'a;

/// Measures what is read of memory now, in bytes a second.
pub type Reader = Box<dyn FnMut() -> f64>;

/// What a child process can do. Errors are one sentence each.
pub trait Host {
    /// Opens the engine of a subject.
    ///
    /// # Errors
    /// Why not.
    fn open(&self, spec: &ChildSpec) -> Result<Opened, String>;

    /// The text of a subject's model, `None` if it has no tokenizer; and its vocabulary's size.
    ///
    /// # Errors
    /// Why not.
    fn text(&self, subject: &Subject) -> Result<(Option<TextProcessor>, usize), String>;

    /// Opens the bare backend of a subject for sequences of at most `context` tokens, with the options it is measured with.
    ///
    /// # Errors
    /// Why not.
    fn backend(&self, subject: &Subject, context: usize) -> Result<Box<dyn Backend>, String>;

    /// Hands the logits of the highest-precision form of a subject's weights to `look`: of every position of every
    /// sequence, in order. Says what that form is.
    ///
    /// # Errors
    /// Why not; and what `look` says.
    fn reference(
        &self,
        subject: &Subject,
        sequences: &[Vec<TokenId>],
        look: &mut OnLogits<'_>,
    ) -> Result<String, String>;

    /// Measures what the machine can do at most, with as many threads as a subject's options say; with `large`, reading large
    /// memory too.
    ///
    /// # Errors
    /// Why not.
    fn peaks(&self, subject: &Subject, large: bool) -> Result<Peaks, String>;

    /// Makes ready to measure, again and again, what as many threads as a subject's options say read of half a GiB of memory,
    /// in bytes a second, in a fifth of a second or less.
    ///
    /// # Errors
    /// Why not.
    fn reader(&self, subject: &Subject) -> Result<Reader, String>;

    /// The CPUs that a subject's threads run on; empty where the system doesn't say.
    fn cpus(&self, _subject: &Subject) -> Vec<usize> {
        Vec::new()
    }
}
