//! [`ConvertError`]: why a model could not be written.

use std::io;
use std::path::{Path, PathBuf};
use zonda_engine::load::LoadError;

/// Why a model could not be written. No part of a failed output is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum ConvertError {
    /// Writing failed: a full disk, a missing folder, no permission.
    #[error("writing {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },

    /// A file of the input other than its weights could not be read.
    #[error("reading {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    /// The output folder is not empty.
    #[error("{path} exists and is not an empty folder; choose another name or remove it", path = path.display())]
    Exists { path: PathBuf },

    /// The output's name does not determine the format.
    #[error("{path}: {reason}", path = path.display())]
    OutputName { path: PathBuf, reason: String },

    /// The input could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),

    /// The input has a property that the output format can't express.
    #[error("{what} is {found}, which {format} can't express: {reason}")]
    NotExpressible { what: String, found: String, format: &'static str, reason: String },

    /// The tokenizer's file is malformed or unsupported.
    #[error("tokenizer: {what}: expected {expected}, found {found}")]
    Tokenizer { what: String, expected: String, found: String },

    /// The input's tokenizer could not be read.
    #[error(transparent)]
    Tokenize(#[from] zonda_engine::tokenize::TokenizeError),

    /// A tensor's row is not a whole number of the type's blocks, or its size overflows.
    #[error("tensor {tensor} has rows of {cols} values; {dtype} needs a multiple of {block}")]
    Blocks { tensor: String, cols: usize, dtype: zonda_kernels::DType, block: usize },

    /// A tensor's source gave a number of bytes that does not fit its type and shape.
    #[error("tensor {tensor} takes {expected} bytes, but {found} were written")]
    TensorBytes { tensor: String, expected: u64, found: u64 },

    /// There is no model shape of this name.
    #[error("no model shape is called {name:?}; known: {known}")]
    UnknownArch { name: String, known: String },

    /// The format has no tensors of this type.
    #[error(
        "SafeTensors holds f32, f16 and bf16 weights; found {found}; for quantised weights name a .gguf file"
    )]
    FloatsOnly { found: String },

    /// The input is already quantised; quantising it again would lose more precision.
    #[error("the model is quantised already ({found}); expected f32, f16 or bf16 weights")]
    Quantized { found: String },

    /// Weights are NaN or infinite, or too large for the scales of the type.
    #[error("tensor {tensor} {}", if *overflow { format!("holds values too large for the scales of {dtype}") } else { "holds a NaN or an infinity".to_owned() })]
    NotFinite { tensor: String, dtype: zonda_kernels::DType, overflow: bool },

    /// An argument is out of range.
    #[error("{what} is {found}; expected {expected}")]
    Invalid { what: &'static str, found: String, expected: String },
}

impl ConvertError {
    /// For `map_err` on writing.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> ConvertError + '_ {
        |source| ConvertError::Write { path: path.to_owned(), source }
    }

    /// For `map_err` on reading.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> ConvertError + '_ {
        |source| ConvertError::Read { path: path.to_owned(), source }
    }

    pub(crate) fn tokenizer(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ConvertError {
        ConvertError::Tokenizer { what: what.into(), expected: expected.into(), found: found.into() }
    }
}
