//! [`Hf`]: encodes text as a `tokenizer.json` says, with the crate `tokenizers`.

use super::error::TokenizeError;
use crate::TokenId;
use std::sync::OnceLock;

/// An encoder for `tokenizer.json`.
pub(super) struct Hf {
    /// Finds special tokens in the text.
    parsing: Box<tokenizers::Tokenizer>,
    /// The same, taking special tokens for text; made when first needed.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
}

impl Hf {
    pub fn new(tokenizer: tokenizers::Tokenizer) -> Hf {
        Hf { parsing: Box::new(tokenizer), plain: OnceLock::new() }
    }

    /// Appends the ids of `text`.
    pub fn encode(
        &self,
        text: &str,
        parse_special: bool,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        let tokenizer = if parse_special {
            &self.parsing
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.parsing.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = tokenizer.encode_fast(text, false).map_err(failed)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

pub(super) fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Tokenizers(error.to_string())
}
