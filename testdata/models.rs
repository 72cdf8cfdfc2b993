//! Where tests find models too large to commit. Test files include this one:
//!
//! ```ignore
//! #[path = "../../../testdata/models.rs"]
//! mod models;
//!
//! #[test]
//! fn speaks() {
//!     let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
//! }
//! ```
//!
//! `testdata/fetch.py` fetches them; `make test` runs it first.

use std::path::{Path, PathBuf};

/// The path of a fetched file, by its name in the folder of test models: `$ZONDA_TEST_MODELS`, or
/// `target/test-models` in the workspace.
///
/// A test whose file is absent fails, so that nothing goes untested in silence; with `ZONDA_SKIP_MODEL_TESTS=1` it
/// gets `None` and says on stderr that it is skipped.
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
