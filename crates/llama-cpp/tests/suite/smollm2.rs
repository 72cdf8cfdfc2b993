//! SmolLM2-135M (Q4_1) against another build and version of llama.cpp, without flash attention (`testdata/llama_cpp`):
//! greedy texts, perplexity, logits.

use crate::common::{all, argmax, forward, root};
use safetensors::SafeTensors;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Span, Want};
use zonda_engine::load::Model;
use zonda_llama_cpp::{LlamaCpp, LlamaCppOptions};
use zonda_testkit::models;

fn golden(name: &str) -> Vec<u8> {
    let path = root().join("testdata/llama_cpp").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&golden(name)).unwrap()
}

/// One test at a time: two thread pools spinning on the same cores would slow each other down.
fn open() -> Option<(MutexGuard<'static, ()>, LlamaCpp)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let model = Model::open(&models::find("smollm2-135m-instruct-q4_1.gguf")?).unwrap();
    let options = LlamaCppOptions { context: Some(1024), threads: Some(2), ..LlamaCppOptions::default() };
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some((alone, LlamaCpp::open(&model, &options).unwrap()))
}

fn next(backend: &mut LlamaCpp, start: usize, tokens: &[TokenId]) -> TokenId {
    let rows = forward(backend, vec![Span { slot: 0, start, tokens, want: Want::Last }]).unwrap();
    argmax(&rows[0]) as TokenId
}

/// The best logit of every step leads by more than 1, more than kernels can differ.
#[test]
fn greedy_texts_are_the_same() {
    let Some((_alone, mut backend)) = open() else { return };
    let file = json("greedy.json");
    for (n, case) in file["cases"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<TokenId> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let steps: Vec<(TokenId, f32, TokenId, f32)> = serde_json::from_value(case["steps"].clone()).unwrap();
        assert!(steps.len() >= 64);
        backend.truncate(0, 0).unwrap();
        let mut token = next(&mut backend, 0, &ids);
        for (i, &(expected, ..)) in steps.iter().enumerate() {
            assert_eq!(token, expected, "prompt {n}, token {i}");
            token = next(&mut backend, ids.len() + i, &[token]);
        }
    }
}

#[test]
fn perplexity_within_half_a_percent() {
    let Some((_alone, mut backend)) = open() else { return };
    let ids = golden("perplexity_ids.bin");
    let ids: Vec<TokenId> = ids.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let expected = json("perplexity.json");
    let first = expected["first_scored"].as_u64().unwrap() as usize;
    let (mut sum, mut count) = (0.0, 0);
    for window in ids.chunks_exact(512) {
        backend.truncate(0, 0).unwrap();
        let rows = forward(&mut backend, vec![all(0, 0, window)]).unwrap();
        for (position, &token) in window.iter().enumerate().skip(first) {
            let row = &rows[position - 1];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
            sum += total.ln() - f64::from(row[token as usize] - max);
            count += 1;
        }
    }
    assert_eq!(count, expected["q4_1"]["count"].as_i64().unwrap());
    let (ours, theirs) = ((sum / count as f64).exp(), expected["q4_1"]["ppl"].as_f64().unwrap());
    println!("perplexity {ours:.4}; the other build {theirs:.4}: {:+.3}%", 100.0 * (ours / theirs - 1.0));
    assert!((ours / theirs - 1.0).abs() < 0.005, "perplexity {ours}, the other build has {theirs}");
}

#[test]
fn logits_are_as_close_to_the_exact_ones_as_those_of_the_other_build() {
    let Some((_alone, mut backend)) = open() else { return };
    let bytes = golden("logits.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for case in ["text", "chat"] {
        let ids = file.tensor(&format!("ids.{case}")).unwrap();
        let ids = ids.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as TokenId);
        let ids: Vec<TokenId> = ids.collect();
        backend.truncate(0, 0).unwrap();
        let rows = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        let halves = |name: &str| -> Vec<f64> {
            let tensor = file.tensor(&format!("{name}.{case}")).unwrap();
            let halves = tensor.data().chunks_exact(2);
            halves.map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f64()).collect()
        };
        let ours: Vec<f64> = rows.iter().flatten().map(|&l| f64::from(l)).collect();
        let (exact, theirs) = (halves("exact"), halves("logits"));
        assert_eq!(ours.len(), exact.len());
        let mean = |a: &[f64]| a.iter().zip(&exact).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64;
        let (our_error, their_error) = (mean(&ours), mean(&theirs));
        println!("{case}: mean |logit error| {our_error:.4}; the other build {their_error:.4}");
        assert!(
            our_error < 1.5 * their_error + 0.02,
            "{case}: {our_error}, the other build has {their_error}"
        );
    }
}
