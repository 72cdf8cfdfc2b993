//! Opens models: GGUF files and SafeTensors folders become one [`ModelSpec`] and one set of tensors by role.
//!
//! Start with [`Model::open`]. A GGUF file is read by [`gguf`] (the format) through [`GgufFile`] (one file, or the parts of a
//! split one); a folder by `safetensors` (the weights) and `hf` (`config.json`), or `mistral` (Mistral's own layout). Each format has its own reader of
//! hyperparameters, with the same checks on the result; [`names`] has the tensors' names in each format. Files are untrusted:
//! every count and offset is checked against the data.

mod affine;
mod derived;
mod dtypes;
mod errors;
mod fields;
mod finite;
mod float8;
mod format;
mod frequencies;
mod fused;
pub mod gguf;
mod gguf_extras;
mod gguf_moe;
mod gguf_other;
mod gguf_spec;
mod hf;
mod hf_extras;
mod hf_mla;
mod hf_moe;
mod hf_rope;
mod inspect;
mod mapped;
pub mod metadata;
mod mistral;
mod mla;
mod mla_scale;
mod model;
mod moe;
pub mod names;
mod safetensors;
mod scales;
mod source;
pub mod spec;
mod split;
pub mod tensor;
mod validate;

pub use affine::{Affine, AffineTensor};
pub use dtypes::StoredType;
pub use errors::LoadError;
pub use finite::{check_finite, check_finite_row, first_non_finite};
pub use format::Format;
pub use fused::{FusedLocation, Outputs};
pub use inspect::{Memory, TypeShare};
pub use mapped::MappedFile;
pub use metadata::{Metadata, Value};
pub use mla::Mla;
pub use model::Model;
pub use moe::{ExpertGroups, GroupScore, Moe, Router, RouterScore, SharedExpert};
pub use source::TensorInfo;
pub use spec::{
    Activation, Architecture, Extras, LongRope, ModelSpec, Norm, NormPlacement, QueryTemperature, Rope,
    RopePairing, RopeScaling,
};
pub use split::GgufFile;
pub use tensor::{LayerTensor, Tensor, TensorRole};
pub use validate::yarn_mscale;
pub use zonda_kernels::DType;
