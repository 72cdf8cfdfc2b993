//! Logits to the next token.
//!
//! A [`Sampler`] applies [`SamplingParams`] to one row of logits after the other, in llama.cpp's default order:
//!
//! 1. check: a NaN or an infinity in the logits is an error;
//! 2. logit bias, then repetition, presence and frequency penalties over the last `repeat_last_n` tokens;
//! 3. tokens that a [`Grammar`] does not allow next are forbidden;
//! 4. at temperature 0 the highest logit wins (of equals, the lowest id), and the remaining steps are skipped;
//! 5. top-k → typical → top-p → min-p, each applied to the result of the previous one;
//! 6. temperature, softmax, and a draw from a random stream that depends on seed and position only.
//!
//! Because of the last point a request's tokens do not depend on other requests.

#[cfg(feature = "grammar")]
mod bounds;
mod candidates;
mod chain;
#[cfg(feature = "grammar")]
mod constraint;
mod defaults;
mod error;
mod grammar;
mod logprobs;
#[cfg(not(feature = "grammar"))]
mod no_constraint;
mod params;
mod rng;
mod scan;
mod softmax;

pub use chain::{Sampled, Sampler};
#[cfg(feature = "grammar")]
pub use constraint::{Constraint, GrammarCompiler};
pub use defaults::SamplingDefaults;
pub use error::SampleError;
pub use grammar::{Grammar, GrammarError};
pub use logprobs::{TokenLogprob, TokenLogprobs, logprobs};
#[cfg(not(feature = "grammar"))]
pub use no_constraint::{Constraint, GrammarCompiler};
pub use params::{ParamError, SamplingParams};
pub use rng::{random_seed, uniform};
