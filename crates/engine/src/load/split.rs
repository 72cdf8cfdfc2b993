//! [`GgufFile`]: a GGUF model in one file, or in the parts `NAME-00001-of-0000N.gguf` that llama.cpp's splitter writes.

use std::path::{Path, PathBuf};

use super::gguf;
use super::source::{self, Part, Store, Stored};
use super::{LoadError, Metadata, TensorInfo};

/// An opened GGUF model: all parts are mapped, and the first part's metadata is read. Vocabulary-only files can be opened, too.
#[derive(Debug)]
pub struct GgufFile {
    /// All key-value pairs.
    pub metadata: Metadata,
    /// The format's version, 2 or 3.
    pub version: u32,
    pub(super) store: Store,
}

impl GgufFile {
    /// Opens a file, or all parts of a split model if it is one of them.
    ///
    /// # Errors
    /// If a file can't be read or is malformed, a part is missing, or the parts do not belong together.
    pub fn open(path: &Path) -> Result<GgufFile, LoadError> {
        let (part, header) = read(path)?;
        let count = split_count(path, &header.metadata)?;
        let mut store = Store::default();
        if count <= 1 {
            let (metadata, version) = (header.metadata, header.version);
            store.add(part, stored(header.tensors))?;
            return Ok(GgufFile { metadata, version, store });
        }

        let names = part_names(path, count)?;
        let mut first = None;
        let mut promised = None;
        for (no, name) in names.iter().enumerate() {
            let (part, header) = read(name).map_err(|e| missing_part(e, name, count))?;
            check_part(name, &header.metadata, no as u64, count)?;
            if no == 0 {
                promised = header.metadata.u64("split.tensors.count");
                first = Some((header.metadata, header.version));
            }
            store.add(part, stored(header.tensors))?;
        }
        let found = store.tensors().len() as u64;
        if let Some(expected) = promised.filter(|&n| n != found) {
            return Err(LoadError::Split {
                path: path.to_owned(),
                expected: format!("{expected} tensors in all parts (split.tensors.count)"),
                found: found.to_string(),
            });
        }
        let (metadata, version) = first.expect("a split has at least two parts");
        Ok(GgufFile { metadata, version, store })
    }

    /// All stored tensors in file order, for listing; none in a vocabulary-only file.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.store.tensors().iter().map(TensorInfo::from).collect()
    }

    /// The files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.store.parts().iter().map(|p| p.path.as_path())
    }
}

fn read(path: &Path) -> Result<(Part, gguf::Header), LoadError> {
    let part = source::map(path)?;
    let header = gguf::parse(&part.map).map_err(|error| LoadError::Gguf { path: path.to_owned(), error })?;
    Ok((part, header))
}

fn stored(tensors: Vec<gguf::TensorHeader>) -> Vec<Stored> {
    tensors
        .into_iter()
        .map(|t| Stored { name: t.name, kind: t.kind, shape: t.shape, part: 0, range: t.range })
        .collect()
}

/// The number of parts; 1 if the file has no such key.
fn split_count(path: &Path, metadata: &Metadata) -> Result<u64, LoadError> {
    let key = "split.count";
    match (metadata.u64(key), metadata.get(key)) {
        (Some(count), _) => Ok(count),
        (None, None) => Ok(1),
        (None, Some(other)) => Err(LoadError::BadValue {
            path: path.to_owned(),
            key: key.to_owned(),
            found: other.describe(),
            expected: "a number of parts".to_owned(),
        }),
    }
}

/// The names of all parts, from the name of one.
fn part_names(path: &Path, count: u64) -> Result<Vec<PathBuf>, LoadError> {
    let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let wrong = || LoadError::Split {
        path: path.to_owned(),
        expected: format!("a file name that ends in -00001-of-{count:05}.gguf (or another part's number)"),
        found: format!("{file:?}, with split.count {count}"),
    };
    if count > 99_999 {
        return Err(wrong());
    }
    let stem = file.strip_suffix(&format!("-of-{count:05}.gguf")).ok_or_else(wrong)?;
    let (prefix, number) = stem.rsplit_once('-').ok_or_else(wrong)?;
    if number.len() != 5 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    Ok((1..=count).map(|no| path.with_file_name(format!("{prefix}-{no:05}-of-{count:05}.gguf"))).collect())
}

/// Turns the error of a missing part into one that says it is part of a split model.
fn missing_part(error: LoadError, part: &Path, count: u64) -> LoadError {
    match error {
        LoadError::Io { error, .. } if error.kind() == std::io::ErrorKind::NotFound => LoadError::Split {
            path: part.to_owned(),
            expected: format!("all {count} parts in one folder"),
            found: "no such file".to_owned(),
        },
        other => other,
    }
}

fn check_part(path: &Path, metadata: &Metadata, no: u64, count: u64) -> Result<(), LoadError> {
    for (key, expected) in [("split.no", no), ("split.count", count)] {
        let found = metadata.u64(key);
        if found != Some(expected) {
            return Err(LoadError::Split {
                path: path.to_owned(),
                expected: format!("{key} {expected}"),
                found: found.map_or("none".to_owned(), |n| n.to_string()),
            });
        }
    }
    Ok(())
}
