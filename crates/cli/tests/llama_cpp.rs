//! The llama.cpp backend through the command: against the native backend on the same file, in one table with it, and its
//! failures as rows of a bench that goes on.

mod common;

use common::Sandbox;
use std::path::Path;

const TINY: [&str; 6] =
    ["tiny-llama", "tiny-mistral", "tiny-mixtral", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3moe"];

fn synth(sandbox: &Sandbox, arch: &str, quant: &str) -> String {
    let file = format!("{arch}-{quant}.gguf");
    sandbox.run(&["synth", arch, "--quant", quant, "-o", &file]).ok();
    file
}

/// The rows that `zonda logits` writes, `[tokens][vocab]`.
fn logits(sandbox: &Sandbox, model: &str, backend: &str, ids: &str, kv_type: &str) -> Vec<Vec<f32>> {
    let args = ["logits", "-m", model, "--backend", backend, "--kv-type", kv_type, "--ids", ids, "--json"];
    let document = sandbox.run(&[&args[..], &["--out", "l.npy"]].concat()).json();
    let vocab = document["shape"][1].as_u64().unwrap() as usize;
    let bytes = std::fs::read(sandbox.path("l.npy")).unwrap();
    let body = bytes.len() - document["shape"][0].as_u64().unwrap() as usize * vocab * 4;
    let values: Vec<f32> =
        bytes[body..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// KL divergence of two rows' distributions, in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
        row.iter().map(|&l| f64::from(l - max) - sum.ln()).collect()
    };
    log_softmax(a).iter().zip(log_softmax(b)).map(|(a, b)| a.exp() * (a - b)).sum()
}

#[test]
fn the_native_backend_computes_the_same_function() {
    let sandbox = Sandbox::new();
    let ids: Vec<String> = (0..60).map(|i| ((i * 37 + 5) % 100).to_string()).collect();
    let ids = ids.join(",");
    for quant in ["f32", "q8_0", "q4_0", "q4_k_m"] {
        let (mut agreed, mut rows) = (0, 0);
        for arch in TINY {
            let model = synth(&sandbox, arch, quant);
            let native = logits(&sandbox, &model, "native", &ids, "f32");
            let llama_cpp = logits(&sandbox, &model, "llama-cpp", &ids, "f32");
            assert_eq!(native.len(), 60);
            let pairs = || native.iter().zip(&llama_cpp);
            let kl: Vec<f64> = pairs().map(|(a, b)| divergence(a, b)).collect();
            let (mean, worst) = (kl.iter().sum::<f64>() / 60.0, kl.iter().copied().fold(0.0, f64::max));
            println!("{arch} {quant}: KL {mean:.2e} on average, {worst:.2e} at worst");
            assert!(mean <= 0.01, "{arch} {quant}: mean KL {mean:.2e}");
            // A router's choice between two experts that weigh nearly the same falls either way, and its token with it.
            let has_experts = arch.contains("moe") || arch.contains("mixtral");
            assert!(quant != "f32" || has_experts || worst <= 1e-4, "{arch}: KL {worst:.2e}");
            agreed += pairs().filter(|(a, b)| best(a) == best(b)).count();
            rows += native.len();
        }
        println!("{quant}: {agreed} of {rows} best tokens agree");
        // random weights leave the best token with hardly a lead
        assert!(agreed * 10 >= rows * 9, "{quant}: {agreed} of {rows} best tokens agree");
    }
}

#[test]
fn one_table_with_the_native_backend() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "q4_0");
    let args = [
        "bench",
        "-m",
        &model,
        "--backend",
        "native,llama-cpp,mock",
        "--pp",
        "32",
        "--tg",
        "8",
        "--runs",
        "2",
    ];
    let document = sandbox.run(&[&args[..], &["--out", "r", "--json"]].concat()).json();
    let rows = document["rows"].as_array().unwrap();
    for backend in ["native", "llama-cpp", "mock"] {
        let of = rows.iter().filter(|r| r["backend"] == backend && r["finish_reason"] == "length").count();
        assert_eq!(of, 4, "{backend}: {rows:#?}");
    }
}

#[test]
fn what_it_cannot_open_is_a_failed_row_and_the_rest_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-llama", "--quant", "f32", "-o", "folder"]).ok();
    assert!(Path::new(&sandbox.path("folder")).is_dir());
    let bench = |more: &[&str]| {
        let args = ["bench", "-m", "folder", "--pp", "8", "--runs", "1", "--out", "r", "--json"];
        sandbox.run(&[&args[..], more].concat())
    };
    // named on both sides: tried, and the reason is in the record
    let ran = bench(&["--backend", "native,llama-cpp"]).fails(1, &["1 of 2 runs failed"]);
    assert!(ran.out.contains("zonda convert"), "{}", ran.out);
    // not named: left out aloud
    let ran = bench(&[]).ok();
    assert!(ran.err.contains("not measured: folder on llama-cpp"), "{}", ran.err);
}

#[test]
fn flags_it_does_not_have_and_devices_that_are_not_there() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "f32");
    let run = |more: &[&str]| {
        let args =
            ["run", "-m", &model, "--backend", "llama-cpp", "--raw", "-n", "3", "--temp", "0", "Hello"];
        sandbox.run(&[&args[..], more].concat())
    };
    run(&["--kv-type", "q8_0"]).ok();
    run(&["--isa", "scalar"]).fails(1, &["llama-cpp backend has no --isa"]);
    run(&["--quantize", "q8_0"]).fails(1, &["llama-cpp backend has no --quantize"]);
    if !cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "rocm")) {
        run(&["--device", "gpu"]).fails(1, &["processor only", "feature cuda"]);
    }
}
