//! Text to token ids and back: tokenizers of every format, chat templates.
//!
//! Three algorithms cover every model Zonda runs: byte-level BPE with listed merges or with ranks (`bpe`) and
//! SentencePiece's BPE (`spm`), both on one merge loop (`merge`), and, for `tokenizer.json`, the crate `tokenizers`
//! (`hf`). Files are read in `gguf`, `hf`, `sentencepiece` and `tekken`. Turning ids back into bytes is the same
//! for all: `vocab` holds each token's bytes.

mod bpe;
pub mod chat;
mod error;
mod files;
mod gguf;
mod guard;
mod hf;
mod merge;
mod mock;
mod pretokenize;
mod sentencepiece;
mod spm;
mod tekken;
mod vocab;

pub use chat::{ChatTemplate, Message, RenderOptions, TemplateError};
pub use error::TokenizeError;

pub(crate) use bpe::byte_alphabet;
pub(crate) use pretokenize::{Preset, preset, preset_name};
pub(crate) use sentencepiece::pieces;

use crate::TokenId;
use crate::load::{Format, Metadata, Model};
use crate::stream::Detokenizer;
use std::borrow::Cow;
use std::path::Path;
use vocab::{Fragment, Vocab};

/// Longest text [`Tokenizer::encode`] takes, in bytes; no model's context holds a hundredth of it.
pub const MAX_TEXT: usize = 256 << 20;

/// How to encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Put the BOS token in front. Nothing is added if the vocabulary has none.
    pub add_bos: bool,
    /// Control tokens written out in the text (`<|im_end|>`, `[INST]`) become their ids. Leave it off for text
    /// that comes from a user: there they are plain characters.
    pub parse_special: bool,
}

/// A model's tokenizer. Immutable; share it in an `Arc`.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
}

