//! [`Located`]: a model on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The name that the user gave; for a path, the file's stem or the folder's name.
    pub name: String,
    /// The file or folder; `None` for the mock model.
    pub path: Option<PathBuf>,
}

impl Located {
    /// The mock model.
    pub fn mock() -> Located {
        Located { name: "mock".to_owned(), path: None }
    }

    /// A file or folder: `…/model.gguf` is called `model`, `…/folder/` and `.` are called by the folder's name.
    pub fn at(path: impl Into<PathBuf>) -> Located {
        let path = path.into();
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let stem = if path.is_dir() { real.file_name() } else { path.file_stem() };
        let name = stem.unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Located { name, path: Some(path) }
    }

    /// A name that needs no store: `mock`, or a file or folder that exists.
    pub(crate) fn without_store(name: &OsStr) -> Option<Located> {
        if name == "mock" {
            return Some(Located::mock());
        }
        Path::new(name).exists().then(|| Located::at(name))
    }

    /// The file or folder; `None` for the mock model.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}
