//! Logits against Hugging Face `transformers` (`testdata/hf`) for every architecture and RoPE scaling, through our own
//! conversion to GGUF: both the backend and the files it is given are held against the oracle.

use crate::common::{all, difference, forward, options, root};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_engine::make::convert;
use zonda_llama_cpp::{LlamaCpp, LlamaCppOptions};

fn folders() -> Vec<PathBuf> {
    let entries = root().join("testdata/hf").read_dir().unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 13, "{} checkpoints", folders.len());
    folders
}

/// `(ids [n], logits [n * vocab])` of every case.
fn cases(folder: &Path) -> Vec<(Vec<TokenId>, Vec<f32>)> {
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

/// Without flash attention all that differs is the order of additions; with it llama.cpp rounds to 16 bits.
const BOUNDS: [(bool, f32); 2] = [(false, 2e-4), (true, 0.1)];

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let path = dir.path().join(format!("{name}.gguf"));
        convert(&Model::open(&folder).unwrap(), &path, "f32".parse().unwrap(), &mut |_, _| {}).unwrap();
        let model = Model::open(&path).unwrap();
        // beyond the window llama.cpp computes something else, and says so when it is opened
        let window = model.spec.windows.iter().flatten().copied().min();
        let context = options(&model).context.unwrap().min(window.unwrap_or(usize::MAX));
        for (flash_attention, bound) in BOUNDS {
            let options = LlamaCppOptions { context: Some(context), flash_attention, ..options(&model) };
            let mut backend = match LlamaCpp::open(&model, &options) {
                Err(error) if name == "qwen3_moe_unnormed" => {
                    assert!(error.to_string().contains("sum to 1"), "{error}");
                    continue;
                }
                opened => opened.unwrap(),
            };
            let mut worst = 0.0f32;
            for (ids, expected) in cases(&folder) {
                let ids = &ids[..ids.len().min(context)];
                backend.truncate(0, 0).unwrap();
                let rows = forward(&mut backend, vec![all(0, 0, ids)]).unwrap();
                for (i, (row, expected)) in rows.iter().zip(expected.chunks_exact(rows[0].len())).enumerate()
                {
                    let d = difference(row, expected);
                    worst = if d.is_nan() { d } else { worst.max(d) };
                    assert!(d <= bound, "{name}: position {i} of {}: off by {d}", ids.len());
                }
            }
            println!("{name}, flash attention {flash_attention}: max abs difference {worst:.2e}");
        }
    }
}
