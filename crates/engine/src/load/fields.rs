//! [`Fields`]: typed, checked reading of hyperparameters, from GGUF metadata or from a `config.json`.

use std::path::Path;

use serde_json::Value as Json;

use super::{LoadError, Metadata, Value};

/// The maximum of any count. Real models are far below it; a larger value means a damaged file. The limit keeps products of two
/// counts and a few bytes within 64 bits.
pub(super) const MAX_COUNT: u64 = 1 << 28;

/// One value, of either format.
pub(super) enum Scalar<'a> {
    Int(u64),
    Float(f64),
    Bool(bool),
    Str(&'a str),
    /// Anything else, described.
    Other(String),
}

/// A set of named hyperparameters.
pub(super) trait Fields {
    /// The file, for messages.
    fn path(&self) -> &Path;
    /// The key's full name, for messages.
    fn name(&self, key: &str) -> String;
    /// The value, if there is one (JSON's `null` is none).
    fn lookup(&self, key: &str) -> Option<Scalar<'_>>;

    fn bad(&self, key: &str, found: impl ToString, expected: impl Into<String>) -> LoadError {
        LoadError::BadValue {
            path: self.path().to_owned(),
            key: self.name(key),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    fn missing(&self, key: &str, expected: &str) -> LoadError {
        let (path, key) = (self.path().to_owned(), self.name(key));
        LoadError::MissingKey { path, key, expected: expected.to_owned() }
    }

    fn unsupported(&self, key: &str, found: impl ToString, runs: impl Into<String>) -> LoadError {
        LoadError::UnsupportedOption {
            path: self.path().to_owned(),
            key: self.name(key),
            found: found.to_string(),
            runs: runs.into(),
        }
    }

    /// An integer from 1 to `max`.
    fn count(&self, key: &str, max: u64) -> Result<Option<usize>, LoadError> {
        match self.lookup(key) {
            None => Ok(None),
            Some(Scalar::Int(n)) if (1..=max).contains(&n) => Ok(Some(n as usize)),
            Some(other) => Err(self.bad(key, other, format!("an integer from 1 to {max}"))),
        }
    }

    /// An integer from 0 to `max`, where 0 means that there is none.
    fn count_or_zero(&self, key: &str, max: u64) -> Result<Option<usize>, LoadError> {
        match self.lookup(key) {
            Some(Scalar::Int(0)) => Ok(Some(0)),
            _ => self.count(key, max),
        }
    }

    /// A required integer from 1 to `max`.
    fn need_count(&self, key: &str, max: u64) -> Result<usize, LoadError> {
        self.count(key, max)?.ok_or_else(|| self.missing(key, &format!("an integer from 1 to {max}")))
    }

    /// A finite number.
    fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        match self.lookup(key) {
            None => Ok(None),
            Some(Scalar::Int(n)) => Ok(Some(n as f64)),
            Some(Scalar::Float(x)) if x.is_finite() => Ok(Some(x)),
            Some(other) => Err(self.bad(key, other, "a finite number")),
        }
    }

    /// A number above zero.
    fn positive(&self, key: &str) -> Result<Option<f64>, LoadError> {
        match self.number(key)? {
            // The value is used as an f32, in which a tiny f64 is zero and a huge one infinite.
            Some(x) if (x as f32).is_finite() && x as f32 > 0.0 => Ok(Some(x)),
            Some(x) => Err(self.bad(key, x, "a number above 0")),
            None => Ok(None),
        }
    }

    fn need_positive(&self, key: &str) -> Result<f64, LoadError> {
        self.positive(key)?.ok_or_else(|| self.missing(key, "a number above 0"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.lookup(key) {
            None => Ok(None),
            Some(Scalar::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.bad(key, other, "true or false")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.lookup(key) {
            None => Ok(None),
            Some(Scalar::Str(s)) => Ok(Some(s)),
            Some(other) => Err(self.bad(key, other, "a string")),
        }
    }
}

impl std::fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scalar::Int(n) => n.fmt(f),
            Scalar::Float(x) => x.fmt(f),
            Scalar::Bool(b) => b.fmt(f),
            Scalar::Str(s) => write!(f, "{s:?}"),
            Scalar::Other(s) => s.fmt(f),
        }
    }
}

/// GGUF metadata under an architecture's prefix.
pub(super) struct Prefixed<'a> {
    pub path: &'a Path,
    pub prefix: &'a str,
    pub metadata: &'a Metadata,
}

impl Fields for Prefixed<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn lookup(&self, key: &str) -> Option<Scalar<'_>> {
        let name = self.name(key);
        if let Some(n) = self.metadata.u64(&name) {
            return Some(Scalar::Int(n));
        }
        let value = self.metadata.get(&name)?;
        if let Some(list) = value.as_integers() {
            // Some converters write one number per layer; if all are equal, they count as one number.
            return Some(match list.first() {
                Some(&n) if n >= 0 && list.iter().all(|&m| m == n) => Scalar::Int(n as u64),
                _ => Scalar::Other(format!("an array of {} numbers that are negative or differ", list.len())),
            });
        }
        Some(match value {
            Value::F32(x) => Scalar::Float((*x).into()),
            Value::F64(x) => Scalar::Float(*x),
            Value::Bool(b) => Scalar::Bool(*b),
            Value::String(s) => Scalar::Str(s),
            other => Scalar::Other(other.describe()),
        })
    }
}

/// An object of a `config.json`.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub path: &'a Path,
    /// The path of the enclosing object, with a dot; empty at the top level.
    pub prefix: &'a str,
    pub object: &'a serde_json::Map<String, Json>,
}

impl<'a> Object<'a> {
    /// The raw value of a key; `null` counts as absent.
    pub fn json(&self, key: &str) -> Option<&'a Json> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// An object inside this one.
    pub fn child(&self, key: &str, prefix: &'a str) -> Result<Option<Object<'a>>, LoadError> {
        match self.json(key) {
            None => Ok(None),
            Some(Json::Object(object)) => Ok(Some(Object { path: self.path, prefix, object })),
            Some(_) => {
                Err(self.bad(key, self.lookup(key).map_or_else(String::new, |v| v.to_string()), "an object"))
            }
        }
    }
}

impl Fields for Object<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn lookup(&self, key: &str) -> Option<Scalar<'_>> {
        Some(match self.json(key)? {
            Json::Number(n) => match (n.as_u64(), n.as_f64()) {
                (Some(n), _) => Scalar::Int(n),
                (None, Some(x)) => Scalar::Float(x),
                (None, None) => Scalar::Other(n.to_string()),
            },
            Json::Bool(b) => Scalar::Bool(*b),
            Json::String(s) => Scalar::Str(s),
            Json::Array(v) => Scalar::Other(format!("an array of {} values", v.len())),
            Json::Object(_) => Scalar::Other("an object".to_owned()),
            Json::Null => return None,
        })
    }
}
