//! SmolLM2-135M (Q4_1) against llama.cpp on the same weights in f32 (`testdata/llama_cpp`): greedy texts and logits.

use crate::common::{all, argmax, forward, testdata};
use safetensors::SafeTensors;
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Span, Want};
use zonda_engine::load::Model;
use zonda_mlx::{Mlx, MlxOptions};
use zonda_testkit::models;

fn golden(name: &str) -> Vec<u8> {
    let path = testdata().join("llama_cpp").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn open(dequantize: bool) -> Option<Mlx> {
    let model = Model::open(&models::find("smollm2-135m-instruct-q4_1.gguf")?).unwrap();
    let dequantize = Some(dequantize);
    let options = MlxOptions { context: Some(1024), threads: Some(2), dequantize, ..MlxOptions::default() };
    Some(Mlx::open(&model, &options).unwrap())
}

fn next(backend: &mut Mlx, start: usize, tokens: &[TokenId]) -> TokenId {
    let rows = forward(backend, vec![Span { slot: 0, start, tokens, want: Want::Last }]).unwrap();
    argmax(&rows[0]) as TokenId
}

/// The best logit of every step leads by more than 1.
#[test]
fn greedy_texts_are_the_same() {
    let Some(mut backend) = open(true) else { return };
    let file: serde_json::Value = serde_json::from_slice(&golden("greedy.json")).unwrap();
    for (n, case) in file["cases"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<TokenId> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let steps: Vec<(TokenId, f32, TokenId, f32)> =
            serde_json::from_value(case["exact_steps"].clone()).unwrap();
        backend.truncate(0, 0).unwrap();
        let mut token = next(&mut backend, 0, &ids);
        // Decoding is slow on the CPU.
        for (i, &(expected, ..)) in steps.iter().take(16).enumerate() {
            assert_eq!(token, expected, "prompt {n}, token {i}");
            token = next(&mut backend, ids.len() + i, &[token]);
        }
    }
}

/// The goldens are stored as binary16, accurate to 0.02.
#[test]
fn logits_match_those_in_f32() {
    let bytes = golden("logits.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for dequantize in [true, false] {
        let Some(mut backend) = open(dequantize) else { return };
        let held = backend.info().weights;
        assert_eq!(held, if dequantize { "f32" } else { "q4_g32+q8_g32" });
        for case in ["text", "chat"] {
            let ids = file.tensor(&format!("ids.{case}")).unwrap();
            let ids =
                ids.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as TokenId);
            let ids: Vec<TokenId> = ids.collect();
            backend.truncate(0, 0).unwrap();
            let rows = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
            let exact = file.tensor(&format!("exact.{case}")).unwrap();
            let exact = exact.data().chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()));
            let worst = rows.iter().flatten().zip(exact).map(|(a, b)| (a - b.to_f32()).abs());
            let worst = worst.fold(0.0f32, |m, d| if d.is_nan() || d > m { d } else { m });
            println!("{case} held as {held}: max abs difference {worst:.1e}");
            assert!(worst <= 0.03, "{case} held as {held}: off by {worst}");
        }
    }
}
