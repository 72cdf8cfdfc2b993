//! What the tests of this crate share.

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
