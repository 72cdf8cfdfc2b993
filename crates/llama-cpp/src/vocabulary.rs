//! [`tokenizer`]: llama.cpp's tokenizers behind the engine's, for the kinds that the engine lacks.

use crate::safe::Vocabulary;
use std::thread;
use zonda_engine::TokenId;
use zonda_engine::load::Model;
use zonda_engine::tokenize::{Splitter, TokenizeError, Tokenizer};

/// The longest text that is split on the caller's stack, in bytes.
const SMALL: usize = 4 << 10;
/// The longest text that is split at all, in bytes. Its time grows with the square of the length for some texts, such as spaces:
/// some ten seconds for this many.
const LARGEST: usize = 256 << 10;
/// Stack for each byte of a text. Most pre-tokenizers are regular expressions, for which C++'s library calls itself several
/// times for each character of a long word.
const STACK_PER_BYTE: usize = 1 << 10;
/// Stack beyond that.
const STACK: usize = 1 << 20;

/// A GGUF model's tokenizer, as llama.cpp has it. No weights are read.
///
/// The caller has checked the vocabulary: llama.cpp ends the process on some malformed ones.
///
/// # Errors
/// If llama.cpp does not know the kind, or the vocabulary is malformed.
pub fn tokenizer(model: &Model) -> Result<Tokenizer, TokenizeError> {
    let files: Vec<_> = model.files().collect();
    let vocabulary = Vocabulary::load(&files).map_err(TokenizeError::Splitter)?;
    let pieces = (0..vocabulary.len()).map(|id| vocabulary.piece(id)).collect();
    Tokenizer::from_gguf_with(&model.metadata, pieces, Box::new(LlamaCppSplitter(vocabulary)))
}

struct LlamaCppSplitter(Vocabulary);

impl Splitter for LlamaCppSplitter {
    fn split(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizeError> {
        let found = match text.len() {
            0..=SMALL => self.0.tokenize(text),
            bytes @ ..=LARGEST => thread::scope(|scope| {
                let builder = thread::Builder::new().stack_size(STACK + STACK_PER_BYTE * bytes);
                let running = builder.spawn_scoped(scope, || self.0.tokenize(text));
                let running = running.map_err(|e| format!("no thread for a text of {bytes} bytes: {e}"))?;
                running.join().unwrap_or_else(|_| Err("the thread ended early".to_owned()))
            }),
            bytes => {
                Err(format!("{bytes} bytes without a special token; llama.cpp is given at most {LARGEST}"))
            }
        };
        // Characters without a token are left out where the vocabulary has no unknown token.
        ids.extend(
            found.map_err(TokenizeError::Splitter)?.into_iter().filter_map(|id| TokenId::try_from(id).ok()),
        );
        Ok(())
    }
}
