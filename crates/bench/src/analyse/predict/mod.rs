//! Predictions for a model that has not run on this machine yet: tokens a second and memory, from the machine's peaks and
//! the shares of them that a backend reached with weights of the same type.
//!
//! A prompt token takes `operations / (peak × e)` for the matrix products, a time per value for norms and activations, and
//! the time of attention over the tokens before it. A generated token takes `bytes / rate` for reading the weights, a time
//! per layer for starting threads, and the time of reading the keys and values before it. The rate is `e` times the bandwidth
//! that the cores would reach without contention, and at most the bandwidth that they reach together. So a backend whose cores
//! compute half of the time keeps its speed while other programs use the memory, until less bandwidth is left than it needs.
//! [`built_in`] has these times, and shares `e` with their sources; [`past`] replaces the shares by those in records of this
//! machine, if there are any.

pub mod built_in;
pub mod check;
pub mod dims;
pub mod efficiency;
pub mod form;
pub mod past;
#[cfg(test)]
mod tests;
mod token_time;

pub use dims::Dims;
pub use efficiency::{Efficiency, Speed};
pub use form::{Form, QUALITY, quality};
