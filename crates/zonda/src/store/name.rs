//! [`ModelName`]: a path, `mock`, a name in the store, or a Hub repository.

use super::relative::safe_relative;
#[cfg(feature = "hub")]
use super::wheel::{KNOWN, Known};
use crate::error::{Detail, Error, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// A model as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// The mock backend's model.
    Mock,
    /// A file or folder that exists.
    Path(PathBuf),
    /// A plain name: one that `zonda pull` knows or that is in the store.
    Plain(String),
    /// A repository on the Hub, and the file in it.
    Hub {
        /// `org/name`
        repo: String,
        /// A GGUF file in it.
        file: Option<String>,
    },
}

impl ModelName {
    /// Reads a model argument. An existing path takes precedence over a name.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`] if it is neither a path nor has the form of a name.
    pub fn parse(text: &OsStr) -> Result<ModelName> {
        if text == "mock" {
            return Ok(ModelName::Mock);
        }
        let path = Path::new(text);
        if path.exists() {
            return Ok(ModelName::Path(path.to_owned()));
        }
        text.to_str().and_then(ModelName::parse_name).ok_or_else(|| {
            let path = path.display();
            Error::NoSuchModel(
                Detail::new(format!(
                    "no model `{path}`: it is neither a file or folder nor a name of the form NAME, ORG/NAME or ORG/NAME:FILE.gguf"
                ))
                .advise(
                    "give a .gguf file, a folder with config.json and SafeTensors, or a name (`zonda list` shows those here)",
                ),
            )
        })
    }

    /// Reads a name but not a path, for `pull` and `rm`.
    pub fn parse_name(text: &str) -> Option<ModelName> {
        let Some((org, rest)) = text.split_once('/') else {
            return (is_word(text) && !text.ends_with(".gguf")).then(|| ModelName::Plain(text.to_owned()));
        };
        let (name, file) = match rest.split_once(':') {
            Some((name, file)) => (name, Some(file)),
            None => (rest, None),
        };
        let well_formed = is_word(org) && is_word(name) && file.is_none_or(|f| safe_relative(f).is_some());
        // `models/x.gguf` is a missing file, not a repository.
        let file_like = file.is_none() && name.ends_with(".gguf");
        (well_formed && !file_like)
            .then(|| ModelName::Hub { repo: format!("{org}/{name}"), file: file.map(str::to_owned) })
    }

    /// The entry in the table of models that are not downloaded from the Hub.
    #[cfg(feature = "hub")]
    pub(super) fn known(&self) -> Option<&'static Known> {
        match self {
            ModelName::Plain(name) => KNOWN.iter().find(|k| k.name == name),
            _ => None,
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelName::Mock => f.write_str("mock"),
            ModelName::Path(path) => path.display().fmt(f),
            ModelName::Plain(name) => f.write_str(name),
            ModelName::Hub { repo, file: None } => f.write_str(repo),
            ModelName::Hub { repo, file: Some(file) } => write!(f, "{repo}:{file}"),
        }
    }
}

/// Letters, digits, `.`, `_`, `-`; starts with a letter or digit.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<ModelName> {
        ModelName::parse_name(text)
    }

    #[test]
    fn names() {
        assert_eq!(name("smollm2-135m"), Some(ModelName::Plain("smollm2-135m".into())));
        assert_eq!(
            name("mistralai/Mistral-7B-v0.3"),
            Some(ModelName::Hub { repo: "mistralai/Mistral-7B-v0.3".into(), file: None })
        );
        assert_eq!(
            name("org/repo-GGUF:Q4/model.gguf"),
            Some(ModelName::Hub { repo: "org/repo-GGUF".into(), file: Some("Q4/model.gguf".into()) })
        );
        for bad in [
            "", ".", "..", "../x", "/etc/x", "a/b/c", "a/", "/b", "a/b:", "a/b:../c", "a b", "x.gguf",
            "d/x.gguf",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_exists_is_a_path() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(
            ModelName::parse(here.path().as_os_str()).unwrap(),
            ModelName::Path(here.path().to_owned())
        );
        assert_eq!(ModelName::parse(OsStr::new("mock")).unwrap(), ModelName::Mock);
        let error = ModelName::parse(OsStr::new("no/such/file.gguf")).unwrap_err().to_string();
        assert!(error.contains("no/such/file.gguf"), "{error}");
    }
}
