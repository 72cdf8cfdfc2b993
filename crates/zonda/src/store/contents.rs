//! The contents of the store: checking, creating, listing and removing models.

use super::cache::{cached, cached_models};
use super::checksum;
use super::folder::{bytes_at, remove_within, split_bytes, subfolders};
use super::home::Store;
use super::manifest::{self, Manifest, StoredFile};
use super::name::ModelName;
use crate::error::{At as _, Detail, Error, Result};
use serde::Serialize;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

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
    /// Compares a stored model's files with the checksums recorded when they were written. Returns a phrase with the
    /// number of matching files; `None` for a model outside the store: a path, the mock, the Hub's own cache.
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

    /// The folder `models/NAME`. If it does not contain a complete model, `make` creates one: it writes to the folder
    /// it is given and returns the model's source. A second call finds the result of the first.
    ///
    /// # Errors
    /// [`Error::Make`] with the error of `make`, or [`Error::Io`]. Nothing incomplete is left behind.
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
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&made).at(&made)? {
            let from = entry.at(&made)?.path();
            let name = from.file_name().and_then(OsStr::to_str).map(str::to_owned);
            let path = name.ok_or_else(|| {
                Error::Store(Detail::new(format!("{}: a file name that is not UTF-8", from.display())))
            })?;
            let bytes = from.metadata().at(&from)?.len();
            let sha256 = checksum::sha256_of(&from, &*self.progress)?;
            std::fs::rename(&from, dir.join(&path)).at(&from)?;
            files.push(StoredFile { path, bytes, sha256 });
        }
        let mut manifest = Manifest { name: name.to_owned(), source, ..Manifest::default() };
        manifest.add(files);
        manifest.write(&dir)?;
        Ok(dir)
    }

    /// All models on this machine, sorted by name: those in the store, then those in the Hub's own cache folder.
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
            let sizes = split_bytes(&manifest);
            for path in paths {
                let file = path.strip_prefix(&dir).unwrap_or(&path).display().to_string();
                let bytes = match sizes.get(&file).filter(|_| several) {
                    Some(bytes) => *bytes,
                    None => manifest.bytes(),
                };
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
            let parts: HashSet<String> = parts.into_iter().collect();
            let (gone, kept): (Vec<_>, _) = manifest.files.into_iter().partition(|f| parts.contains(&f.path));
            manifest.files = kept;
            if !manifest.files.is_empty() {
                manifest.write(&dir)?;
                gone.iter().try_for_each(|f| remove_within(&dir, &f.path))?;
                return Ok(gone.iter().map(|f| f.bytes).sum());
            }
        }
        let bytes = bytes_at(&dir);
        std::fs::remove_dir_all(&dir).at(&dir)?;
        Ok(bytes)
    }
}
