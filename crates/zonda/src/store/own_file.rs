//! The store's own files, such as locks and unfinished downloads, which are opened without following links.

use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

/// Opens one of our own files for reading and writing, and creates it if it is missing. Its content is kept.
///
/// # Errors
/// If there is a symbolic link, a device or a FIFO in its place; the file system's errors.
pub(super) fn open_own(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // Follows no link, and fails if the file exists.
    let made = options.clone().create_new(true).open(path);
    if !made.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists) {
        return made;
    }
    let refused = || {
        std::io::Error::new(
            ErrorKind::InvalidInput,
            "expected a regular file, found a link or a special file",
        )
    };
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Err(refused());
    }
    let file = options.open(path)?;
    if is_same(&found, &file.metadata()?) { Ok(file) } else { Err(refused()) }
}

/// Whether both metadata belong to the same file, which may have been replaced in between.
#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, b: &Metadata) -> bool {
    b.is_file()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("other"), "kept").unwrap();
        symlink(at("other"), at("link")).unwrap();
        symlink(at("new"), at("dangling")).unwrap();
        for name in ["link", "dangling", "."] {
            assert!(open_own(&at(name)).is_err(), "{name}");
        }
        assert_eq!(std::fs::read(at("other")).unwrap(), b"kept");
        assert!(!at("new").exists());
        open_own(&at("other")).unwrap();
        assert_eq!(std::fs::read(at("other")).unwrap(), b"kept");
        open_own(&at("made")).unwrap();
    }
}
