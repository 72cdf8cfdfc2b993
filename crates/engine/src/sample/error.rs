//! [`SampleError`]: why no token could be chosen.

use crate::TokenId;

/// Why no token could be chosen: the logits are invalid, or every token is forbidden.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// Every logit is NaN.
    #[error("the logits at position {position} are all NaN")]
    AllNan {
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// A logit is not a number.
    #[error("logits contain NaN at token {token} (position {position})")]
    Nan {
        /// The first such token.
        token: TokenId,
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// A logit is infinite.
    #[error("logits contain {value} at token {token} (position {position})")]
    Infinite {
        /// The first such token.
        token: TokenId,
        /// `inf` or `-inf`.
        value: f32,
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// The logit bias, with the grammar if there is one, forbids every token.
    #[error("no token is allowed at position {position}: logit bias and grammar forbid all")]
    NothingAllowed {
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// The grammar's parser failed.
    #[error("the grammar can't be followed at position {position}: {reason}")]
    Grammar {
        /// The parser's message.
        reason: String,
        /// The generated token's position in the sequence.
        position: usize,
    },
}

impl SampleError {
    /// Whether the request's own parameters cause it, and not the model's logits.
    pub fn is_the_requests(&self) -> bool {
        matches!(self, SampleError::NothingAllowed { .. } | SampleError::Grammar { .. })
    }
}
