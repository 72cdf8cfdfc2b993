//! [`Splitter`]: a tokenizer's algorithm in another library, for kinds that this crate lacks.

use super::error::TokenizeError;
use crate::TokenId;

/// Splits text into tokens. Everything else about a tokenizer (its vocabulary, special tokens, the way back to text) is the same
/// for all: see [`Tokenizer::from_gguf_with`](super::Tokenizer::from_gguf_with).
pub trait Splitter: Send + Sync {
    /// Appends the ids of a text that contains no special tokens; their names in it are plain characters. Characters without a
    /// token become the unknown token, or are left out.
    ///
    /// # Errors
    /// If the library fails.
    fn split(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizeError>;
}
