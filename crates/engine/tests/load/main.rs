//! Opening models: the formats, the specs they give, and what damaged files give.

mod build;
mod finite;
mod gguf;
mod hf;
mod spec;
mod split;
