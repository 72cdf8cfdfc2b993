//! Logits against Hugging Face `transformers` (`testdata/hf`) for every architecture and RoPE scaling: the checkpoints
//! themselves, and our conversion of them to f32 GGUF (with RoPE's other pairing).

use crate::common::{all, argmax, difference, forward, options};
use std::path::Path;
use zonda_convert::convert;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_mlx::{Mlx, MlxOptions};
use zonda_testkit::goldens::{cases, folders};

/// Only the order of additions differs.
const BOUND: f32 = 2e-4;

/// The checkpoints whose computation MLX's crate doesn't have: multi-head latent attention.
const REFUSED: [&str; 3] = ["deepseek_v2", "deepseek_v3", "mistral4"];

/// The largest difference from a checkpoint's goldens, position by position; and how weights are held.
fn worst(model: &Model, folder: &Path, dequantize: Option<bool>) -> (f32, String) {
    let (mut worst, mut held) = (0.0f32, String::new());
    for (ids, expected) in cases(folder) {
        // `transformers` chooses LongRoPE's factors by a text's length; we, by the context, when a model is opened.
        let context = Some((if ids.len() <= 64 { 64 } else { 128 }).min(model.spec.context_length));
        let options = MlxOptions { context, dequantize, ..options(model) };
        let mut backend = Mlx::open(model, &options).unwrap();
        held = backend.info().weights;
        let rows = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        assert_eq!(rows.len(), ids.len());
        for (i, (row, expected)) in rows.iter().zip(expected.chunks_exact(rows[0].len())).enumerate() {
            let d = difference(row, expected);
            assert!(d <= BOUND, "{}: position {i} of {}: off by {d}", folder.display(), ids.len());
            assert_eq!(argmax(row), argmax(expected), "{}: position {i} of {}", folder.display(), ids.len());
            worst = worst.max(d);
        }
    }
    (worst, held)
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let model = Model::open(&folder).unwrap();
        if REFUSED.contains(&name.as_str()) {
            let refused = Mlx::open(&model, &options(&model)).unwrap_err().to_string();
            let architecture = model.spec.architecture.to_string();
            assert!(refused.contains(&architecture) && refused.contains("latent attention"), "{refused}");
            continue;
        }
        let (as_stored, held) = worst(&model, &folder, None);
        assert_eq!(held, "f32");
        // No GGUF file says this llama4's sizes.
        if name == "llama4" {
            println!("{name}: max abs difference {as_stored:.2e}");
            continue;
        }
        let path = dir.path().join(format!("{name}.gguf"));
        convert(&model, &path, "f32".parse().unwrap(), &mut |_, _| {}).unwrap();
        let (as_gguf, _) = worst(&Model::open(&path).unwrap(), &folder, None);
        println!("{name}: max abs difference {as_stored:.2e}, as GGUF {as_gguf:.2e}");
    }
}

/// MLX multiplies experts in MXFP4 as they are stored, with activations that are not rounded.
#[test]
fn experts_stay_in_mxfp4() {
    let folder = folders().into_iter().find(|f| f.ends_with("gpt_oss_mxfp4")).unwrap();
    let model = Model::open(&folder).unwrap();
    let (off, held) = worst(&model, &folder, Some(false));
    println!("gpt_oss_mxfp4 held as {held}: max abs difference {off:.2e}");
    assert_eq!(held, "f32+mxfp4");
}
