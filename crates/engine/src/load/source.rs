//! [`Store`]: the mapped files of a model and the tensors in them, for all formats.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use zonda_kernels::DType;

use super::dtypes::{StoredType, runnable};
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
    pub map: Arc<Mmap>,
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

    /// Of a model that also reads images, keeps the tensors of the text part, under the names that a model of text alone gives
    /// them. Returns how many others there were.
    pub fn keep_text_part(&mut self) -> usize {
        let all = self.tensors.len();
        self.tensors.retain_mut(|stored| {
            if let Some(rest) = stored.name.strip_prefix("model.language_model.") {
                stored.name = format!("model.{rest}");
            } else if let Some(rest) = stored.name.strip_prefix("language_model.") {
                stored.name = rest.to_owned();
            }
            let name = stored.name.strip_prefix("model.").unwrap_or(&stored.name);
            !["vision_tower.", "vision_model.", "multi_modal_projector."]
                .iter()
                .any(|part| name.starts_with(part))
        });
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

    /// The file a tensor is in.
    pub fn path_of(&self, stored: &Stored) -> &Path {
        &self.parts[stored.part].path
    }

    /// A tensor's bytes with its type and shape.
    pub fn tensor(&self, stored: &Stored) -> Result<Tensor, LoadError> {
        let (dtype, range) = self.runnable(stored)?;
        let map = Arc::clone(&self.parts[stored.part].map);
        Ok(Tensor::mapped(stored.name.clone(), dtype, stored.shape.clone(), map, range))
    }

    /// The bytes of a tensor, or of its plane `index`, whatever its type.
    pub fn data(&self, stored: &Stored, plane: Option<usize>) -> Option<Data> {
        let mut range = stored.range.clone()?;
        if let Some(index) = plane {
            let bytes = range.len() / stored.shape.first().filter(|&&n| index < n)?;
            range = range.start + index * bytes..range.start + (index + 1) * bytes;
        }
        Some(Data::Mapped(Arc::clone(&self.parts[stored.part].map), range))
    }

    /// Plane `index` along the first dimension: one expert of a fused tensor.
    ///
    /// # Panics
    /// If `index` is not below the first dimension, which the caller has compared with the expected shape.
    pub fn plane(&self, stored: &Stored, index: usize) -> Result<Tensor, LoadError> {
        let (dtype, range) = self.runnable(stored)?;
        assert!(index < stored.shape[0], "plane of {}", stored.name);
        let bytes = range.len() / stored.shape[0];
        let start = range.start + index * bytes;
        let map = Arc::clone(&self.parts[stored.part].map);
        let name = format!("{}[{index}]", stored.name);
        Ok(Tensor::mapped(name, dtype, stored.shape[1..].to_vec(), map, start..start + bytes))
    }

    /// A tensor's type.
    pub fn dtype(&self, stored: &Stored) -> Result<DType, LoadError> {
        Ok(self.runnable(stored)?.0)
    }

    fn runnable(&self, stored: &Stored) -> Result<(DType, Range<usize>), LoadError> {
        match (stored.kind.runs(), &stored.range) {
            (Some(dtype), Some(range)) => Ok((dtype, range.clone())),
            _ => Err(LoadError::UnsupportedType {
                path: self.path_of(stored).to_owned(),
                tensor: stored.name.clone(),
                found: stored.kind.to_string(),
                runs: runnable(),
            }),
        }
    }
}

/// Maps a whole file for reading.
pub(super) fn map(path: &Path) -> Result<Part, LoadError> {
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    // Asked of the path, since opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(LoadError::NotAModel { path: path.to_owned(), found: "it is not a regular file".into() });
    }
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is private to the process and only read. Rust cannot rule out that another process changes or
    // truncates the file meanwhile; like every program that maps its weights, we require that it doesn't.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    if map.starts_with(b"version https://git-lfs") {
        return Err(LoadError::LfsPointer { path: path.to_owned() });
    }
    Ok(Part { path: path.to_owned(), map: Arc::new(map) })
}

/// Reads a small file (a configuration) whole.
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
