//! The location of models too large to commit. `testdata/fetch.py` fetches them; `make test` runs it first.
//!
//! ```no_run
//! let Some(path) = zonda_testkit::models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
//! ```

use std::path::{Path, PathBuf};

/// The path of a fetched file, by name, in the folder of test models: `$ZONDA_TEST_MODELS`, or `target/test-models` in the
/// workspace. With `ZONDA_SKIP_MODEL_TESTS=1` a missing file gives `None` and a line on standard error.
///
/// # Panics
/// If the file is missing, so that no test is skipped unnoticed.
pub fn find(name: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-models");
    let folder = std::env::var_os("ZONDA_TEST_MODELS").map_or(default, PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    if std::env::var_os("ZONDA_SKIP_MODEL_TESTS").is_some_and(|value| value == "1") {
        eprintln!("skipped: {} is absent and ZONDA_SKIP_MODEL_TESTS=1", path.display());
        return None;
    }
    panic!("{} is absent: run `make fetch-test-models`", path.display());
}
