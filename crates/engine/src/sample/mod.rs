//! Logits to the next token.
//!
//! [`SamplingParams`] says what is wanted, a [`Sampler`] does it, token after token, in llama.cpp's default order:
//!
//! 1. check: a NaN or an infinity in the logits is an error;
//! 2. logit bias, then repetition, presence and frequency penalties over the last `repeat_last_n` tokens;
//! 3. what a [`Grammar`] does not allow to come next is forbidden;
//! 4. at temperature 0 the highest logit wins (of equals, the lowest id), and that is all;
//! 5. top-k → typical → top-p → min-p, each narrowing what the one before left;
//! 6. temperature, softmax, and a draw from a random stream that is a function of seed and position only.
//!
//! Because of the last point a request's tokens do not depend on what else runs beside it.

mod bounds;
mod candidates;
mod chain;
mod grammar;
mod logprobs;
mod params;
mod rng;
mod scan;
mod softmax;

pub use chain::{SampleError, Sampled, Sampler};
pub use grammar::{Constraint, Grammar, GrammarCompiler, GrammarError};
pub use logprobs::{TokenLogprob, TokenLogprobs, logprobs};
pub use params::{ParamError, SamplingParams};
pub use rng::{random_seed, uniform};
