//! Files and folders of the store: their sizes, whether they are complete, and removing them.

use super::manifest::{Manifest, gguf_models};
#[cfg(feature = "hub")]
use super::{checksum::sha256_of, manifest::StoredFile, progress::Progress};
use crate::error::{At as _, Result};
use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
pub(super) fn is_undamaged(manifest: &Manifest, dir: &Path, progress: &dyn Progress) -> bool {
    let whole = |f: &StoredFile| sha256_of(&dir.join(&f.path), progress).is_ok_and(|s| s == f.sha256);
    manifest.complete(dir) && manifest.files.iter().all(whole)
}

/// Bytes of the GGUF model whose first part is `file`.
pub(super) fn split_bytes(manifest: &Manifest, file: &str) -> u64 {
    let models = gguf_models(manifest.files.iter().map(|f| f.path.as_str()));
    let parts = models.into_iter().find(|parts| parts[0] == file).unwrap_or_default();
    manifest.files.iter().filter(|f| parts.contains(&f.path)).map(|f| f.bytes).sum()
}

/// Size of a file, or of the files below a folder (symbolic links followed one level: the Hub's cache uses them).
pub(super) fn bytes_at(path: &Path) -> u64 {
    if !path.is_dir() {
        return path.metadata().map_or(0, |m| m.len());
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|e| {
            let is_real_dir = e.file_type().is_ok_and(|t| t.is_dir());
            if is_real_dir { bytes_at(&e.path()) } else { e.path().metadata().map_or(0, |m| m.len()) }
        })
        .sum()
}

pub(super) fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut dirs: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs
}

/// Removes a folder that contains nothing but the lock, and its parent if that is empty then. A failed pull leaves partial
/// files, to continue with, or nothing.
#[cfg(feature = "hub")]
pub(super) fn remove_if_empty(dir: &Path) {
    let holds = |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| e.file_name() != ".lock");
    if std::fs::read_dir(dir).is_ok_and(|mut entries| !entries.any(holds)) {
        let _ = std::fs::remove_dir_all(dir);
        let _ = dir.parent().map(std::fs::remove_dir); // fails, as it should, on a parent that contains others
    }
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(path),
        _ => Ok(()),
    }
}
