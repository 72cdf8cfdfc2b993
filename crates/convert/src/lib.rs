//! Writing models: [`convert()`] between GGUF and SafeTensors folders, [`convert_to_mlx()`] to quantised ones as MLX has
//! them, [`quantize()`] to GGUF in fewer bits, and [`synth()`], random weights in real shapes.
//!
//! All describe the output first (a [`ModelSpec`](zonda_engine::load::ModelSpec), its tensors' names, types and shapes) and
//! then stream tensor after tensor through [`gguf_writer`] or [`safetensors_writer`], a few megabytes at a time, so
//! that memory does not grow with the model. Outputs appear under their final name when they are complete
//! ([`output`]); on any error nothing is left behind.

pub mod convert;
mod error;
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
