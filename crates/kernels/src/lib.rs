//! The bottom crate: number formats, SIMD kernels and the worker pool. It does not depend on models.
//!
//! Formats:
//! * [`dtype`] names every tensor format that Zonda reads, with its block size;
//! * [`blocks`] and [`grids`] define GGUF's quantised blocks, [`float8`] those of one-byte floats;
//! * [`dequantize`] turns stored bytes into `f32` (the reference that every kernel is tested against);
//! * [`quantize`] turns `f32` into stored bytes.
//!
//! Kernels:
//! * [`simd`] is the vector interface that kernels are written with, [`scalar`] its portable definition, [`table`] the list of
//!   instruction sets and the choice at run time ([`Isa`]);
//! * [`pack`] interleaves weights into panels, [`activations`] holds what they are multiplied with, [`matmul`](mod@matmul)
//!   multiplies both;
//! * [`attention`] reads a paged KV cache with an online softmax; [`norm`], [`rope`] and [`elementwise`] are the rest;
//! * [`pool`] runs them on pinned threads; [`memory`] allocates the memory of weights;
//! * [`probe`] measures the machine's peaks.
//!
//! Every kernel is compiled here, once per instruction set, behind a function that is not generic, so code that uses the kernels
//! compiles quickly.

// Loops over a tile's registers index several arrays at once, with constant bounds.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod activations;
pub mod attention;
pub mod blocks;
pub mod dequantize;
pub mod dtype;
pub mod elementwise;
pub mod float8;
pub mod format;
pub mod grids;
pub mod matmul;
pub mod memory;
pub mod norm;
pub mod pack;
pub mod pool;
pub mod probe;
pub mod quantize;
pub mod random;
pub mod rope;
pub mod scalar;
pub mod simd;
mod sync;
mod sys;
pub mod table;
mod tile;
mod unpack;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

pub use activations::{ActivationKind, Activations};
pub use dtype::DType;
pub use matmul::{HeadJobs, Job, activation_kind, matmul, matmul_heads, rows_of_head};
pub use pack::{Packed, packed_block_bytes};
pub use pool::Pool;
pub use table::{Isa, IsaError};
