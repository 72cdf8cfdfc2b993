//! The pure-Rust CPU backend: packed weights, a paged KV cache, and one forward pass whose options are data.
//!
//! * [`options`] are the options of opening a model;
//! * `weights` reads a model's tensors into panels (one row order, whatever pairing the file uses);
//! * `kv` is the cache: pages shared between slots by reference count;
//! * `rope` turns positions into angles, `route` a router's logits into experts and weights;
//! * `native` is the opened model, and `backend` implements the engine's trait for it;
//! * `forward` is the main path: embed → layers → head; `attention` and `ffn` are the two halves of a layer, and `latent` what
//!   multi-head latent attention has around its attention;
//! * `run` is the context of every stage of a step, `buffers` and `rows` are what the stages write to;
//! * `reference` is the same path in f32, one layer in memory at a time: other paths are compared with its logits.
//!
//! A token's logits do not depend on what else is in the batch, nor on the number of threads.

mod attention;
mod backend;
mod buffers;
mod ffn;
mod forward;
mod kv;
mod latent;
mod native;
pub mod options;
mod reference;
mod rope;
mod route;
mod rows;
mod run;
mod weights;

pub use native::Native;
pub use options::NativeOptions;
