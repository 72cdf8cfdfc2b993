//! The cut between the engine and the backends: tokens in, logits out.

pub mod backend;
pub mod batch;
pub mod logits;
pub mod mock;

pub use backend::{Backend, BackendError, BackendInfo, Limits};
pub use batch::{Batch, BatchError, Slot, Span, Want};
pub use logits::Logits;
