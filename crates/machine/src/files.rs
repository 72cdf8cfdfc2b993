//! Reading the small text files in which Linux describes the machine (`/proc`, `/sys`).

use std::fs;
use std::path::Path;

/// A file's text without surrounding white space; `None` if it can't be read or is empty.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// A file that holds one number.
pub(crate) fn number(path: impl AsRef<Path>) -> Option<u64> {
    line(path)?.parse().ok()
}
