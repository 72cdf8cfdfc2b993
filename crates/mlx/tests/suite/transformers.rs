//! Logits against Hugging Face `transformers` (`testdata/hf`) for every architecture and RoPE scaling: the checkpoints
//! themselves, and our conversion of them to f32 GGUF (with RoPE's other pairing).

use crate::common::{all, difference, forward, options};
use std::path::Path;
use zonda_convert::convert;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_mlx::Mlx;
use zonda_testkit::goldens::{cases, folders};

/// Only the order of additions differs.
const BOUND: f32 = 2e-4;

/// The largest difference from a checkpoint's goldens, position by position.
fn worst(model: &Model, folder: &Path) -> f32 {
    let mut backend = Mlx::open(model, &options(model)).unwrap();
    assert_eq!(backend.info().weights, "f32");
    let mut worst = 0.0f32;
    for (ids, expected) in cases(folder) {
        backend.truncate(0, 0).unwrap();
        let rows = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        assert_eq!(rows.len(), ids.len());
        for (i, (row, expected)) in rows.iter().zip(expected.chunks_exact(rows[0].len())).enumerate() {
            let d = difference(row, expected);
            assert!(d <= BOUND, "{}: position {i} of {}: off by {d}", folder.display(), ids.len());
            worst = worst.max(d);
        }
    }
    worst
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let model = Model::open(&folder).unwrap();
        if zonda_mlx::unsupported(&model.spec).is_some() {
            let refused = Mlx::open(&model, &options(&model)).unwrap_err().to_string();
            assert!(refused.contains(&model.spec.architecture.to_string()), "{name}: {refused}");
            continue;
        }
        let as_stored = worst(&model, &folder);
        let path = dir.path().join(format!("{name}.gguf"));
        convert(&model, &path, "f32".parse().unwrap(), &mut |_, _| {}).unwrap();
        let as_gguf = worst(&Model::open(&path).unwrap(), &folder);
        println!("{name}: max abs difference {as_stored:.2e}, as GGUF {as_gguf:.2e}");
    }
}
