//! The boundary between the engine and the backends: tokens in, logits out.

mod backend;
mod limits;
mod logits;

pub use crate::batch::{Batch, BatchError, Limits, Slot, Span, Want};
pub use backend::{Backend, BackendError, BackendInfo};
pub use logits::Logits;
