//! Opening models: the formats, their specs, and the errors of damaged files.

mod build;
mod config;
mod finite;
mod folder;
mod fused;
mod gguf;
mod hf;
mod hostile;
mod latent;
mod mlx;
mod other;
mod safetensors;
mod scales;
mod spec;
mod split;
