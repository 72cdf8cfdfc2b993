//! The MLX backend on the command line: compared with the native backend on the same files, in one table with it, and with
//! failures that cost one row of a bench.

mod common;

use common::Sandbox;

const TINY: [&str; 6] =
    ["tiny-llama", "tiny-mistral", "tiny-mixtral", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3moe"];

/// The rows that `zonda logits` writes, `[tokens][vocab]`.
fn logits(sandbox: &Sandbox, model: &str, backend: &str, more: &[&str]) -> Vec<Vec<f32>> {
    let ids: Vec<String> = (0..60).map(|i| ((i * 37 + 5) % 100).to_string()).collect();
    let ids = ids.join(",");
    let args = ["logits", "-m", model, "--backend", backend, "--kv-type", "f32", "--ids", &ids, "--json"];
    let document = sandbox.run(&[&args[..], &["--out", "l.npy"], more].concat()).json();
    let vocab = document["shape"][1].as_u64().unwrap() as usize;
    let bytes = std::fs::read(sandbox.path("l.npy")).unwrap();
    let body = bytes.len() - 60 * vocab * 4;
    let values: Vec<f32> =
        bytes[body..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
}

/// The largest difference; NaN if any value is NaN.
fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

#[test]
fn the_native_backend_computes_the_same_function() {
    let sandbox = Sandbox::new();
    for arch in TINY {
        let (file, folder) = (format!("{arch}.gguf"), format!("{arch}-folder"));
        sandbox.run(&["synth", arch, "--quant", "f32", "-o", &file]).ok();
        sandbox.run(&["synth", arch, "--quant", "f32", "-o", &folder]).ok();
        for model in [&file, &folder] {
            // Both backends use f32 activations.
            let native = logits(&sandbox, model, "native", &[]);
            let mlx = logits(&sandbox, model, "mlx", &[]);
            let d = difference(&native, &mlx);
            println!("{model}: {d:.1e}");
            assert!(d <= 1e-3, "{model}: off by {d}");
        }
    }
}

#[test]
fn one_table_with_the_native_backend() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-llama", "--quant", "q4_0", "-o", "tiny.gguf"]).ok();
    sandbox.run(&["synth", "tiny-llama", "--quant", "bf16", "-o", "folder"]).ok();
    let args = [
        "bench",
        "-m",
        "tiny.gguf",
        "-m",
        "folder",
        "--backend",
        "native,mlx,mock",
        "--pp",
        "32",
        "--tg",
        "8",
    ];
    let document = sandbox.run(&[&args[..], &["--runs", "2", "--out", "r", "--json"]].concat()).json();
    let rows = document["rows"].as_array().unwrap();
    for (backend, expected) in [("native", 8), ("mlx", 8), ("mock", 4)] {
        let of = rows.iter().filter(|r| r["backend"] == backend && r["finish_reason"] == "length").count();
        assert_eq!(of, expected, "{backend}: {rows:#?}");
    }
}

#[test]
fn unsupported_flags_and_missing_devices_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-llama", "--quant", "f32", "-o", "folder"]).ok();
    let run = |more: &[&str]| {
        let args = ["logits", "-m", "folder", "--backend", "mlx", "--ids", "1,2", "--out", "l.npy"];
        sandbox.run(&[&args[..], more].concat())
    };
    run(&["--device", "cpu", "--threads", "1", "--quantize", "q8", "--kv-type", "f16"]).ok();
    run(&["--isa", "scalar"]).fails(1, &["the mlx backend has no --isa"]);
    run(&["--quantize", "q4_k_m"]).fails(1, &["q4 or q8", "q4_k_m"]);
    let kept = ["run", "-m", "folder", "--backend", "mlx", "--prompt-cache", "p.kv", "--raw", "a"];
    sandbox.run(&kept).fails(1, &["the mlx backend can't export its KV cache", "prompts can't be stored"]);
    if zonda_has_no_gpu(&sandbox) {
        run(&["--device", "gpu"]).fails(1, &["finds no GPU"]);
    }
}

/// Whether MLX computes on the CPU by default.
fn zonda_has_no_gpu(sandbox: &Sandbox) -> bool {
    let args =
        ["bench", "-m", "folder", "--backend", "mlx", "--pp", "2", "--runs", "1", "--out", "g", "--json"];
    let document = sandbox.run(&args).json();
    document["rows"][0]["device"] == "cpu" || document.to_string().contains("\"device\":\"cpu\"")
}
