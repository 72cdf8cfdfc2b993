//! Opening models: the formats, the specs they give, and what damaged files give.

mod build;
mod config;
mod finite;
mod folder;
mod gguf;
mod hf;
mod hostile;
mod mlx;
mod safetensors;
mod spec;
mod split;
