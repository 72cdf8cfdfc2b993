//! [`MappedFile`]: a file in memory, and whether it is still as long as when it was mapped.

use super::LoadError;
use memmap2::Mmap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// A whole file, mapped for reading. It derefs to its bytes.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    /// Open, so that its length is that of the file in the map, even if the path names another one by now.
    file: File,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// If the file can't be opened or is not a regular file.
    pub(super) fn open(path: &Path) -> Result<MappedFile, LoadError> {
        let io = |error| LoadError::Io { path: path.to_owned(), error };
        // Asked of the path, since opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let found = "it is not a regular file".into();
            return Err(LoadError::NotAModel { path: path.to_owned(), found });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is private to the process and only read. Rust cannot rule out that another process changes or
        // truncates the file meanwhile; like every program that maps its weights, we require that it doesn't. `check` finds
        // most of the cases.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(MappedFile { path: path.to_owned(), file, map })
    }

    /// Checks that the file was not cut since it was mapped: the system ends a process that reads beyond the end. To be called
    /// before reading, as close to it as possible; a file that is cut in between is not found.
    ///
    /// # Errors
    /// [`LoadError::Shrunk`]; [`LoadError::Io`] if the system does not tell the length.
    pub fn check(&self) -> Result<(), LoadError> {
        let expected = self.map.len() as u64;
        let metadata = self.file.metadata();
        let found = metadata.map_err(|error| LoadError::Io { path: self.path.clone(), error })?.len();
        if found < expected {
            return Err(LoadError::Shrunk { path: self.path.clone(), expected, found });
        }
        Ok(())
    }

    /// Releases the memory of the pages with these bytes; they are read again from the file if needed.
    pub(super) fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and read-only, so dropped pages are read again with the same bytes. If the call fails,
            // the pages stay.
            let _ = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_is_found_and_one_that_is_replaced_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        mapped.check().unwrap();
        std::fs::write(folder.path().join("other"), [8; 10]).unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        mapped.check().unwrap();
        assert_eq!(mapped[9_999], 7, "the map is of the file that was opened");
        let other = MappedFile::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(9).unwrap();
        let error = other.check().unwrap_err().to_string();
        assert!(error.contains("10 bytes") && error.contains("has 9"), "{error}");
    }
}
