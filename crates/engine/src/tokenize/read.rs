//! Reads a tokenizer's files, up to 512 MiB each.

use super::error::TokenizeError;
use crate::files::open_regular;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Maximum size of a tokenizer file; the largest published ones have a tenth of it.
const MAX_FILE: u64 = 512 << 20;

/// Reads a whole file, up to [`MAX_FILE`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TokenizeError> {
    let io = |source| TokenizeError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    open_regular(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        let reason = format!("the file is larger than {} MiB", MAX_FILE >> 20);
        return Err(TokenizeError::File { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// A JSON file's content; null if there is no file.
pub(super) fn json(path: &Path) -> Result<Value, TokenizeError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(path)?)
        .map_err(|e| TokenizeError::File { path: path.to_owned(), reason: format!("not valid JSON: {e}") })
}
