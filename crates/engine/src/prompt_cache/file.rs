//! One entry on disk: its identity, the tokens, and their keys and values in the backend's layout.
//!
//! ```text
//! "ZONDAKV1"             8 bytes
//! checksum               u32: CRC-32 of all that follows
//! identity               u32 length, UTF-8: backend, KV type, model
//! tokens                 u64 count, u32 each
//! keys and values        u64 length, bytes (the backend's own layout, which says its version)
//! ```
//! Integers are little-endian. A file is written under a temporary name and then renamed, so it is complete or absent.

use crate::TokenId;
use crate::files;
use memmap2::Mmap;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ZONDAKV1";
/// Prefix of temporary files.
pub(super) const TEMPORARY: &str = ".zonda-prompt-";

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message names its fields
#[non_exhaustive]
pub enum CacheError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: not a prompt cache: expected it to begin with ZONDAKV1")]
    NotACache { path: PathBuf },
    #[error("{path}: the file has the wrong size: expected {expected} bytes, found {found}")]
    Truncated { path: PathBuf, expected: u64, found: u64 },
    #[error("{path}: the checksum is {found:08x}, expected {expected:08x}: the file is damaged")]
    Damaged { path: PathBuf, expected: u32, found: u32 },
    #[error("{path}: made with another model, backend or KV type: {found}; expected {expected}")]
    Foreign { path: PathBuf, expected: String, found: String },
}

impl CacheError {
    /// True if something else is there, which must not be overwritten.
    pub(super) fn is_taken(&self) -> bool {
        match self {
            CacheError::Io { error, .. } => error.kind() == io::ErrorKind::InvalidInput,
            error => matches!(error, CacheError::NotACache { .. }),
        }
    }
}

/// An entry's mapped file. Opening reads its header; [`CacheEntry::verify`] checks all of it.
#[derive(Debug)]
pub(super) struct CacheEntry {
    path: PathBuf,
    map: Mmap,
    pub tokens: Vec<TokenId>,
    payload: Range<usize>,
}

impl CacheEntry {
    /// Maps a file and reads everything except keys and values. `None`: the file is missing or empty.
    ///
    /// # Errors
    /// If it is not an entry, is incomplete, or has another identity.
    pub fn open(path: &Path, identity: &str) -> Result<Option<CacheEntry>, CacheError> {
        let io = |error| CacheError::Io { path: path.to_owned(), error };
        let file = match files::open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        match file.metadata().map_err(io)?.len() {
            0 => return Ok(None),
            bytes if bytes < (MAGIC.len() + 4) as u64 => {
                return Err(CacheError::NotACache { path: path.to_owned() });
            }
            _ => {}
        }
        // SAFETY: this program replaces entries by renaming and never writes them in place. As with model files, another program
        // that truncates a mapped file ends this process (SIGBUS).
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let mut at = MAGIC.len() + 4;
        if !map.starts_with(MAGIC) {
            return Err(CacheError::NotACache { path: path.to_owned() });
        }
        let truncated = |expected: usize| CacheError::Truncated {
            path: path.to_owned(),
            expected: expected as u64,
            found: map.len() as u64,
        };
        let mut take = |bytes: usize| -> Result<Range<usize>, CacheError> {
            let end = at.checked_add(bytes).filter(|&end| end <= map.len());
            let range = at..end.ok_or_else(|| truncated(at.saturating_add(bytes)))?;
            at = range.end;
            Ok(range)
        };
        let count = |range: Range<usize>| {
            let bytes = &map[range];
            let value = bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
            usize::try_from(value).unwrap_or(usize::MAX)
        };
        let length = count(take(4)?);
        let found = String::from_utf8_lossy(&map[take(length)?]).into_owned();
        if found != identity {
            return Err(CacheError::Foreign { path: path.to_owned(), expected: identity.to_owned(), found });
        }
        let tokens = count(take(8)?).saturating_mul(4);
        let tokens = map[take(tokens)?].chunks_exact(4);
        let tokens = tokens.map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let length = count(take(8)?);
        let payload = take(length)?;
        if payload.end != map.len() {
            return Err(truncated(payload.end));
        }
        Ok(Some(CacheEntry { path: path.to_owned(), map, tokens, payload }))
    }

    /// The keys and values, after checking the checksum.
    ///
    /// # Errors
    /// [`CacheError::Damaged`].
    pub fn verify(&self) -> Result<&[u8], CacheError> {
        // all of it is about to be read, here and by the backend
        #[cfg(unix)]
        self.map.advise(memmap2::Advice::WillNeed).ok();
        let head = &self.map[MAGIC.len()..MAGIC.len() + 4];
        let expected = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let found = crc32fast::hash(&self.map[MAGIC.len() + 4..]);
        if found != expected {
            return Err(CacheError::Damaged { path: self.path.clone(), expected, found });
        }
        Ok(&self.map[self.payload.clone()])
    }
}

/// Size of an entry's file in bytes.
pub(super) fn bytes(identity: &str, tokens: usize, payload: usize) -> u64 {
    (MAGIC.len() + 4 + 4 + identity.len() + 8 + 4 * tokens + 8 + payload) as u64
}

/// Writes an entry under a temporary name, then renames it.
///
/// # Errors
/// The system's; no temporary file is left.
pub(super) fn write(path: &Path, identity: &str, tokens: &[TokenId], payload: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(identity.len() + 4 * tokens.len() + 20);
    head.extend((identity.len() as u32).to_le_bytes());
    head.extend(identity.as_bytes());
    head.extend((tokens.len() as u64).to_le_bytes());
    head.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    head.extend((payload.len() as u64).to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    checksum.update(payload);
    // A device or a FIFO holds no entry, and what is renamed onto it would take its place.
    let path = files::replaced(path)?.ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = files::temporary().prefix(TEMPORARY).tempfile_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary);
    out.write_all(MAGIC)?;
    out.write_all(&checksum.finalize().to_le_bytes())?;
    out.write_all(&head)?;
    out.write_all(payload)?;
    out.into_inner().map_err(|e| e.into_error())?.persist(path)?;
    Ok(())
}
