//! The tests of the MLX backend in one program, because linking MLX takes longer than running most of them.

mod batches;
mod common;
mod errors;
mod formats;
mod mlx_lm;
mod smollm2;
mod transformers;
