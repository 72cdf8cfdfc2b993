//! Writes files while computing their SHA-256, and moves them into place only if size and checksum are right.

use super::progress::{Progress, check};
use crate::error::{At as _, Result};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
#[cfg(feature = "hub")]
use {
    super::own_file::open_own,
    crate::error::{Detail, Error},
    std::io::{Seek as _, SeekFrom, Write as _},
    std::path::PathBuf,
};

/// The expected size and checksum of a file.
#[cfg(feature = "hub")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its size.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hex.
    pub sha256: Option<String>,
}

/// A file that is downloaded beside its destination, as `NAME.KEY.part`. The bytes of an earlier attempt are kept.
#[cfg(feature = "hub")]
pub struct Partial {
    file: File,
    path: PathBuf,
    dest: PathBuf,
    hasher: Sha256,
    len: u64,
    restarts: u32,
}

#[cfg(feature = "hub")]
impl Partial {
    /// Opens or creates the partial file of `dest`. `key` identifies the version of the file, so that two versions are
    /// never mixed.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Cancelled`].
    pub fn open(dest: &Path, key: &str, progress: &dyn Progress) -> Result<Partial> {
        let mut name = dest.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{key}.part"));
        let path = dest.with_file_name(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).at(dir)?;
        }
        let mut file = open_own(&path).at(&path)?;
        let mut hasher = Sha256::new();
        let len = hash_into(&mut file, &path, &mut hasher, progress)?;
        Ok(Partial { file, path, dest: dest.to_owned(), hasher, len, restarts: 0 })
    }

    /// The number of bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How often the bytes were discarded to start over.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Discards the bytes and starts over.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn reset(&mut self) -> Result<()> {
        self.file.set_len(0).at(&self.path)?;
        self.file.seek(SeekFrom::Start(0)).at(&self.path)?;
        self.hasher = Sha256::new();
        self.restarts += u32::from(self.len > 0);
        self.len = 0;
        Ok(())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at(&self.path)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the bytes and moves the file into place. Returns the SHA-256. A file that fails the check is deleted.
    ///
    /// # Errors
    /// [`Error::Damaged`] if size or checksum are not as expected; [`Error::Io`].
    pub fn finish(self, expected: &Expected) -> Result<String> {
        let Partial { file, path, dest, hasher, len, .. } = self;
        let sha256 = hex(&hasher.finalize());
        let name = dest.display();
        let wrong = match expected {
            Expected { bytes: Some(bytes), .. } if *bytes != len => {
                Some(format!("{name}: expected {bytes} bytes, found {len}"))
            }
            Expected { sha256: Some(wanted), .. } if *wanted != sha256 => {
                Some(format!("{name}: expected SHA-256 {wanted}, found {sha256}"))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            drop(file);
            std::fs::remove_file(&path).at(&path)?;
            return Err(Error::Damaged(Detail::new(wrong).advise(
                "the damaged file was deleted; pull it again; if that fails too, the source is damaged",
            )));
        }
        file.sync_all().at(&path)?;
        drop(file);
        std::fs::rename(&path, &dest).at(&dest)?;
        Ok(sha256)
    }
}

/// The SHA-256 of a file, in lower-case hex.
///
/// # Errors
/// [`Error::Io`]; [`Error::Cancelled`].
pub fn sha256_of(path: &Path, progress: &dyn Progress) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = zonda_engine::files::open_regular(path).at(path)?;
    hash_into(&mut file, path, &mut hasher, progress)?;
    Ok(hex(&hasher.finalize()))
}

fn hash_into(file: &mut File, path: &Path, hasher: &mut Sha256, progress: &dyn Progress) -> Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut len = 0;
    loop {
        check(progress)?;
        let n = file.read(&mut buffer).at(path)?;
        if n == 0 {
            return Ok(len);
        }
        hasher.update(&buffer[..n]);
        len += n as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::super::progress::Silent;
    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn expected(bytes: u64, sha256: &str) -> Expected {
        Expected { bytes: Some(bytes), sha256: Some(sha256.to_owned()) }
    }

    #[test]
    fn a_file_written_in_two_sittings_is_checked_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("deep/er/file");
        let mut partial = Partial::open(&dest, "k", &Silent).unwrap();
        partial.append(b"ab").unwrap();
        drop(partial);
        assert!(!dest.exists());

        let mut partial = Partial::open(&dest, "k", &Silent).unwrap();
        assert_eq!(partial.len(), 2);
        partial.append(b"c").unwrap();
        assert_eq!(partial.finish(&expected(3, ABC)).unwrap(), ABC);
        assert_eq!(std::fs::read(&dest).unwrap(), b"abc");
        assert_eq!(sha256_of(&dest, &Silent).unwrap(), ABC);
        assert_eq!(std::fs::read_dir(dest.parent().unwrap()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn another_version_does_not_reuse_the_partial_file() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("file");
        Partial::open(&dest, "one", &Silent).unwrap().append(b"xx").unwrap();
        assert_eq!(Partial::open(&dest, "two", &Silent).unwrap().len(), 0);
    }

    #[test]
    fn a_wrong_file_goes_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("file");
        std::fs::write(&dest, "old").unwrap();
        for (bytes, sha256, says) in
            [(4, ABC, "expected 4 bytes, found 3"), (3, "00", "expected SHA-256 00, found ba78")]
        {
            let mut partial = Partial::open(&dest, "k", &Silent).unwrap();
            partial.append(b"abc").unwrap();
            let error = partial.finish(&expected(bytes, sha256)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert_eq!(std::fs::read(&dest).unwrap(), b"old");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn starting_over_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(&dir.path().join("file"), "k", &Silent).unwrap();
        partial.append(b"something else, longer").unwrap();
        partial.reset().unwrap();
        partial.append(b"abc").unwrap();
        partial.finish(&expected(3, ABC)).unwrap();
    }
}
