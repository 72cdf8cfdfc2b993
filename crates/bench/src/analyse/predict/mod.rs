//! What a model will do on this machine before it has run here: tokens a second and memory, from the machine's peaks
//! and from how much of them a backend reached with weights of that type.
//!
//! A token of prefill takes `operations / (peak × e)` for the weights' products, and what is not a product: a time a value
//! for norms and activations, and attention over the tokens before it. A generated token takes `bytes / rate` for
//! reading the weights, a time a layer for starting its threads, and reading the keys and values before it. The rate is `e`
//! of what the cores would read if none hindered another, and no more than they read together: a backend that keeps its
//! cores computing half the time is as fast where others use the same memory, until what is left of it is less than that.
//! [`known`] has these times, and shares `e` with where they were measured; [`past`] takes the shares from records of the
//! machine at hand instead, wherever it has some.

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
