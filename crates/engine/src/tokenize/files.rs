//! Finding tokenizer files and telling them apart.

use super::vocab::VocabBuilder;
use super::{Algorithm, TokenizeError, Tokenizer, gguf, hf, sentencepiece, tekken};
use crate::load::GgufFile;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest tokenizer file that is read; the largest published are a tenth of it.
const MAX_FILE: u64 = 512 << 20;

/// What a tokenizer file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// `tokenizer.json`
    Hf,
    /// `tekken.json`
    Tekken,
    /// `tokenizer.model`
    SentencePiece,
}

/// Opens any tokenizer file by its content. Beside a Hugging Face file, the folder's `tokenizer_config.json` and
/// others are read too.
pub(super) fn open(path: &Path) -> Result<Tokenizer, TokenizeError> {
    let io = |source| TokenizeError::Io { path: path.to_owned(), source };
    let mut start = Vec::new();
    File::open(path).map_err(io)?.take(4).read_to_end(&mut start).map_err(io)?;
    if start == b"GGUF" {
        return gguf::read(&GgufFile::open(path)?.metadata);
    }
    let bytes = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    build(kind(&bytes), &bytes, &hf::Extras::read(folder)?).map_err(|e| in_file(path, e))
}

/// Opens the tokenizer of a model's folder, if it has one.
pub(super) fn open_folder(folder: &Path) -> Result<Option<Tokenizer>, TokenizeError> {
    let Some(path) = find(folder) else { return Ok(None) };
    open(&path).map(Some)
}

/// The tokenizer file of a folder, best first: `tokenizer.json` is the most complete.
pub(super) fn find(folder: &Path) -> Option<PathBuf> {
    let names =
        ["tokenizer.json", "tekken.json", "tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v7"];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Reads a whole file, up to [`MAX_FILE`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizeError> {
    let io = |source| TokenizeError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        let reason = format!("the file is larger than {} MiB", MAX_FILE >> 20);
        return Err(TokenizeError::File { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// JSON begins with a brace; of the two JSON formats, only tekken has a `config` at the top.
pub(super) fn kind(bytes: &[u8]) -> FileKind {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        FileKind::SentencePiece
    } else if tekken::version(bytes).is_some() {
        FileKind::Tekken
    } else {
        FileKind::Hf
    }
}

fn build(kind: FileKind, bytes: &[u8], extras: &hf::Extras) -> Result<Tokenizer, TokenizeError> {
    let (mut builder, algorithm): (VocabBuilder, Algorithm) = match kind {
        FileKind::Hf => hf::read(bytes, extras)?,
        FileKind::Tekken => tekken::read(bytes)?,
        FileKind::SentencePiece => sentencepiece::read(bytes)?,
    };
    extras.apply(&mut builder)?;
    Ok(Tokenizer { vocab: builder.build()?, algorithm })
}

/// Puts the file's path in front of what is wrong with it.
fn in_file(path: &Path, error: TokenizeError) -> TokenizeError {
    match error {
        TokenizeError::Io { .. } | TokenizeError::File { .. } | TokenizeError::Load(_) => error,
        error => TokenizeError::File { path: path.to_owned(), reason: error.to_string() },
    }
}
