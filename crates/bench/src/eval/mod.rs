//! Evaluation: reference logits, the comparison of backends with them, perplexity and quality. It runs in the backend's
//! process: a child process, or `zonda verify` itself.

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
