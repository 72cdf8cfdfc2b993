//! The files of a model: their hashes, and how much of them the page cache holds.

use crate::record::results::{Hashed, ModelFile};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use zonda_machine::page_cache;
pub use zonda_machine::page_cache::cached_share;

/// For files larger than this only both ends are hashed, since hashing 14 GB would take longer than the measurement.
const HASH_ALL: u64 = 1 << 30;
/// Bytes hashed at each end of such a file.
const HASH_END: u64 = 16 << 20;
/// Maximum number of files per model.
const MOST_FILES: usize = 4096;

/// The files that hold a model, in name order: the file itself (with the other parts of a split GGUF), or the
/// folder's `.safetensors` and `config.json`.
///
/// # Errors
/// If the path can't be read.
pub fn of_model(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let wanted: Box<dyn Fn(&str) -> bool> = if path.is_dir() {
        Box::new(|name| name.ends_with(".safetensors") || ["config.json", "params.json"].contains(&name))
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match split_stem(&name) {
            Some((stem, count)) => {
                Box::new(move |other| split_stem(other).is_some_and(|(s, c)| s == stem && c == count))
            }
            None => {
                fs::metadata(path)?;
                return Ok(vec![path.to_owned()]);
            }
        }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(MOST_FILES) {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// `(stem, count)` of a split GGUF's part, `stem-00001-of-00003.gguf`.
fn split_stem(name: &str) -> Option<(String, String)> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (digits(part) && digits(count)).then(|| (stem.to_owned(), count.to_owned()))
}

/// Hashes a model's file.
///
/// # Errors
/// If it can't be read.
pub fn describe(path: &Path) -> io::Result<ModelFile> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut hash = Sha256::new();
    let hashed = if bytes <= HASH_ALL {
        io::copy(&mut file, &mut HashWriter(&mut hash))?;
        Hashed::All
    } else {
        io::copy(&mut (&mut file).take(HASH_END), &mut HashWriter(&mut hash))?;
        file.seek(SeekFrom::End(-(HASH_END as i64)))?;
        io::copy(&mut file, &mut HashWriter(&mut hash))?;
        Hashed::Ends
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelFile { name, bytes, sha256: hex(hash), hashed })
}

/// SHA-256 of token ids as little-endian `u32`, in hexadecimal: equal only for equal prompts.
pub fn hash_ids(ids: &[u32]) -> String {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    hex(hash)
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the system to drop the files from the page cache. It may not comply; [`cached_share`] shows the result.
pub fn drop_from_cache(files: &[PathBuf]) {
    for path in files {
        if let Err(error) = page_cache::evict(path) {
            tracing::debug!(path = %path.display(), %error, "could not drop a file from the page cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &Path, names: &[&str]) {
        for name in names {
            fs::write(dir.join(name), name).unwrap();
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let files = of_model(path).unwrap();
        files.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_models_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        touch(dir.path(), &parts);
        touch(dir.path(), &["m-00001-of-00003.gguf", "n-00001-of-00002.gguf", "one.gguf", "readme.md"]);
        touch(dir.path(), &["b.safetensors", "a.safetensors", "config.json", "tokenizer.json"]);
        assert_eq!(names(&dir.path().join("one.gguf")), ["one.gguf"]);
        assert_eq!(names(&dir.path().join(parts[1])), parts);
        assert_eq!(names(dir.path()), ["a.safetensors", "b.safetensors", "config.json"]);
        assert!(of_model(&dir.path().join("none.gguf")).is_err());
    }

    #[test]
    fn a_hash_is_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc.gguf");
        fs::write(&path, "abc").unwrap();
        let file = describe(&path).unwrap();
        assert_eq!((file.name.as_str(), file.bytes, file.hashed), ("abc.gguf", 3, Hashed::All));
        // The test vector of FIPS 180-2, appendix B.1.
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_ne!(hash_ids(&[1, 2]), hash_ids(&[2, 1]));
    }

    #[test]
    fn both_ends_of_a_huge_file_are_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.gguf");
        // A sparse file, which takes no disk space.
        let file = File::create(&path).unwrap();
        file.set_len(HASH_ALL + 1).unwrap();
        let zeros = describe(&path).unwrap();
        assert_eq!((zeros.bytes, zeros.hashed), (HASH_ALL + 1, Hashed::Ends));
        let write = |at: u64| {
            let mut file = &file;
            file.seek(SeekFrom::Start(at)).unwrap();
            io::Write::write_all(&mut file, b"x").unwrap();
            describe(&path).unwrap().sha256
        };
        assert_eq!(write(HASH_ALL / 2), zeros.sha256, "the middle is not read");
        let last = write(HASH_ALL);
        assert_ne!(last, zeros.sha256);
        assert_ne!(write(0), last);
    }
}
