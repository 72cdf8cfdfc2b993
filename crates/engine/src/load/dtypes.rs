//! [`StoredType`]: every tensor type in files, including those that Zonda recognises but does not support.

use std::fmt;
use zonda_kernels::DType;

/// The type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredType {
    /// A type that Zonda supports.
    Runs(DType),
    /// Another type, by its published name (lower case), or `type 99` for an unknown number.
    Other(String),
}

/// ggml's unsupported types: `(number, name, values per block, bytes per block)`. Zero sizes: a type that ggml has removed, which
/// only needs a name.
const OTHER_GGML: [(u32, &str, usize, usize); 15] = [
    (4, "q4_2", 0, 0),
    (5, "q4_3", 0, 0),
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (31, "q4_0_4_4", 0, 0),
    (32, "q4_0_4_8", 0, 0),
    (33, "q4_0_8_8", 0, 0),
    (36, "iq4_nl_4_4", 0, 0),
    (37, "iq4_nl_4_8", 0, 0),
    (38, "iq4_nl_8_8", 0, 0),
];

impl StoredType {
    /// The type with this GGUF number and the `(values, bytes)` of its blocks, where known.
    pub(super) fn from_ggml(id: u32) -> (StoredType, Option<(usize, usize)>) {
        if let Some(dtype) = DType::from_ggml_id(id) {
            return (StoredType::Runs(dtype), Some((dtype.block_len(), dtype.block_bytes())));
        }
        match OTHER_GGML.iter().find(|row| row.0 == id) {
            Some(&(_, name, 0, _)) => (StoredType::Other(name.to_owned()), None),
            Some(&(_, name, values, bytes)) => (StoredType::Other(name.to_owned()), Some((values, bytes))),
            None => (StoredType::Other(format!("type {id}")), None),
        }
    }

    /// The type with this SafeTensors name.
    pub(super) fn from_safetensors(dtype: safetensors::Dtype) -> StoredType {
        match dtype {
            safetensors::Dtype::F32 => StoredType::Runs(DType::F32),
            safetensors::Dtype::F16 => StoredType::Runs(DType::F16),
            safetensors::Dtype::BF16 => StoredType::Runs(DType::BF16),
            other => StoredType::Other(other.to_string().to_lowercase()),
        }
    }

    /// The type, if Zonda supports it.
    pub fn runs(&self) -> Option<DType> {
        match self {
            StoredType::Runs(dtype) => Some(*dtype),
            StoredType::Other(_) => None,
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Runs(dtype) => dtype.fmt(f),
            StoredType::Other(name) => f.pad(name),
        }
    }
}

/// The names of all supported types, for error messages.
pub(super) fn runnable() -> String {
    DType::ALL.map(DType::name).join(", ")
}
