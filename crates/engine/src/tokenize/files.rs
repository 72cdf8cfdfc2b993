//! Finding and telling apart tokenizer files.

use super::{TokenizeError, Tokenizer, gguf};
use crate::load::GgufFile;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Opens any tokenizer file by its content.
pub(super) fn open(path: &Path) -> Result<Tokenizer, TokenizeError> {
    let io = |source| TokenizeError::Io { path: path.to_owned(), source };
    let mut start = Vec::new();
    File::open(path).map_err(io)?.take(4).read_to_end(&mut start).map_err(io)?;
    if start == b"GGUF" {
        return gguf::read(&GgufFile::open(path)?.metadata);
    }
    Err(TokenizeError::File { path: path.to_owned(), reason: "no tokenizer file that is known".to_owned() })
}

/// Opens the tokenizer of a model's folder, if it has one.
pub(super) fn open_folder(folder: &Path) -> Result<Option<Tokenizer>, TokenizeError> {
    let _ = folder;
    Ok(None)
}
