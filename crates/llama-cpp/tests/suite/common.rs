//! Shared by the tests of this crate.

use std::path::{Path, PathBuf};
use zonda_engine::load::Model;
use zonda_llama_cpp::{KvType, LlamaCppOptions};
pub use zonda_testkit::rules::{all, argmax, difference, forward, tiny};

/// Two threads, exact KV values, a context of 128 tokens (fewer for models that allow fewer).
pub fn options(model: &Model) -> LlamaCppOptions {
    LlamaCppOptions {
        threads: Some(2),
        kv_type: KvType::F32,
        context: Some(128.min(model.spec.context_length)),
        ..LlamaCppOptions::default()
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
