//! Shared by the writers: outputs that appear complete or not at all, their planned tensors, and the sink for their bytes.

use crate::error::ConvertError;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use zonda_engine::files::replaced;
use zonda_kernels::DType;

/// Called with `(bytes done, total bytes)` of tensor data, a few times a second on a fast disk.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// The contents of a tensor to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Values of this type.
    Values(DType),
    /// 32-bit words: MLX's codes. SafeTensors only.
    Words,
}

impl From<DType> for Holds {
    fn from(dtype: DType) -> Holds {
        Holds::Values(dtype)
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its name in the file.
    pub name: String,
    /// How its values are stored.
    pub holds: Holds,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Its size in bytes.
    ///
    /// # Errors
    /// If rows are not whole blocks or the size overflows.
    pub fn bytes(&self) -> Result<u64, ConvertError> {
        let cols = self.shape.last().copied().unwrap_or(1);
        let dtype = match self.holds {
            Holds::Values(dtype) => dtype,
            Holds::Words => DType::F32, // the same size
        };
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d));
        rows.and_then(|rows| dtype.bytes_for(cols)?.checked_mul(rows)).map(|n| n as u64).ok_or_else(|| {
            ConvertError::Blocks { tensor: self.name.clone(), cols, dtype, block: dtype.block_len() }
        })
    }
}

/// The size of all tensors in bytes.
pub(crate) fn total_bytes(tensors: &[Planned]) -> Result<u64, ConvertError> {
    tensors.iter().map(Planned::bytes).sum()
}

/// The temporary path of an incomplete output, which an interrupted program should delete. `None` if the name of
/// `target` is not UTF-8, or if `target` is a device or FIFO, which is written directly.
pub fn unfinished(target: &Path) -> Option<PathBuf> {
    let target = if target.is_dir() { target.to_owned() } else { replaced(target).ok()?? };
    let name = target.file_name()?.to_str()?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(parent.join(format!(".{name}.partial-{}", std::process::id())))
}

/// An incomplete file or folder beside its final path; deleted when dropped before [`Pending::commit`]. A device or
/// FIFO can't be replaced, so it is written directly.
#[derive(Debug)]
pub struct Pending {
    /// Equal to `target` if that is written directly.
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Pending {
    /// A file. An existing one stays until [`Pending::commit`] replaces it.
    ///
    /// # Errors
    /// If the target is a folder or has no name.
    pub fn file(target: &Path) -> Result<Pending, ConvertError> {
        if target.is_dir() {
            let reason = "it is a folder; expected the name of a file".to_owned();
            return Err(ConvertError::OutputName { path: target.to_owned(), reason });
        }
        match replaced(target).map_err(ConvertError::write(target))? {
            Some(target) => Pending::beside(&target),
            None => Ok(Pending { temporary: target.to_owned(), target: target.to_owned(), committed: true }),
        }
    }

    /// A folder, created at once under its temporary name.
    ///
    /// # Errors
    /// If the target exists and is not empty, or the folder can't be created.
    pub fn folder(target: &Path) -> Result<Pending, ConvertError> {
        if target.exists() {
            let empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
            if !empty {
                return Err(ConvertError::Exists { path: target.to_owned() });
            }
        }
        let pending = Pending::beside(target)?;
        fs::create_dir(&pending.temporary).map_err(ConvertError::write(&pending.temporary))?;
        Ok(pending)
    }

    fn beside(target: &Path) -> Result<Pending, ConvertError> {
        let Some(temporary) = unfinished(target) else {
            let reason = "expected a path that ends in a name".to_owned();
            return Err(ConvertError::OutputName { path: target.to_owned(), reason });
        };
        let parent = temporary.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(ConvertError::write(parent))?;
        let pending = Pending { temporary, target: target.to_owned(), committed: false };
        pending.clear(); // removes leftovers of a killed process with the same id
        Ok(pending)
    }

    /// The path to write to.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Moves the finished output to its final path.
    ///
    /// # Errors
    /// If the file system fails; the output is then deleted.
    pub fn commit(mut self) -> Result<(), ConvertError> {
        if self.temporary == self.target {
            return Ok(());
        }
        if self.target.is_dir() {
            // An empty folder, as checked at the start; not every system can rename onto a folder.
            fs::remove_dir(&self.target).map_err(ConvertError::write(&self.target))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(ConvertError::write(&self.target))?;
        self.committed = true;
        Ok(())
    }

    fn clear(&self) {
        // A failure is ignored: the error that led here is the one to report.
        let _ = if self.temporary.is_dir() {
            fs::remove_dir_all(&self.temporary)
        } else {
            fs::remove_file(&self.temporary)
        };
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            self.clear();
        }
    }
}

/// Checks that a file can be written there, before work is spent on its content.
///
/// # Errors
/// As [`Pending::file`], or if the file system fails.
pub fn check_writable(target: &Path) -> Result<(), ConvertError> {
    let pending = Pending::file(target)?;
    if pending.temporary != pending.target {
        File::create(&pending.temporary).map_err(ConvertError::write(&pending.temporary))?;
    }
    Ok(())
}

/// The sink for the bytes of one tensor after another.
pub struct Sink<'a> {
    file: BufWriter<File>,
    path: PathBuf,
    position: u64,
    /// Called with the size of every piece of tensor data, in bytes.
    wrote: &'a mut dyn FnMut(u64),
}

impl<'a> Sink<'a> {
    /// Creates the file.
    pub(crate) fn create(path: &Path, wrote: &'a mut dyn FnMut(u64)) -> Result<Sink<'a>, ConvertError> {
        let file = File::create(path).map_err(ConvertError::write(path))?;
        Ok(Sink { file: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), position: 0, wrote })
    }

    /// Appends bytes of the current tensor.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.put(bytes)?;
        (self.wrote)(bytes.len() as u64);
        Ok(())
    }

    /// Appends bytes that belong to no tensor.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.file.write_all(bytes).map_err(ConvertError::write(&self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn pad(&mut self, alignment: u64) -> Result<(), ConvertError> {
        let gap = self.position.next_multiple_of(alignment) - self.position;
        self.put(&vec![0; gap as usize])
    }

    /// Runs one tensor's source and checks the number of bytes it wrote.
    pub(crate) fn tensor(
        &mut self,
        tensor: &Planned,
        fill: impl FnOnce(&mut Self) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let (start, expected) = (self.position, tensor.bytes()?);
        fill(self)?;
        match self.position - start {
            found if found == expected => Ok(()),
            found => Err(ConvertError::TensorBytes { tensor: tensor.name.clone(), expected, found }),
        }
    }

    /// Flushes everything to disk; returns the file's size in bytes.
    pub(crate) fn finish(mut self) -> Result<u64, ConvertError> {
        self.file.flush().map_err(ConvertError::write(&self.path))?;
        let file = self.file.get_ref();
        // Devices and FIFOs can't be synced.
        if file.metadata().is_ok_and(|about| about.is_file()) {
            file.sync_all().map_err(ConvertError::write(&self.path))?;
        }
        Ok(self.position)
    }
}
