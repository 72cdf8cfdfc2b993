//! The worker: schedule → forward → sample → stream, on the one thread that owns the backend.
//!
//! [`Engine`] is the handle that everyone else holds: requests go in, a [`Generation`] of events comes out. The loop
//! itself is in `run`, one request's state in `active`, what becomes of a full context in `shift`.

mod active;
mod drafts;
mod engine;
#[cfg(test)]
mod faults;
mod measure;
mod run;
mod shift;

pub use engine::{
    Canceller, Completion, Engine, EngineConfig, EngineError, Extras, Generation, Parallel, Places, Prepared,
};
