//! Opening a model: GGUF files and SafeTensors folders become one [`ModelSpec`] and one set of tensors by role.

pub mod metadata;
pub mod spec;
pub mod tensor;

pub use metadata::{Metadata, Value};
pub use spec::{Architecture, ModelSpec, Moe, Rope, RopePairing, RopeScaling};
pub use tensor::{LayerTensor, Tensor, TensorRole};

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// What was being read.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
