//! Logits against Hugging Face `transformers` (`testdata/hf`) for every architecture and RoPE scaling, through our own
//! conversion to GGUF. This checks both the backend and the converted files.

use crate::common::{all, difference, forward, options};
use zonda_convert::convert;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_llama_cpp::{LlamaCpp, LlamaCppOptions};
use zonda_testkit::goldens::{cases, folders};

/// Without flash attention only the order of additions differs; with it llama.cpp rounds to 16 bits.
const BOUNDS: [(bool, f32); 2] = [(false, 2e-4), (true, 0.1)];

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        // llama.cpp rounds the bounds of YaRN, which gpt-oss does not; and no GGUF file says this llama4's sizes.
        if name.starts_with("gpt_oss") || name == "llama4" {
            continue;
        }
        let path = dir.path().join(format!("{name}.gguf"));
        convert(&Model::open(&folder).unwrap(), &path, "f32".parse().unwrap(), &mut |_, _| {}).unwrap();
        let model = Model::open(&path).unwrap();
        // Beyond the window llama.cpp computes a different function, so opening limits the context.
        let window = model.spec.windows.iter().flatten().copied().min();
        let context = options(&model).context.unwrap().min(window.unwrap_or(usize::MAX));
        for (flash_attention, bound) in BOUNDS {
            let options = LlamaCppOptions { context: Some(context), flash_attention, ..options(&model) };
            let mut backend = match LlamaCpp::open(&model, &options) {
                Err(error) if name == "qwen3_moe_unnormed" => {
                    assert!(error.to_string().contains("not normalised"), "{error}");
                    continue;
                }
                Err(error) if name == "deepseek_v2" => {
                    assert!(error.to_string().contains("groups of experts"), "{error}");
                    continue;
                }
                Err(error) if name.starts_with("gemma") => {
                    assert!(error.to_string().contains("attention scale"), "{error}");
                    continue;
                }
                opened => opened.unwrap(),
            };
            let mut worst = 0.0f32;
            for (ids, expected) in cases(&folder) {
                // In this context llama.cpp has LongRoPE's long factors, and `transformers` the short ones for short texts.
                if name == "phi3_long" && ids.len() <= 64 {
                    continue;
                }
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
