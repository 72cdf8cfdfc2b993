//! The subjects of an experiment, and their names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A backend with a model and its options; each child process opens one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The backend's name on the command line.
    pub backend: String,
    /// The model's name or file stem, for tables.
    pub model: String,
    /// The path of the model; `None` for the mock.
    pub path: Option<PathBuf>,
    /// `gguf`, `safetensors`, `mlx`, or `None` (mock).
    pub format: Option<String>,
    /// Whether the backend is the mock, whose figures are the overhead of the harness and are never ranked.
    pub synthetic: bool,
    /// Options of the command line (threads, isa, …) for the host that opens the engine; the bench only records them.
    pub options: BTreeMap<String, String>,
}

impl Subject {
    /// Whether it uses speculative decoding.
    pub fn speculates(&self) -> bool {
        self.options.contains_key("speculate")
    }

    /// The names of backend and model.
    pub fn name(&self) -> SubjectName {
        SubjectName { backend: self.backend.clone(), model: self.model.clone() }
    }

    /// The key, with the form in which the backend holds the weights.
    pub fn key(&self, quant: Option<String>) -> SubjectKey {
        SubjectKey { name: self.name(), format: self.format.clone(), quant }
    }

    /// A short name for progress and messages: `native · smollm2-135m (gguf)`.
    pub fn label(&self) -> String {
        match &self.format {
            Some(format) => format!("{} · {} ({format})", self.backend, self.model),
            None if self.model == self.backend => self.backend.clone(),
            None => format!("{} · {}", self.backend, self.model),
        }
    }
}

/// A backend and a model by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectName {
    /// The backend's name on the command line.
    pub backend: String,
    /// The model's name.
    pub model: String,
}

/// A subject as tables name it: backend, model, and the form of the weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectKey {
    /// Backend and model.
    #[serde(flatten)]
    pub name: SubjectName,
    /// `gguf`, `safetensors`, `mlx`; `None` for the mock.
    pub format: Option<String>,
    /// How the weights are held in memory; `None` if the engine never opened, or holds none.
    pub quant: Option<String>,
}

/// `native · smollm2-135m (gguf, q4_1)`.
impl std::fmt::Display for SubjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SubjectName { backend, model } = &self.name;
        if backend == model {
            f.write_str(backend)?;
        } else {
            write!(f, "{backend} · {model}")?;
        }
        match (&self.format, &self.quant) {
            (Some(format), Some(quant)) => write!(f, " ({format}, {quant})"),
            (Some(detail), None) | (None, Some(detail)) => write!(f, " ({detail})"),
            (None, None) => Ok(()),
        }
    }
}
