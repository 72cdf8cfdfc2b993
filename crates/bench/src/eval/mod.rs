//! Evaluation: reference logits, the comparison of backends with them, perplexity and quality. Runs where the backend is: in
//! a child process, or in `zonda verify` itself.

pub mod bounds;
#[cfg(test)]
mod bounds_tests;
pub mod comparison;
mod logits_file;
pub mod perplexity;
pub mod prompts;
pub mod quality;
pub mod reference;
pub mod verify;
