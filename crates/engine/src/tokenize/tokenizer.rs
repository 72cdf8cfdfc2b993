//! [`Tokenizer`]: one vocabulary and the algorithm that splits text into its tokens.

use super::bounds::{Bounds, Least, Watch};
use super::bpe::Bpe;
use super::error::{MAX_TEXT, TokenizeError};
#[cfg(feature = "hf-tokenizers")]
use super::hf_encode::Hf;
use super::splitter::Splitter;
use super::spm::Spm;
use super::unigram::Unigram;
use super::vocab::{Fragment, Vocab};
use crate::TokenId;

/// Options of encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Add the BOS token in front, if the vocabulary has one.
    pub add_bos: bool,
    /// Convert names of control tokens in the text (`<|im_end|>`, `[INST]`) to their ids. Leave it off for text from
    /// users; such names are then plain text.
    pub parse_special: bool,
}

/// A model's tokenizer. It is immutable; share it in an `Arc`.
pub struct Tokenizer {
    pub(super) vocab: Vocab,
    pub(super) algorithm: Algorithm,
}

/// How text between special tokens becomes ids.
pub(super) enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    Unigram(Box<Unigram>),
    /// Of another library.
    Other(Box<dyn Splitter>, SpacePrefix),
    #[cfg(feature = "hf-tokenizers")]
    Hf(Box<Hf>, SpacePrefix),
}

/// Where a space is added before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpacePrefix {
    Never,
    /// Only at the start of a text.
    #[cfg(feature = "hf-tokenizers")]
    Start,
    /// Also after each special token.
    EveryFragment,
}

impl Tokenizer {
    /// The ids of a text. Characters with neither a token nor byte tokens in the vocabulary become the unknown token,
    /// or are skipped.
    ///
    /// # Errors
    /// If the text is longer than [`MAX_TEXT`].
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<TokenId>, TokenizeError> {
        self.encode_within(text, options, &Bounds::NONE)
    }

