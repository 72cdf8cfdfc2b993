//! Replaces `cache` without the feature `hub`: the Hub's own cache folder is not read.

use std::path::PathBuf;

/// No files.
pub(super) fn cached(_repo: &str, _file: Option<&str>) -> Vec<PathBuf> {
    Vec::new()
}

/// No models.
pub(super) fn cached_models() -> Vec<(String, Vec<PathBuf>)> {
    Vec::new()
}
