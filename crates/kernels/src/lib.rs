//! The bottom crate: number formats, SIMD kernels and the worker pool. It knows numbers, not models.
//!
//! * [`dtype`] names every tensor format that Zonda reads, with its block size;
//! * [`blocks`] lays the quantised blocks out in memory as GGUF stores them;
//! * [`dequantize`] turns stored bytes into `f32` (the oracle every kernel is tested against);
//! * [`quantize`] turns `f32` into stored bytes.

pub mod blocks;
pub mod dequantize;
pub mod dtype;
pub mod quantize;

pub use dtype::DType;
