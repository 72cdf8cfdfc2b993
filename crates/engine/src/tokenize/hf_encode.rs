//! [`Hf`]: encodes text according to a `tokenizer.json`, with the crate `tokenizers`.

use super::bounds::{Least, Watch};
use super::error::TokenizeError;
use super::hf_check::Growth;
use super::hf_least::{Kept, kept};
use super::vocab::Vocab;
use crate::TokenId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use tokenizers::{Model as _, OffsetType, PreTokenizer as _};

/// An encoder for `tokenizer.json`.
pub(super) struct Hf {
    /// Finds special tokens in the text.
    parsing: Box<tokenizers::Tokenizer>,
    /// The same, but special tokens are treated as text; created when it is first needed.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    growth: Growth,
    /// The bytes that are always part of some token, if that is known.
    kept: Option<Kept>,
}

impl Hf {
    /// `tokenizer` neither truncates nor pads, and has no post-processor.
    pub fn new(tokenizer: tokenizers::Tokenizer, growth: Growth) -> Hf {
        let kept = kept(&tokenizer);
        Hf { parsing: Box::new(tokenizer), plain: OnceLock::new(), growth, kept }
    }

    /// Appends the ids of `text`.
    ///
    /// # Errors
    /// If the crate fails, the text could become too long, or `watch` ends it. It can end it between the crate's steps and
    /// between words.
    pub fn encode(
        &self,
        text: &str,
        parse_special: bool,
        watch: &Watch<'_>,
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
        // The steps of the crate's own `encode_fast`.
        let step = |asked: Result<(), TokenizeError>| asked.map_err(|e| Box::new(e) as tokenizers::Error);
        let encoding = guarded(|| {
            let added = tokenizer.get_added_vocabulary();
            let mut text = added.extract_and_normalize(tokenizer.get_normalizer(), text);
            step(watch.now())?;
            if let Some(splitter) = tokenizer.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut text)?;
                step(watch.now())?;
            }
            text.tokenize(|word| {
                step(watch.step())?;
                tokenizer.get_model().tokenize(word.get())
            })?;
            text.into_encoding(None, 0, OffsetType::None)
        })?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The lower bound on the tokens of a text, if there is one.
    pub fn least(&self, vocab: &Vocab) -> Option<Least> {
        self.kept.as_ref().map(|kept| Least::new(vocab.longest(kept.spelled), kept.bytes))
    }
}

/// Calls the crate. A panic becomes an error: the crate trusts the file, but the file is untrusted.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizeError> {
    // Nothing that a panic left incomplete is used again: a tokenizer that was being read is dropped, and encoding
    // changes only the crate's caches, which it protects itself.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(match error.downcast::<TokenizeError>() {
            Ok(own) => *own,
            Err(error) => TokenizeError::Tokenizers(error.to_string()),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
            Err(TokenizeError::Tokenizers(format!("the crate tokenizers panicked: {text}")))
        }
    }
}
