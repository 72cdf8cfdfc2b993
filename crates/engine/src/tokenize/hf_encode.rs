//! [`Hf`]: encodes text according to a `tokenizer.json`, with the crate `tokenizers`.

use super::error::TokenizeError;
use super::hf_check::Growth;
use crate::TokenId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// An encoder for `tokenizer.json`.
pub(super) struct Hf {
    /// Finds special tokens in the text.
    parsing: Box<tokenizers::Tokenizer>,
    /// The same, but special tokens are treated as text; created when it is first needed.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    growth: Growth,
}

impl Hf {
    pub fn new(tokenizer: tokenizers::Tokenizer, growth: Growth) -> Hf {
        Hf { parsing: Box::new(tokenizer), plain: OnceLock::new(), growth }
    }

    /// Appends the ids of `text`.
    pub fn encode(
        &self,
        text: &str,
        parse_special: bool,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        self.growth.check(text.len())?;
        let tokenizer = if parse_special {
            &self.parsing
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.parsing.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = guarded(|| tokenizer.encode_fast(text, false))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

/// Calls the crate. A panic becomes an error: the crate trusts the file, but the file is untrusted.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizeError> {
    // Nothing that a panic left incomplete is used again: a tokenizer that was being read is dropped, and encoding
    // changes only the crate's caches, which it protects itself.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| TokenizeError::Tokenizers(e.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
            Err(TokenizeError::Tokenizers(format!("the crate tokenizers panicked: {text}")))
        }
    }
}
