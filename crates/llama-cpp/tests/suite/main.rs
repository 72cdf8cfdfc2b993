//! The tests of the llama.cpp backend in one program, because linking llama.cpp takes longer than running most of them.

mod abort;
mod batches;
mod common;
mod errors;
mod foreign;
mod gpu;
mod kv_export;
mod smollm2;
mod transformers;