/// How text between special tokens becomes ids.
enum Algorithm {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    Hf(Box<hf::Hf>),
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*`).
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizeError> {
        gguf::read(metadata)
    }

    /// The tokenizer in a file: a GGUF (one with nothing but a vocabulary, too), `tokenizer.json`, a SentencePiece
    /// `tokenizer.model` or a `tekken.json`. Which it is shows in its content.
    pub fn from_file(path: &Path) -> Result<Tokenizer, TokenizeError> {
        files::open(path)
    }

    /// The tokenizer in a model's folder; `None` if there is none.
    pub fn from_folder(folder: &Path) -> Result<Option<Tokenizer>, TokenizeError> {
        files::open_folder(folder)
    }

    /// An opened model's tokenizer: its GGUF metadata's, or the one in its folder. `None` if it comes without one.
    pub fn for_model(model: &Model) -> Result<Option<Tokenizer>, TokenizeError> {
        match (model.format, model.folder()) {
            (Format::Gguf, _) if gguf::has_vocabulary(&model.metadata) => {
                gguf::read(&model.metadata).map(Some)
            }
            (_, None) => Ok(None),
            (_, Some(folder)) => files::open_folder(folder),
        }
    }

    /// The mock backend's tokenizer: common English words, and bytes for the rest. Needs no file.
    pub fn mock() -> Tokenizer {
        mock::tokenizer()
    }

    /// The ids of a text. What the vocabulary has neither tokens nor bytes for is the unknown token, or left out.
    ///
    /// # Errors
    /// If the text is longer than [`MAX_TEXT`].
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<TokenId>, TokenizeError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizeError::TextTooLong { bytes: text.len() });
        }
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        if options.add_bos {
            ids.extend(self.vocab.bos);
        }
        if let Algorithm::Hf(hf) = &self.algorithm {
            hf.encode(text, options, &mut ids)?;
            return Ok(ids);
        }
        self.append(self.vocab.fragments(text, options.parse_special), &mut ids)?;
        Ok(ids)
    }

    /// The ids of a rendered prompt. Control tokens that stand in it by name become their ids, but for those in texts that
    /// [`Tokenizer::guard_message`] has guarded.
    ///
    /// # Errors
    /// If the text is longer than [`MAX_TEXT`].
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<TokenId>, TokenizeError> {
        guard::encode(self, prompt)
    }

    /// Guards the names of control tokens in a message's texts, so that they stay text when the prompt that holds them is
    /// encoded by [`Tokenizer::encode_prompt`]. A message without any is not changed.
    pub fn guard_message(&self, message: &mut Message) {
        for text in [&mut message.role, &mut message.content] {
            if let Cow::Owned(guarded) = guard::guard(self, text) {
                *text = guarded;
            }
        }
        message.extra.values_mut().for_each(|value| guard::guard_value(self, value));
    }

    /// As [`Tokenizer::guard_message`], for a JSON value that a chat template is given.
    pub fn guard_value(&self, value: &mut serde_json::Value) {
        guard::guard_value(self, value);
    }

    /// The ids of a text with guards at these offsets, in bytes.
    fn encode_fragments(&self, text: &str, guards: &[usize]) -> Result<Vec<TokenId>, TokenizeError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizeError::TextTooLong { bytes: text.len() });
        }
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        self.append(self.vocab.guarded_fragments(text, guards), &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of fragments, in which no further special tokens are looked for.
    fn append(&self, fragments: Vec<Fragment<'_>>, ids: &mut Vec<TokenId>) -> Result<(), TokenizeError> {
        // What stands before the fragment: nothing, or a token that was matched in the text.
        let mut before = None;
        for fragment in fragments {
            match (fragment, &self.algorithm) {
                (Fragment::Token(id), _) => {
                    ids.push(id);
                    before = Some(id);
                }
                (Fragment::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, ids),
                (Fragment::Text(text), Algorithm::Spm(spm)) => {
                    spm.encode(text, self.prefixes_space_after(before), ids);
                }
                (Fragment::Text(text), Algorithm::Hf(hf)) => hf.encode(text, Encode::default(), ids)?,
            }
        }
        Ok(())
    }

    /// The text of a token sequence, bytes that are no UTF-8 replaced by U+FFFD.
    ///
    /// It inverts [`Tokenizer::encode`]: the space that SentencePiece puts in front of a text is taken away again.
    /// With `skip_special`, control tokens are left out. Ids outside the vocabulary give nothing.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        let mut detokenizer = Detokenizer::new().keep_special(!skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(self, id));
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// One token for display: its text, control tokens by name, stray bytes as U+FFFD; empty for an unknown id.
    pub fn piece(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.vocab.bytes(id).unwrap_or_default()).into_owned()
    }

    /// The bytes a token stands for, control tokens' names included; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.vocab.bytes(id)
    }

    /// True for tokens that stand for text, as opposed to a byte or a name.
    pub(crate) fn is_text(&self, id: TokenId) -> bool {
        self.vocab.is_text(id)
    }

    /// True if text that begins here (`None`: at the very start; else after this token) was given a space in front
    /// when it was encoded, which is not part of the text: SentencePiece models do so.
    pub(crate) fn prefixes_space_after(&self, before: Option<TokenId>) -> bool {
        use hf::SpacePrefix;
        let prefix = match &self.algorithm {
            Algorithm::Bpe(_) => SpacePrefix::Never,
            Algorithm::Spm(spm) if spm.space_prefix() => SpacePrefix::EveryFragment,
            Algorithm::Spm(_) => SpacePrefix::Never,
            Algorithm::Hf(hf) => hf.space_prefix,
        };
        match (prefix, before) {
            (SpacePrefix::Never, _) => false,
            (_, None) => true,
            (SpacePrefix::Start, before) => before == self.vocab.bos,
            (SpacePrefix::EveryFragment, Some(id)) => self.vocab.is_fragment_border(id),
        }
    }

    /// Number of ids. A model's embedding may have more rows, never fewer.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The id whose token is exactly this text: how control tokens are looked up by name.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.vocab.find(text.as_bytes())
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<TokenId> {
        self.vocab.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<TokenId> {
        self.vocab.eos
    }

    /// Whether the model wants a BOS in front of raw text.
    pub fn adds_bos(&self) -> bool {
        self.vocab.adds_bos && self.vocab.bos.is_some()
    }

    /// Tokens that end a generation (EOS, end of turn, end of message), sorted.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.vocab.end_tokens
    }

    /// True for control and unknown tokens: those [`Tokenizer::decode`] can skip.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.vocab.is_special(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithm = match &self.algorithm {
            Algorithm::Bpe(_) => "byte-level BPE",
            Algorithm::Spm(_) => "SentencePiece BPE",
            Algorithm::Hf(_) => "tokenizer.json",
        };
        f.debug_struct("Tokenizer")
            .field("algorithm", &algorithm)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}
