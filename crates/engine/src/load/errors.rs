//! [`LoadError`]: why a model could not be opened, one variant per malformation, each with what was expected and found.

use std::path::PathBuf;

use super::gguf::GgufError;

/// Why a model could not be opened. Each message is complete: it includes the cause, which is not repeated as `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what the fields are
pub enum LoadError {
    /// The file system returned an error.
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: std::io::Error },

    /// The file was cut while the model was in use.
    #[error("{path}: expected a file of {expected} bytes, as when the model was opened; it has {found} now", path = path.display())]
    Shrunk { path: PathBuf, expected: u64, found: u64 },

    /// The path is not a model.
    #[error("{path}: {found}; expected a .gguf file or a folder with config.json", path = path.display())]
    NotAModel { path: PathBuf, found: String },

    /// The repository was cloned without its large files.
    #[error("{path}: this is a Git LFS pointer; expected the file itself, which `git lfs pull` fetches", path = path.display())]
    LfsPointer { path: PathBuf },

    /// The GGUF file is malformed.
    #[error("{path}: {error}", path = path.display())]
    Gguf { path: PathBuf, error: GgufError },

    /// One part of a split GGUF model is missing or does not belong to the others.
    #[error("{path}: split file: expected {expected}, found {found}", path = path.display())]
    Split { path: PathBuf, expected: String, found: String },

    /// The GGUF file has a vocabulary and no weights.
    #[error("{path}: the file has no tensors: it can be used to tokenize, not to run a model", path = path.display())]
    NoTensors { path: PathBuf },

    /// The SafeTensors file is malformed.
    #[error("{path}: {error}", path = path.display())]
    SafeTensors { path: PathBuf, error: safetensors::SafeTensorError },

    /// A SafeTensors or JSON header is larger than any real one.
    #[error("{path}: {what} of {found} bytes; expected at most {limit}", path = path.display())]
    TooLarge { path: PathBuf, what: &'static str, found: u64, limit: u64 },

    /// The JSON file is malformed or has an unexpected structure.
    #[error("{path}: {error}", path = path.display())]
    Json { path: PathBuf, error: serde_json::Error },

    /// A shard named by the index lies outside the model's folder.
    #[error("{path}: weight_map names {name:?}; expected a file in the same folder", path = path.display())]
    ShardPath { path: PathBuf, name: String },

    /// A tensor is not in the shard that the index names.
    #[error("{path}: tensor {tensor} is not in this shard, though the index says so", path = path.display())]
    NotInShard { path: PathBuf, tensor: String },

    /// Two tensors of one model have the same name.
    #[error("{path}: tensor {tensor} occurs twice", path = path.display())]
    DuplicateTensor { path: PathBuf, tensor: String },

    /// A hyperparameter is missing.
    #[error("{path}: {key} is missing; expected {expected}", path = path.display())]
    MissingKey { path: PathBuf, key: String, expected: String },

    /// A hyperparameter has an invalid value.
    #[error("{path}: {key} is {found}; expected {expected}", path = path.display())]
    BadValue { path: PathBuf, key: String, found: String, expected: String },

    /// The architecture is not supported.
    #[error("{path}: architecture {found:?} is not supported; expected one of {runs}", path = path.display())]
    UnsupportedArchitecture { path: PathBuf, found: String, runs: &'static str },

    /// The model was opened for backends with a forward pass of their own; `why` is the error of [`super::Model::open`].
    #[error("{why}")]
    OtherForward { why: String },

    /// The forward pass does not support an option of the architecture.
    #[error("{path}: {key} is {found}, which is not supported; {runs}", path = path.display())]
    UnsupportedOption { path: PathBuf, key: String, found: String, runs: String },

    /// The loader does not support this quantisation.
    #[error("{path}: weights quantized with {found} are not supported; {instead}", path = path.display())]
    UnsupportedQuantization { path: PathBuf, found: String, instead: &'static str },

    /// The type of a tensor is not supported.
    #[error("{path}: tensor {tensor} has type {found}, which is not supported; expected one of {runs}", path = path.display())]
    UnsupportedType { path: PathBuf, tensor: String, found: String, runs: String },

    /// The architecture does not use this tensor: the file is of a variant with a different computation.
    #[error("{path}: tensor {tensor} has no place in architecture {architecture} as Zonda runs it", path = path.display())]
    UnexpectedTensor { path: PathBuf, tensor: String, architecture: String },

    /// A tensor of the model is missing.
    #[error("{path}: tensor {tensor} is missing; expected one of shape {expected:?}", path = path.display())]
    MissingTensor { path: PathBuf, tensor: String, expected: Vec<usize> },

    /// The shape of a tensor contradicts the hyperparameters.
    #[error("{path}: tensor {tensor} has shape {found:?}; expected {expected:?}", path = path.display())]
    WrongShape { path: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },

    /// The weights, or the block scales of a quantised tensor, contain NaN or infinity.
    #[error("tensor {tensor} has a NaN or infinite value at or near index {index}; expected finite weights")]
    NonFinite { tensor: String, index: usize },
}

impl LoadError {
    /// Whether the file is well-formed and only the forward pass of this workspace lacks what it needs.
    pub(super) fn is_of_forward(&self) -> bool {
        use LoadError::{UnexpectedTensor, UnsupportedArchitecture, UnsupportedOption};
        matches!(self, UnsupportedArchitecture { .. } | UnsupportedOption { .. } | UnexpectedTensor { .. })
    }
}
