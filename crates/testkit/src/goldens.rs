//! The golden logits of Hugging Face `transformers` under `testdata/hf`.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;

/// The checkpoints: one for each architecture and option.
///
/// # Panics
/// If checkpoints are missing.
pub fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf");
    let mut folders: Vec<PathBuf> =
        root.read_dir().unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 38, "{} checkpoints", folders.len());
    folders
}

/// `(ids [n], logits [n, vocab])` of each case of a checkpoint.
///
/// # Panics
/// If the checkpoint has no readable `goldens.safetensors`.
pub fn cases(folder: &Path) -> Vec<(Vec<TokenId>, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("goldens.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: String| -> Vec<[u8; 4]> {
        file.tensor(&name).unwrap().data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect()
    };
    [1, 5, 33, 100]
        .map(|n| {
            let ids = words(format!("ids.{n}")).into_iter().map(|b| i32::from_le_bytes(b) as TokenId);
            (ids.collect(), words(format!("logits.{n}")).into_iter().map(f32::from_le_bytes).collect())
        })
        .into()
}
