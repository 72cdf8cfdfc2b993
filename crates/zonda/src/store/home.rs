//! [`Store`]: its folder and settings, the folders of models in it, and their locks.

use super::name::ModelName;
use super::own_file::open_own;
use super::progress::{self, Progress, Silent};
use crate::error::{At as _, Detail, Error, Result};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder that holds models, and whether models may be downloaded into it.
#[derive(Clone)]
pub struct Store {
    pub(super) home: PathBuf,
    pub(super) offline: bool,
    pub(super) progress: Arc<dyn Progress>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("home", &self.home)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The store at `$ZONDA_HOME`, or in the platform's cache folder. It downloads nothing if `$ZONDA_OFFLINE` is set.
    ///
    /// # Errors
    /// [`Error::Store`] if the variable is not set and the system defines no cache folder for this user.
    pub fn from_env() -> Result<Store> {
        let home = std::env::var_os("ZONDA_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let home = home.or_else(|| Some(dirs::cache_dir()?.join("zonda"))).ok_or_else(|| {
            let detail = Detail::new("the system defines no cache folder for this user");
            Error::Store(detail.advise("set ZONDA_HOME to a folder for models"))
        })?;
        let offline = std::env::var_os("ZONDA_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0");
        Ok(Store { offline, ..Store::at(home) })
    }

    /// The store in a folder, which need not exist yet.
    pub fn at(home: impl Into<PathBuf>) -> Store {
        Store { home: home.into(), offline: false, progress: Arc::new(Silent) }
    }

    /// Sets the observer of downloads.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Store {
        Store { progress: Arc::new(progress), ..self }
    }

    /// Forbids or allows downloads.
    #[must_use]
    pub fn offline(self, offline: bool) -> Store {
        Store { offline, ..self }
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder of a named model, whether it exists or not.
    pub(super) fn dir_of(&self, name: &ModelName) -> Option<PathBuf> {
        match name {
            ModelName::Plain(name) => Some(self.home.join("models").join(name)),
            ModelName::Hub { repo, .. } => Some(self.home.join("hub").join(repo)),
            ModelName::Mock | ModelName::Path(_) => None,
        }
    }

    /// The folder of a model that has a name; an error for a path or the mock.
    pub(super) fn dir_for(&self, name: &ModelName) -> Result<PathBuf> {
        let no_name = || Error::Store(Detail::new(format!("{name} is not a name in the store")));
        self.dir_of(name).ok_or_else(no_name)
    }

    /// Creates `dir`, and keeps other processes from changing it while the returned file is open.
    pub(super) fn lock(&self, dir: &Path) -> Result<File> {
        let path = dir.join(".lock");
        let file = std::fs::create_dir_all(dir).and_then(|()| open_own(&path)).at(&path)?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::Error(error)) => return Err(error).at(dir),
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        self.progress.waiting(dir);
                    }
                    progress::check(&*self.progress)?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}
