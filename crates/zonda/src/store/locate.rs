//! Finds models by path or name.

use super::cache::cached;
use super::home::Store;
use super::manifest::Manifest;
use super::name::ModelName;
use crate::error::{Detail, Error, Result};
use crate::located::Located;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Maximum number of models that an error lists.
const MOST_NAMED: usize = 50;

impl Store {
    /// Finds a model by path or name, and downloads it if it has a name and is not on this machine yet.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::Ambiguous`] if the name fits several models; [`Error::Offline`] or
    /// [`Error::Download`] if the download is forbidden or fails.
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

    /// Finds a model by path or name, if it is on this machine.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`] if it is neither a path nor has the form of a name; [`Error::Ambiguous`] if it fits
    /// several models.
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
                let mut files: Vec<_> = files.take(MOST_NAMED).map(|f| f.display().to_string()).collect();
                if several.len() > MOST_NAMED {
                    files.push("…".to_owned());
                }
                let message =
                    format!("{} models of this repository are here: {}", several.len(), files.join(", "));
                Err(Error::Ambiguous(Detail::new(message).advise("name one, as ORG/NAME:FILE")))
            }
        }
    }
}
