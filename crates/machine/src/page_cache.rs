//! The system's page cache: how much of a file it holds, and dropping a file from it. Linux only.

use crate::sys;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The share of some files' bytes that the page cache holds, 0 to 1; `None` if unknown.
pub fn cached_share(files: &[PathBuf]) -> Option<f64> {
    let (mut resident, mut all) = (0usize, 0usize);
    for path in files {
        let (r, a) = File::open(path).and_then(|file| sys::resident_pages(&file)).ok()?;
        resident += r;
        all += a;
    }
    (all > 0).then(|| resident as f64 / all as f64)
}

/// Asks the system to drop a file from the page cache. It may not comply; [`cached_share`] shows the result.
///
/// # Errors
/// If the file can't be opened, or the system has no such call.
pub fn evict(path: &Path) -> io::Result<()> {
    sys::evict(&File::open(path)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_just_read_is_cached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.gguf");
        std::fs::write(&path, vec![7u8; 100_000]).unwrap();
        let _ = std::fs::read(&path).unwrap();
        assert_eq!(cached_share(std::slice::from_ref(&path)), Some(1.0));
        evict(&path).unwrap();
        assert!(evict(&dir.path().join("missing")).is_err());
        assert_eq!(cached_share(&[]), None);
    }
}
