//! Opens tokenizers: finds their files and detects their format.

use super::error::TokenizeError;
use super::read::read;
use super::settings::Settings;
use super::splitter::Splitter;
use super::tokenizer::{Algorithm, Tokenizer};
use super::vocab::VocabBuilder;
use super::{gguf, sentencepiece, tekken};
use crate::load::{Format, GgufFile, Metadata, Model};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The format of a tokenizer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// `tokenizer.json`
    Hf,
    /// `tekken.json`
    Tekken,
    /// `tokenizer.model`
    SentencePiece,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*`).
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizeError> {
        gguf::read(metadata)
    }

    /// A tokenizer in a GGUF file's metadata of a kind that [`Tokenizer::from_gguf`] does not read. A library that does gives each
    /// token's bytes, `[tokens]`, and splits text; special tokens, ends and BOS are found as for every tokenizer.
    ///
    /// # Errors
    /// If the vocabulary is malformed, or does not have as many tokens as `pieces`.
    pub fn from_gguf_with(
        metadata: &Metadata,
        pieces: Vec<Vec<u8>>,
        splitter: Box<dyn Splitter>,
    ) -> Result<Tokenizer, TokenizeError> {
        gguf::read_with(metadata, pieces, splitter)
    }

    /// The tokenizer in a file: a GGUF file (also one with only a vocabulary), `tokenizer.json`, a SentencePiece
    /// `tokenizer.model` or a `tekken.json`. The format is detected from the content.
    pub fn from_file(path: &Path) -> Result<Tokenizer, TokenizeError> {
        open(path)
    }

    /// The tokenizer in a model's folder; `None` if there is none.
    pub fn from_folder(folder: &Path) -> Result<Option<Tokenizer>, TokenizeError> {
        open_folder(folder)
    }

    /// An opened model's tokenizer: from its GGUF metadata or its folder. `None` if there is none.
    pub fn for_model(model: &Model) -> Result<Option<Tokenizer>, TokenizeError> {
        match (model.format, model.folder()) {
            (Format::Gguf, _) if gguf::has_vocabulary(&model.metadata) => {
                gguf::read(&model.metadata).map(Some)
            }
            (_, None) => Ok(None),
            (_, Some(folder)) => open_folder(folder),
        }
    }
}

/// Opens any tokenizer file by its content. In a model's folder, it also reads `tokenizer_config.json` and other
/// settings.
fn open(path: &Path) -> Result<Tokenizer, TokenizeError> {
    let io = |source| TokenizeError::Io { path: path.to_owned(), source };
    let mut start = Vec::new();
    crate::files::open_regular(path).map_err(io)?.take(4).read_to_end(&mut start).map_err(io)?;
    if start == b"GGUF" {
        return gguf::read(&GgufFile::open(path)?.metadata);
    }
    let bytes = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    build(kind(&bytes), &bytes, &Settings::read(folder)?).map_err(|e| in_file(path, e))
}

/// Opens the tokenizer of a model's folder, if it has one.
fn open_folder(folder: &Path) -> Result<Option<Tokenizer>, TokenizeError> {
    let Some(path) = find(folder) else { return Ok(None) };
    open(&path).map(Some)
}

/// The preferred tokenizer file of a folder: `tokenizer.json` is the most complete.
pub(super) fn find(folder: &Path) -> Option<PathBuf> {
    let names = [
        "tokenizer.json",
        "tekken.json",
        "tokenizer.model",
        "tokenizer.model.v1",
        "tokenizer.model.v2",
        "tokenizer.model.v3",
        "tokenizer.model.v7",
        "tokenizer.model.v7m1",
    ];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// JSON begins with a brace. Of the two JSON formats, only tekken has a top-level `config`.
pub(super) fn kind(bytes: &[u8]) -> FileKind {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        FileKind::SentencePiece
    } else if tekken::head(bytes).is_some() {
        FileKind::Tekken
    } else {
        FileKind::Hf
    }
}

fn build(kind: FileKind, bytes: &[u8], settings: &Settings) -> Result<Tokenizer, TokenizeError> {
    let (mut builder, algorithm): (VocabBuilder, Algorithm) = match kind {
        FileKind::Hf => hugging_face(bytes, settings)?,
        FileKind::Tekken => tekken::read(bytes)?,
        FileKind::SentencePiece => sentencepiece::read(bytes)?,
    };
    settings.apply(&mut builder)?;
    Ok(Tokenizer { vocab: builder.build()?, algorithm })
}

#[cfg(feature = "hf-tokenizers")]
fn hugging_face(bytes: &[u8], settings: &Settings) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    super::hf::read(bytes, settings)
}

#[cfg(not(feature = "hf-tokenizers"))]
fn hugging_face(_: &[u8], _: &Settings) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    Err(TokenizeError::NotCompiled { what: "tokenizer.json", feature: "hf-tokenizers" })
}

/// Adds the file's path to an error.
fn in_file(path: &Path, error: TokenizeError) -> TokenizeError {
    match error {
        TokenizeError::Io { .. } | TokenizeError::File { .. } | TokenizeError::Load(_) => error,
        error => TokenizeError::File { path: path.to_owned(), reason: error.to_string() },
    }
}
