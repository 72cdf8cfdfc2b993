//! The worker: schedule → forward → sample → stream, on the one thread that owns the backend.
//!
//! [`Engine`] is the handle to it: requests go in, a [`Generation`] of events comes out. The loop is in `run`, one request's
//! state in `active`, the handling of a full context in `shift`, the draft model in `draft_model`.

mod active;
mod draft_model;
mod drafts;
mod engine;
#[cfg(test)]
mod faults;
mod generation;
mod measure;
mod prepared;
mod run;
mod shift;

pub use draft_model::{DraftModel, TokenizerMismatch, same_tokens};
pub use engine::{Engine, EngineConfig, EngineError, Extras, Parallel};
pub use generation::{Canceller, Completion, Generation};
pub use prepared::{Places, Prepared};
