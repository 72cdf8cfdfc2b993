//! Writes models: [`convert()`] between GGUF and SafeTensors folders, [`convert_to_mlx()`] to MLX's quantised folders,
//! [`quantize()`] to GGUF in fewer bits, and [`synth()`] with random weights in real shapes.
//!
//! All of them describe the output first (a [`ModelSpec`](zonda_engine::load::ModelSpec), its tensors' names, types and shapes) and
//! then stream tensor after tensor through [`gguf_writer`] or [`safetensors_writer`], a few megabytes at a time, so
//! that memory does not grow with the model. An output gets its final name when it is complete ([`output`]); after an error
//! it is deleted.

pub mod convert;
mod error;
mod file_tensors;
mod fitting;
mod gguf_keys;
mod gguf_tokenizer;
pub mod gguf_writer;
mod hf_config;
mod hf_tokenizer;
pub mod mlx;
pub mod output;
pub mod quantize;
mod rows;
pub mod safetensors_writer;
pub mod synth;
mod weights;

pub use convert::convert;
pub use error::ConvertError;
pub use fitting::{Fitted, QuantizeOptions};
pub use mlx::convert_to_mlx;
pub use output::Progress;
pub use quantize::{Quantized, quantize};
pub use synth::{SynthSpec, synth, synth_archs};