    /// As [`Tokenizer::encode`], within bounds.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; also if the bounds end it.
    pub fn encode_within(
        &self,
        text: &str,
        options: Encode,
        bounds: &Bounds<'_>,
    ) -> Result<Vec<TokenId>, TokenizeError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizeError::TextTooLong { bytes: text.len() });
        }
        self.check_least(text, bounds.most)?;
        let watch = Watch::new(bounds);
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        if options.add_bos {
            ids.extend(self.vocab.bos);
        }
        #[cfg(feature = "hf-tokenizers")]
        if let Algorithm::Hf(hf, _) = &self.algorithm {
            hf.encode(text, options.parse_special, &watch, &mut ids)?;
            return Ok(ids);
        }
        self.append(self.vocab.fragments(text, options.parse_special), &watch, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of fragments, in whose text no special tokens are searched for.
    pub(super) fn append(
        &self,
        fragments: Vec<Fragment<'_>>,
        watch: &Watch<'_>,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        // What precedes the fragment: nothing, or a special token in the text.
        let mut before = None;
        for fragment in fragments {
            watch.step()?;
            match (fragment, &self.algorithm) {
                (Fragment::Token(id), _) => {
                    ids.push(id);
                    before = Some(id);
                }
                (Fragment::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, watch, ids)?,
                (Fragment::Text(text), Algorithm::Spm(spm)) => {
                    spm.encode(text, self.prefixes_space_after(before), watch, ids)?;
                }
                (Fragment::Text(text), Algorithm::Unigram(unigram)) => {
                    unigram.encode(text, self.prefixes_space_after(before), watch, ids)?;
                }
                (Fragment::Text(text), Algorithm::Other(splitter, _)) => {
                    let start = ids.len();
                    watch.now()?;
                    splitter.split(text, ids)?;
                    if ids[start..].iter().any(|&id| id as usize >= self.vocab.len()) {
                        let why = "an id outside the vocabulary".to_owned();
                        return Err(TokenizeError::Splitter(why));
                    }
                }
                #[cfg(feature = "hf-tokenizers")]
                (Fragment::Text(text), Algorithm::Hf(hf, _)) => hf.encode(text, false, watch, ids)?,
            }
        }
        Ok(())
    }

    /// Refuses a text that certainly has more tokens than `most`.
    ///
    /// # Errors
    /// [`TokenizeError::TooManyTokens`].
    pub(super) fn check_least(&self, text: &str, most: usize) -> Result<(), TokenizeError> {
        // Tokens of less than a byte don't exist.
        if text.len() <= most {
            return Ok(());
        }
        self.least().map_or(Ok(()), |least| least.check(text, most))
    }

    /// The lower bound on the tokens of a text; `None` if none is known.
    fn least(&self) -> Option<Least> {
        if self.vocab.eats_space() {
            return None;
        }
        match &self.algorithm {
            Algorithm::Bpe(bpe) => Some(bpe.least(self.vocab.longest(false))),
            Algorithm::Spm(spm) => spm.least(self.vocab.longest(true)),
            Algorithm::Unigram(unigram) => unigram.least(self.vocab.longest(true)),
            // Of llama.cpp's tokenizers, some leave out characters.
            Algorithm::Other(..) => None,
            #[cfg(feature = "hf-tokenizers")]
            Algorithm::Hf(hf, _) => hf.least(&self.vocab),
        }
    }

    /// One token for display: its text, control tokens by name, incomplete characters as U+FFFD; empty for an unknown
    /// id.
    pub fn piece(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.vocab.bytes(id).unwrap_or_default()).into_owned()
    }

    /// The bytes of a token; for control tokens, their names; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.vocab.bytes(id)
    }

    /// True for tokens that stand for text, not for a byte or a name.
    pub(crate) fn is_text(&self, id: TokenId) -> bool {
        self.vocab.is_text(id)
    }

    /// True if encoding added a space before text that begins here (`None`: at the very start; else after this token).
    /// SentencePiece models add such a space, which is not part of the text.
    pub(crate) fn prefixes_space_after(&self, before: Option<TokenId>) -> bool {
        let prefix = match &self.algorithm {
            Algorithm::Bpe(_) => SpacePrefix::Never,
            Algorithm::Spm(spm) if spm.space_prefix() => SpacePrefix::EveryFragment,
            Algorithm::Unigram(unigram) if unigram.space_prefix() => SpacePrefix::EveryFragment,
            Algorithm::Spm(_) | Algorithm::Unigram(_) => SpacePrefix::Never,
            Algorithm::Other(_, prefix) => *prefix,
            #[cfg(feature = "hf-tokenizers")]
            Algorithm::Hf(_, prefix) => *prefix,
        };
        match (prefix, before) {
            (SpacePrefix::Never, _) => false,
            (_, None) => true,
            #[cfg(feature = "hf-tokenizers")]
            (SpacePrefix::Start, before) => before == self.vocab.bos,
            (SpacePrefix::EveryFragment, Some(id)) => self.vocab.is_fragment_border(id),
        }
    }

    /// The number of ids. A model's embedding may have more rows, but not fewer.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The id of the token with exactly this text; finds control tokens by name.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.vocab.find(text.as_bytes())
    }

    /// The token for the beginning of a sequence.
    pub fn bos(&self) -> Option<TokenId> {
        self.vocab.bos
    }

    /// The token for the end of a sequence.
    pub fn eos(&self) -> Option<TokenId> {
        self.vocab.eos
    }

    /// Whether the model uses a BOS before raw text.
    pub fn adds_bos(&self) -> bool {
        self.vocab.adds_bos && self.vocab.bos.is_some()
    }

    /// Tokens that end a generation (EOS, end of turn, end of message), sorted.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.vocab.end_tokens
    }

    /// True for control and unknown tokens, which [`Tokenizer::decode`] can skip.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.vocab.is_special(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithm = match &self.algorithm {
            Algorithm::Bpe(_) => "byte-level BPE",
            Algorithm::Spm(_) => "SentencePiece BPE",
            Algorithm::Unigram(_) => "SentencePiece Unigram",
            Algorithm::Other(..) => "another library's",
            #[cfg(feature = "hf-tokenizers")]
            Algorithm::Hf(..) => "tokenizer.json",
        };
        f.debug_struct("Tokenizer")
            .field("algorithm", &algorithm)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}
