//! Relative paths in listings and manifests.

use std::path::{Component, Path, PathBuf};

/// The relative path in a remote listing (`/` between parts); `None` for one that would leave the folder or that some
/// file system reads differently.
pub fn safe_relative(text: &str) -> Option<PathBuf> {
    if text.is_empty() || text.contains(['\\', ':', '\0']) {
        return None;
    }
    let path = Path::new(text);
    let normal = path.components().all(|c| matches!(c, Component::Normal(_)));
    // `components` accepts `a//b`, `a/./b` and `a/`: a listing with such paths is not trusted.
    let plain = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    (normal && plain).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_cannot_leave_their_folder() {
        for good in ["a", "a/b.safetensors", ".hidden", "a..b"] {
            assert!(safe_relative(good).is_some(), "{good}");
        }
        for bad in ["", "/a", "..", "a/../b", "../a", "a//b", "./a", "a/.", "a\\b", "C:x", "a\0b", "a/"] {
            assert!(safe_relative(bad).is_none(), "{bad}");
        }
    }
}
