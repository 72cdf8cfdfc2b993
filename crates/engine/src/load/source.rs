//! [`Store`]: the mapped files of a model and the tensors in them, for all formats.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zonda_kernels::DType;

use super::dtypes::{StoredType, runnable};
use super::mapped::MappedFile;
use super::tensor::Data;
use super::{LoadError, Tensor};

/// One tensor as a file describes it; the range has been checked against the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub kind: StoredType,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// The index of its file.
    pub part: usize,
    /// The byte range in that file; `None` for types of unknown size.
    pub range: Option<Range<usize>>,
}

/// A stored tensor, for listing.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// How values are stored.
    pub dtype: StoredType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes in the file; `None` for types whose size is unknown.
    pub bytes: Option<u64>,
}

impl From<&Stored> for TensorInfo {
    fn from(t: &Stored) -> TensorInfo {
        TensorInfo {
            name: t.name.clone(),
            dtype: t.kind.clone(),
            shape: t.shape.clone(),
            bytes: t.range.as_ref().map(|r| r.len() as u64),
        }
    }
}

/// One mapped file.
#[derive(Debug)]
pub(super) struct Part {
    pub path: PathBuf,
    pub map: Arc<MappedFile>,
}

/// All files of a model, with their tensors in file order.
#[derive(Debug, Default)]
pub(super) struct Store {
    parts: Vec<Part>,
    tensors: Vec<Stored>,
    index: HashMap<String, usize>,
}

impl Store {
    /// Adds a file and its tensors (whose `part` is set here).
    pub fn add(&mut self, part: Part, tensors: Vec<Stored>) -> Result<(), LoadError> {
        for mut tensor in tensors {
            tensor.part = self.parts.len();
            match self.index.entry(tensor.name.clone()) {
                Entry::Occupied(_) => {
                    return Err(LoadError::DuplicateTensor { path: part.path, tensor: tensor.name });
                }
                Entry::Vacant(slot) => slot.insert(self.tensors.len()),
            };
            self.tensors.push(tensor);
        }
        self.parts.push(part);
        Ok(())
    }

    /// In a model that also reads images, keeps only the tensors of the text part, with the names that they have in a
    /// text-only model. Returns the number of other tensors.
    pub fn keep_text_part(&mut self) -> usize {
        self.retain(|stored| {
            if let Some(rest) = stored.name.strip_prefix("model.language_model.") {
                stored.name = format!("model.{rest}");
            } else if let Some(rest) = stored.name.strip_prefix("language_model.") {
                stored.name = rest.to_owned();
            }
            let name = stored.name.strip_prefix("model.").unwrap_or(&stored.name);
            !["vision_tower.", "vision_model.", "multi_modal_projector."]
                .iter()
                .any(|part| name.starts_with(part))
        })
    }

    /// Drops the tensors of some layers, whose names begin with `prefix` and their number. Returns how many there were.
    pub fn drop_layers(&mut self, prefix: &str, layers: Range<usize>) -> usize {
        self.retain(|stored| {
            let layer =
                stored.name.strip_prefix(prefix).and_then(|rest| rest.split('.').next()?.parse().ok());
            layer.is_none_or(|layer| !layers.contains(&layer))
        })
    }

    /// Keeps the tensors for which `keep`, which may rename them, returns true. Returns the number of others.
    pub fn retain(&mut self, keep: impl FnMut(&mut Stored) -> bool) -> usize {
        let all = self.tensors.len();
        self.tensors.retain_mut(keep);
        self.index = self.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        all - self.tensors.len()
    }

    pub fn tensors(&self) -> &[Stored] {
        &self.tensors
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The file that contains a tensor.
    pub fn path_of(&self, stored: &Stored) -> &Path {
        &self.parts[stored.part].path
    }

    /// The bytes of a tensor, or of a part of it ([`Store::part`]), whatever its type.
    pub fn data(&self, stored: &Stored, plane: Option<usize>, rows: Option<Range<usize>>) -> Option<Data> {
        let range = part_of(stored, stored.range.clone()?, plane, rows)?;
        Some(Data::Mapped(Arc::clone(&self.parts[stored.part].map), range))
    }

    /// A part of a tensor: plane `plane` along the first dimension, one expert of several, and of that or of the whole some
    /// rows.
    pub fn part(
        &self,
        stored: &Stored,
        plane: Option<usize>,
        rows: Option<Range<usize>>,
    ) -> Result<Tensor, LoadError> {
        let (dtype, whole) = self.runnable(stored)?;
        let mut shape = stored.shape[usize::from(plane.is_some())..].to_vec();
        shape.first_mut().into_iter().zip(&rows).for_each(|(first, rows)| *first = rows.len());
        let name = match (plane, &rows) {
            (None, None) => stored.name.clone(),
            (None, Some(rows)) => format!("{}[{}..{}]", stored.name, rows.start, rows.end),
            (Some(index), None) => format!("{}[{index}]", stored.name),
            (Some(index), Some(rows)) => format!("{}[{index}, {}..{}]", stored.name, rows.start, rows.end),
        };
        // a vector of a type with blocks has no rows to split
        let range = part_of(stored, whole, plane, rows).ok_or_else(|| self.unsupported(stored))?;
        Ok(Tensor::mapped(name, dtype, shape, Arc::clone(&self.parts[stored.part].map), range))
    }

    /// A tensor's type.
    pub fn dtype(&self, stored: &Stored) -> Result<DType, LoadError> {
        Ok(self.runnable(stored)?.0)
    }

    fn runnable(&self, stored: &Stored) -> Result<(DType, Range<usize>), LoadError> {
        match (stored.kind.runs(), &stored.range) {
            (Some(dtype), Some(range)) => Ok((dtype, range.clone())),
            _ => Err(self.unsupported(stored)),
        }
    }

    fn unsupported(&self, stored: &Stored) -> LoadError {
        LoadError::UnsupportedType {
            path: self.path_of(stored).to_owned(),
            tensor: stored.name.clone(),
            found: stored.kind.to_string(),
            runs: runnable(),
        }
    }
}

/// The bytes of plane `plane` of a tensor in `range`, and of that the rows `rows`. `None`: it has no such part.
fn part_of(
    stored: &Stored,
    mut range: Range<usize>,
    plane: Option<usize>,
    rows: Option<Range<usize>>,
) -> Option<Range<usize>> {
    let mut shape = &stored.shape[..];
    let mut cut = |shape: &[usize], part: Range<usize>| {
        let count = *shape.first().filter(|&&n| part.end <= n && range.len().is_multiple_of(n))?;
        let bytes = range.len() / count;
        range = range.start + part.start * bytes..range.start + part.end * bytes;
        Some(())
    };
    if let Some(index) = plane {
        cut(shape, index..index + 1)?;
        shape = &shape[1..];
    }
    if let Some(rows) = rows {
        cut(shape, rows)?;
    }
    Some(range)
}

/// Maps a whole file for reading.
pub(super) fn map(path: &Path) -> Result<Part, LoadError> {
    let map = MappedFile::open(path)?;
    if map.starts_with(b"version https://git-lfs") {
        return Err(LoadError::LfsPointer { path: path.to_owned() });
    }
    Ok(Part { path: path.to_owned(), map: Arc::new(map) })
}

/// Reads a small file (a configuration) completely.
pub(super) fn read_small(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>, LoadError> {
    use std::io::Read;
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    let file = crate::files::open_regular(path).map_err(io)?;
    let found = file.metadata().map_err(io)?.len();
    if found > limit {
        return Err(LoadError::TooLarge { path: path.to_owned(), what, found, limit });
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
