//! SmolLM2-135M (Q4_1) against llama.cpp (`testdata/llama_cpp`): greedy texts, perplexity, logits.
//!
//! Both round activations to 8 bits, in groups of different sizes, so the logits differ; the tests bound the difference.

use safetensors::SafeTensors;
use std::path::PathBuf;
use std::sync::Arc;
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::Model;
use zonda_native::{Native, NativeOptions};
use zonda_testkit::models;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama_cpp").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn open() -> Option<Native> {
    let model = Arc::new(Model::open(&models::find("smollm2-135m-instruct-q4_1.gguf")?).unwrap());
    Some(Native::open(&model, &NativeOptions { context: Some(1024), ..NativeOptions::default() }).unwrap())
}

fn forward(native: &mut Native, start: usize, tokens: &[TokenId], want: Want, out: &mut Logits) {
    native.forward(&Batch { spans: vec![Span { slot: 0, start, tokens, want }] }, out).unwrap();
}

fn best(row: &[f32]) -> TokenId {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap() as TokenId
}

/// `−ln p(token)` under a row of logits.
fn nll(row: &[f32], token: TokenId) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
    sum.ln() - f64::from(row[token as usize] - max)
}

#[test]
fn greedy_texts_agree_for_48_tokens_or_diverge_at_a_near_tie() {
    let Some(mut native) = open() else { return };
    let file: serde_json::Value = serde_json::from_slice(&golden("greedy.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    let mut out = Logits::new();
    for (n, case) in cases.iter().enumerate() {
        let ids: Vec<TokenId> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let steps: Vec<(TokenId, f32, TokenId, f32)> = serde_json::from_value(case["steps"].clone()).unwrap();
        native.truncate(0, 0).unwrap();
        forward(&mut native, 0, &ids, Want::Last, &mut out);
        let mut agreed = 0;
        for (i, &(expected, top, second, runner_up)) in steps.iter().enumerate() {
            let got = best(out.row(0));
            if got != expected {
                let tie = got == second && top - runner_up < 0.1;
                assert!(
                    agreed >= 48 || tie,
                    "prompt {n}: token {i} is {got}, llama.cpp has {expected} ({top}) before {second} ({runner_up})"
                );
                break;
            }
            agreed += 1;
            forward(&mut native, ids.len() + i, &[got], Want::Last, &mut out);
        }
        println!("prompt {n}: {agreed} of {} tokens agree", steps.len());
    }
}

#[test]
fn perplexity_within_one_percent() {
    let Some(mut native) = open() else { return };
    let ids: Vec<TokenId> = golden("perplexity_ids.bin")
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let expected: serde_json::Value = serde_json::from_slice(&golden("perplexity.json")).unwrap();
    let first = expected["first_scored"].as_u64().unwrap() as usize;
    let (mut sum, mut count) = (0.0, 0);
    let mut out = Logits::new();
    for window in ids.chunks_exact(512) {
        native.truncate(0, 0).unwrap();
        forward(&mut native, 0, window, Want::All, &mut out);
        for (position, &token) in window.iter().enumerate().skip(first) {
            sum += nll(out.row(position - 1), token);
            count += 1;
        }
    }
    let ours = (sum / f64::from(count)).exp();
    for of in ["q4_1", "exact"] {
        let theirs = expected[of]["ppl"].as_f64().unwrap();
        println!(
            "perplexity {ours:.4}; llama.cpp ({of}) {theirs:.4}: {:+.3}%",
            100.0 * (ours / theirs - 1.0)
        );
    }
    assert_eq!(count, expected["q4_1"]["count"].as_i64().unwrap() as i32);
    let theirs = expected["q4_1"]["ppl"].as_f64().unwrap();
    assert!((ours / theirs - 1.0).abs() < 0.01, "perplexity {ours}, llama.cpp has {theirs}");
}

#[test]
fn logits_are_as_close_to_the_exact_ones_as_rounding_allows() {
    let Some(mut native) = open() else { return };
    let bytes = golden("logits.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut out = Logits::new();
    for case in ["text", "chat"] {
        let ids: Vec<TokenId> = file
            .tensor(&format!("ids.{case}"))
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as TokenId)
            .collect();
        native.truncate(0, 0).unwrap();
        forward(&mut native, 0, &ids, Want::All, &mut out);
        let ours: Vec<f64> = (0..ids.len()).flat_map(|r| out.row(r)).map(|&l| f64::from(l)).collect();
        let exact: Vec<f64> = halves(file.tensor(&format!("exact.{case}")).unwrap().data());
        let theirs: Vec<f64> = halves(file.tensor(&format!("logits.{case}")).unwrap().data());
        let mean =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64;
        let (our_error, their_error) = (mean(&ours, &exact), mean(&theirs, &exact));
        println!("{case}: mean |logit error| {our_error:.4}; llama.cpp {their_error:.4}");
        assert!(our_error < 2.0 * their_error + 0.02, "{case}: {our_error}, llama.cpp has {their_error}");
    }
}

fn halves(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
}
