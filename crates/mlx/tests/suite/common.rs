//! Shared by the tests of this crate.

use std::path::{Path, PathBuf};
use zonda_engine::load::Model;
use zonda_mlx::MlxOptions;
pub use zonda_testkit::rules::{all, argmax, difference, forward, tiny};

/// On the CPU, with a context of 128 tokens (fewer for models that allow fewer).
pub fn options(model: &Model) -> MlxOptions {
    MlxOptions {
        threads: Some(2),
        context: Some(128.min(model.spec.context_length)),
        ..MlxOptions::default()
    }
}

pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}
