//! Quantisation of a whole model: which type each tensor gets ([`Mix`]) and how much each column of a matrix counts
//! ([`Importance`]).

mod importance;
mod mix;

pub use importance::Importance;
pub use mix::{Mix, UnknownMix};
