//! KV types with fewer bits: what they do not change, and what they cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Batch, Logits, Slot, Span, Want};
use zonda_engine::load::Model;
use zonda_kernels::attention::KvType;
use zonda_native::{Native, NativeOptions};
use zonda_testkit::models;

fn open(path: &Path, kv_type: KvType) -> Native {
    let model = Arc::new(Model::open(path).unwrap());
    let context = Some(512.min(model.spec.context_length));
    let options = NativeOptions { kv_type, threads: Some(2), slots: 3, context, ..NativeOptions::default() };
    Native::open(&model, &options).unwrap()
}

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf").join(name)
}

/// The logits of every token.
fn forward(native: &mut Native, slot: Slot, start: usize, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let mut out = Logits::new();
    let spans = vec![Span { slot, start, tokens, want: Want::All }];
    native.forward(&Batch { spans }, &mut out).unwrap();
    (0..out.rows()).map(|r| out.row(r).to_vec()).collect()
}

/// Prompts widen a page for many queries; decode steps read it directly.
#[test]
fn every_prefill_equals_decode_in_every_type() {
    let names = ["llama", "mistral_window", "qwen3", "ministral3", "gemma3", "gemma2", "olmo3", "cohere2"];
    let newer = [
        "deepseek_v2",
        "deepseek_v3",
        "mistral4",
        "glm4_moe",
        "gpt_oss",
        "phi3",
        "phi3_long",
        "glm",
        "glm4",
        "llama4",
    ];
    let granite = ["granitemoe", "granitemoeshared", "granitemoehybrid_nope"];
    for name in names.into_iter().chain(newer).chain(granite) {
        for kv_type in KvType::ALL {
            let mut native = open(&tiny(name), kv_type);
            let length = native.limits().context.min(300);
            let ids: Vec<TokenId> = (0..length as u32).map(|i| (i * 7 + i / 9) % 50).collect();
            let one_by_one: Vec<Vec<f32>> =
                (0..length).flat_map(|i| forward(&mut native, 0, i, &ids[i..=i])).collect();
            let what = format!("{name} with {}", kv_type.name());
            assert_eq!(one_by_one, forward(&mut native, 1, 0, &ids), "{what} at once");
            let chunks = ids.chunks(37).enumerate();
            let chunked: Vec<Vec<f32>> =
                chunks.flat_map(|(i, chunk)| forward(&mut native, 2, 37 * i, chunk)).collect();
            assert_eq!(one_by_one, chunked, "{what} in chunks");
        }
    }
}

/// `KL(p ‖ q)` of the distributions of two rows of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = row.iter().map(|&l| (f64::from(l) - max).exp()).sum();
        row.iter().map(|&l| f64::from(l) - max - total.ln()).collect()
    };
    log_softmax(p).into_iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn smollm2_stays_within_the_bound_of_each_kv_type() {
    let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let ids = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama_cpp/perplexity_ids.bin");
    let ids: Vec<TokenId> = std::fs::read(ids)
        .unwrap()
        .chunks_exact(4)
        .map(|b| TokenId::from_le_bytes(b.try_into().unwrap()))
        .take(384)
        .collect();
    let exact = forward(&mut open(&path, KvType::F32), 0, 0, &ids);
    for (kv_type, bound) in [(KvType::F16, 7e-3), (KvType::Q8_0, 8e-3), (KvType::Q4_0, 8e-2)] {
        let rows = forward(&mut open(&path, kv_type), 0, 0, &ids);
        let kl: f64 = rows.iter().zip(&exact).map(|(q, p)| divergence(p, q)).sum::<f64>() / rows.len() as f64;
        println!("{}: KL {kl:.5} from keys and values in f32", kv_type.name());
        assert!(kl < bound, "{}: KL {kl}, expected less than {bound}", kv_type.name());
    }
}
