//! Files and folders of the store: their sizes, whether they are complete, and removing them.

use super::manifest::{Manifest, gguf_models};
#[cfg(feature = "hub")]
use super::{checksum::sha256_of, manifest::StoredFile, progress::Progress};
use crate::error::{At as _, Detail, Error, Result};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
pub(super) fn is_undamaged(manifest: &Manifest, dir: &Path, progress: &dyn Progress) -> bool {
    let whole = |f: &StoredFile| sha256_of(&dir.join(&f.path), progress).is_ok_and(|s| s == f.sha256);
    manifest.complete(dir) && manifest.files.iter().all(whole)
}

/// Bytes of each GGUF model, by the path of its first part.
pub(super) fn split_bytes(manifest: &Manifest) -> HashMap<String, u64> {
    let files = manifest.by_path();
    let size = |part: &String| files.get(part.as_str()).map_or(0, |file| file.bytes);
    let models = gguf_models(files.keys().copied());
    models.into_iter().map(|parts| (parts[0].clone(), parts.iter().map(size).sum())).collect()
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

/// Removes a folder that contains only the lock, and its parent if that is then empty. A failed pull leaves either
/// nothing or partial files, with which the next pull continues.
#[cfg(feature = "hub")]
pub(super) fn remove_if_empty(dir: &Path) {
    let holds = |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| e.file_name() != ".lock");
    if std::fs::read_dir(dir).is_ok_and(|mut entries| !entries.any(holds)) {
        let _ = std::fs::remove_dir_all(dir);
        let _ = dir.parent().map(std::fs::remove_dir); // fails, as intended, if the parent contains anything else
    }
}

/// Removes a file below `dir`; it is not an error if there is none. `relative` is a manifest's path, so it contains no
/// `..`.
///
/// # Errors
/// [`Error::Store`] if a symbolic link leads out of the folder; [`Error::Io`].
pub(super) fn remove_within(dir: &Path, relative: &str) -> Result<()> {
    let path = dir.join(relative);
    let inside = || Ok(path.parent().unwrap_or(dir).canonicalize()?.starts_with(dir.canonicalize()?));
    let removed = match inside() {
        Ok(true) => std::fs::remove_file(&path),
        Ok(false) => {
            let detail = Detail::new(format!("{} leads out of {}", path.display(), dir.display()));
            return Err(Error::Store(detail.advise("remove the symbolic link in this path")));
        }
        Err(error) => Err(error),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).at(&path),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (store, other) = (dir.path().join("store"), dir.path().join("other"));
        std::fs::create_dir_all(&store).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("kept"), "kept").unwrap();

        symlink(&other, store.join("sub")).unwrap();
        let error = remove_within(&store, "sub/kept").unwrap_err().to_string();
        assert!(error.contains("leads out of"), "{error}");
        symlink(other.join("kept"), store.join("link")).unwrap();
        remove_within(&store, "link").unwrap();
        remove_within(&store, "link").unwrap();
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
        assert_eq!(std::fs::read(other.join("kept")).unwrap(), b"kept");
    }
}
