//! Why a tokenizer could not be read, or a text could not be encoded.

use std::path::PathBuf;

/// Maximum length of a text for [`Tokenizer::encode`](super::Tokenizer::encode), in bytes: over a hundred times what
/// any model's context holds.
pub const MAX_TEXT: usize = 256 << 20;

/// Why a tokenizer could not be read, or a text could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The file system returned an error.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A GGUF file could not be opened.
    #[error(transparent)]
    Load(#[from] crate::load::LoadError),
    /// A tokenizer's file is malformed.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has no vocabulary, or an incomplete one.
    #[error("the tokenizer has no `{key}`")]
    Missing {
        /// The missing key.
        key: &'static str,
    },
    /// A part of the vocabulary is malformed.
    #[error("tokenizer: {what}: expected {expected}, found {found}")]
    Invalid {
        /// The part: a key, or a token's number.
        what: String,
        /// The valid values.
        expected: String,
        /// The value found.
        found: String,
    },
    /// The kind of tokenizer is not supported.
    #[error("the {what} {found:?} is not supported; supported: {known}")]
    Unsupported {
        /// What is unsupported: "tokenizer model", "pre-tokenizer".
        what: &'static str,
        /// The value in the file.
        found: String,
        /// The supported values.
        known: String,
    },
    /// The crate `tokenizers`, which runs `tokenizer.json`, failed.
    #[error("tokenizer.json: {0}")]
    Tokenizers(String),
    /// The library of a [`Splitter`](super::Splitter) failed.
    #[error("tokenizer: {0}")]
    Splitter(String),
    /// The file can't be read without a feature of `zonda-engine` that is off.
    #[error("{what} needs zonda-engine's feature `{feature}`, which this program was compiled without")]
    NotCompiled {
        /// The file or part that needs it.
        what: &'static str,
        /// The feature's name.
        feature: &'static str,
    },
    /// The caller no longer wants the result ([`Bounds::abandoned`](super::Bounds::abandoned)).
    #[error("the encoding was abandoned")]
    Abandoned,
    /// The text certainly has more tokens than [`Bounds::most`](super::Bounds::most).
    #[error("the text has {bytes} bytes, which are at least {least} tokens; expected at most {most} tokens")]
    TooManyTokens {
        /// The length of the text in bytes.
        bytes: usize,
        /// The text has at least this many tokens.
        least: usize,
        /// The most that were expected.
        most: usize,
    },
    /// The text is longer than [`MAX_TEXT`].
    #[error("the text has {bytes} bytes; at most {} can be tokenised at once", MAX_TEXT)]
    TextTooLong {
        /// The length of the text in bytes.
        bytes: usize,
    },
}

impl TokenizeError {
    /// Creates a [`TokenizeError::Invalid`].
    pub(crate) fn invalid(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> TokenizeError {
        TokenizeError::Invalid { what: what.into(), expected: expected.into(), found: found.into() }
    }
}

/// The beginning of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
