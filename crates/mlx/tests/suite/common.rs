//! What the tests of this crate share.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, Logits, Slot, Span, Want};
use zonda_engine::load::Model;
use zonda_engine::make::{Mix, SynthSpec, synth};
use zonda_mlx::{Mlx, MlxOptions};

/// On the processor, with a context of 128 tokens (fewer for models that allow fewer).
pub fn options(model: &Model) -> MlxOptions {
    MlxOptions {
        threads: Some(2),
        context: Some(128.min(model.spec.context_length)),
        ..MlxOptions::default()
    }
}

/// Writes a tiny model with random weights and opens it.
pub fn tiny(arch: &str, mix: Mix, dir: &Path) -> Model {
    let path = dir.join(format!("{arch}.gguf"));
    synth(&SynthSpec::find(arch).unwrap(), mix, &path, 7, &mut |_, _| {}).unwrap();
    Model::open(&path).unwrap()
}

pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The checkpoints of every architecture and RoPE scaling.
pub fn folders() -> Vec<PathBuf> {
    let entries = testdata().join("hf").read_dir().unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 13, "{} checkpoints", folders.len());
    folders
}

/// `(ids [n], logits [n * vocab])` of every case of a checkpoint.
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

/// Runs spans and returns every row's logits.
pub fn forward(backend: &mut Mlx, spans: Vec<Span<'_>>) -> Result<Vec<Vec<f32>>, BackendError> {
    let mut out = Logits::new();
    backend.forward(&Batch { spans }, &mut out)?;
    Ok((0..out.rows()).map(|r| out.row(r).to_vec()).collect())
}

pub fn all(slot: Slot, start: usize, tokens: &[TokenId]) -> Span<'_> {
    Span { slot, start, tokens, want: Want::All }
}

/// The largest difference; NaN if there is one anywhere.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap()
}
