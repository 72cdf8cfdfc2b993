//! The llama.cpp backend on the command line: compared with the native backend on the same file, in one table with it, and with
//! failures that cost one row of a bench.

mod common;

use common::{Sandbox, Served};
use std::path::Path;
use zonda_testkit::models;

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

/// KL divergence of the distributions of two rows, in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
        row.iter().map(|&l| f64::from(l - max) - sum.ln()).collect()
    };
    log_softmax(a).iter().zip(log_softmax(b)).map(|(a, b)| a.exp() * (a - b)).sum()
}

/// One server with one model, under a name for each backend.
#[test]
fn a_server_runs_a_model_on_both_backends() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "f32");
    let server = Served::start(&sandbox, &["-m", &model, "--backend", "llama-cpp,native", "--ctx", "64"]);
    assert_eq!(server.models, ["tiny-llama-f32", "tiny-llama-f32@native"]);
    server.end();
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
            let mut kl: Vec<f64> = pairs().map(|(a, b)| divergence(a, b)).collect();
            kl.sort_by(f64::total_cmp);
            let (mean, median, worst) = (kl.iter().sum::<f64>() / 60.0, kl[30], kl[59]);
            println!(
                "{arch} {quant}: KL {mean:.2e} on average, {median:.2e} in the middle, {worst:.2e} at worst"
            );
            // A router's choice between two nearly equal experts can go either way, and so can the token.
            let has_experts = arch.contains("moe") || arch.contains("mixtral");
            let usual = if has_experts { median } else { mean };
            assert!(usual <= 0.01, "{arch} {quant}: mean KL {mean:.2e}, median {median:.2e}");
            assert!(quant != "f32" || has_experts || worst <= 1e-4, "{arch}: KL {worst:.2e}");
            agreed += pairs().filter(|(a, b)| best(a) == best(b)).count();
            rows += native.len();
        }
        println!("{quant}: {agreed} of {rows} best tokens agree");
        // With random weights the best token hardly leads.
        assert!(agreed * 10 >= rows * 9, "{quant}: {agreed} of {rows} best tokens agree");
    }
}

/// The types of `zonda quantize`, and the types that most matrices with rows of 256 and of 576 values get.
const QUANTIZED: [(&str, &str, &str); 6] = [
    ("q8_0", "q8_0", "q8_0"),
    ("q6_k", "q6_k", "q8_0"),
    ("q5_k_m", "q5_k", "q5_1"),
    ("q4_k_m", "q4_k", "q5_0"),
    ("q4_1", "q4_1", "q4_1"),
    ("q4_0", "q4_0", "q4_0"),
];

/// Quantises a file and returns the type of the first layer's query matrix.
fn quantize(sandbox: &Sandbox, from: &str, to: &str, kind: &str) -> String {
    let args = ["quantize", from, to, kind, "--allow-requantize", "--json"];
    let document = sandbox.run(&args).json();
    let tensors = document["tensors"].as_array().unwrap();
    let query = tensors.iter().find(|t| t["name"] == "blk.0.attn_q.weight").unwrap();
    query["type"].as_str().unwrap().to_owned()
}

/// Files from our quantiser load in llama.cpp, which reads the same values from them.
#[test]
fn quantised_files_are_the_same_function_in_llama_cpp() {
    let sandbox = Sandbox::new();
    let ids: Vec<String> = (0..60).map(|i| ((i * 53 + 7) % 100).to_string()).collect();
    let ids = ids.join(",");
    for (kind, whole, _) in QUANTIZED {
        let (mut agreed, mut rows) = (0, 0);
        for arch in ["tiny-llama", "tiny-mistral", "tiny-mixtral", "tiny-qwen3"] {
            let source = synth(&sandbox, arch, "f32");
            assert_eq!(quantize(&sandbox, &source, "q.gguf", kind), whole, "{arch}");
            let native = logits(&sandbox, "q.gguf", "native", &ids, "f32");
            let llama_cpp = logits(&sandbox, "q.gguf", "llama-cpp", &ids, "f32");
            let pairs = || native.iter().zip(&llama_cpp);
            let mean = pairs().map(|(a, b)| divergence(a, b)).sum::<f64>() / 60.0;
            println!("{arch} {kind}: KL {mean:.2e} on average");
            assert!(mean <= 0.01, "{arch} {kind}: mean KL {mean:.2e}");
            agreed += pairs().filter(|(a, b)| best(a) == best(b)).count();
            rows += native.len();
        }
        println!("{kind}: {agreed} of {rows} best tokens agree");
        assert!(agreed * 10 >= rows * 9, "{kind}: {agreed} of {rows} best tokens agree");
    }
}

/// The same for a real model, whose rows of 576 values don't divide into K blocks (those of 1536 do). For K blocks llama.cpp
/// rounds activations to bytes with one scale per 256 values instead of 32 (its Q8_K), so the bound is wider than that of
/// `verify`; misreading the weights would cost whole nats.
#[test]
fn a_quantised_real_model_is_the_same_function_in_llama_cpp() {
    let Some(source) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    for (kind, _, fallback) in QUANTIZED {
        assert_eq!(quantize(&sandbox, source.to_str().unwrap(), "q.gguf", kind), fallback, "{kind}");
        let args =
            ["verify", "--backend", "native,llama-cpp", "--positions", "150", "--json", "-m", "q.gguf"];
        let bounds = ["--max-kl", "0.03", "--min-top1", "95"];
        let document = sandbox.run(&[&args[..], &bounds].concat()).json();
        let pair = &document["pairs"][0];
        println!(
            "{kind}: KL {} on average, top-1 {} ({} without near ties)",
            pair["kl_mean"], pair["top1"], pair["top1_decided"]
        );
        assert!(pair["positions"].as_u64().unwrap() >= 150, "{pair}");
    }
}

/// One process imports what another computed with llama.cpp; each backend refuses the other's file.
#[test]
fn llama_cpp_stores_prompts_on_disk() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "q8_0");
    let prompt: String = (0..30).map(|i| format!("wind {i} ")).collect();
    let ask = |backend: &str, more: &[&str]| {
        let args =
            ["run", "-m", &model, "--backend", backend, "--raw", "--temp", "0", "-n", "8", "--ignore-eos"];
        sandbox.run(&[&args[..], &["--json", "--ctx", "512", &prompt], more].concat())
    };
    let plain = ask("llama-cpp", &[]).json();
    let tokens = plain["prompt_tokens"].as_u64().unwrap();
    let kept = ["--prompt-cache", "p.kv"];
    for cached in [0, tokens - 1, tokens - 1] {
        let ran = ask("llama-cpp", &kept);
        assert_eq!(ran.err, "");
        let document = ran.json();
        assert_eq!(
            (document["cached_tokens"].as_u64().unwrap(), &document["tokens"]),
            (cached, &plain["tokens"])
        );
    }
    let other = ask("native", &kept);
    assert!(other.err.contains("another model, backend or KV type"), "{other:?}");
    assert_eq!(other.json()["cached_tokens"], 0);
    let other = ask("llama-cpp", &[&kept[..], &["--kv-type", "f32"]].concat());
    assert!(other.err.contains("another model, backend or KV type"), "{other:?}");
}

/// As documented: the best tokens are the same except for near ties, and both backends are within bounds of the reference.
#[test]
fn verify_finds_the_same_function_in_a_real_model() {
    let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    let args = ["verify", "--backend", "native,llama-cpp", "--positions", "1000", "--json", "-m"];
    let document = sandbox.run(&[&args[..], &[path.to_str().unwrap()]].concat()).json();
    let pair = &document["pairs"][0];
    assert_eq!((&pair["reference"], &pair["other"]), (&"native".into(), &"llama-cpp".into()));
    assert!(pair["positions"].as_u64().unwrap() >= 1000, "{pair}");
    println!("{pair:#}");
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
fn a_model_that_it_cannot_open_is_a_failed_row_and_the_rest_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-llama", "--quant", "f32", "-o", "folder"]).ok();
    assert!(Path::new(&sandbox.path("folder")).is_dir());
    let bench = |more: &[&str]| {
        let args = ["bench", "-m", "folder", "--pp", "8", "--runs", "1", "--out", "r", "--json"];
        sandbox.run(&[&args[..], more].concat())
    };
    // Both the model and the backend are named: it is tried, and the record has the reason.
    let ran = bench(&["--backend", "native,llama-cpp"]).fails(1, &["1 of 2 runs failed"]);
    assert!(ran.out.contains("zonda convert"), "{}", ran.out);
    // The backend is not named: the model is skipped with a message.
    let ran = bench(&[]).ok();
    assert!(ran.err.contains("not measured: folder on llama-cpp"), "{}", ran.err);
}

/// Overwrites the bytes at `skip` bytes after the first occurrence of `key`.
fn patch(sandbox: &Sandbox, file: &str, key: &str, skip: usize, with: &[u8]) {
    let mut bytes = std::fs::read(sandbox.path(file)).unwrap();
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).expect(key) + key.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    std::fs::write(sandbox.path(file), bytes).unwrap();
}

/// A failure on one model is confined to it: its rows give the reason, and the other model is measured.
#[test]
fn a_model_that_llama_cpp_can_not_load_is_a_failed_row_and_the_rest_is_measured() {
    let sandbox = Sandbox::new();
    let good = synth(&sandbox, "tiny-qwen2", "q8_0");

    let cut = synth(&sandbox, "tiny-llama", "q8_0");
    let whole = std::fs::read(sandbox.path(&cut)).unwrap();
    std::fs::write(sandbox.path(&cut), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(sandbox.path("foreign.gguf"), &whole).unwrap();
    // A string's length takes 8 bytes, and its type 4.
    patch(&sandbox, "foreign.gguf", "general.architecture", 12, b"gemma");
    // Our loader accepts up to 1024 layers. llama.cpp would abort at more than 512, so it is not given the model.
    sandbox.run(&["synth", "tiny-llama", "--quant", "q4_0", "--layers", "513", "-o", "deep.gguf"]).ok();

    for (bad, says) in [
        (cut.as_str(), "the data has"),
        ("foreign.gguf", "gemma"),
        ("deep.gguf", "llama.cpp can't run ./deep.gguf: it has 513 layers; expected at most 512"),
    ] {
        let args = ["bench", "-m", bad, "-m", &good, "--backend", "llama-cpp", "--pp", "8", "--runs", "2"];
        let ran = sandbox.run(&[&args[..], &["--out", "r", "--json"]].concat());
        let ran = ran.fails(1, &["2 of 4 runs failed"]);
        let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let rows = document["rows"].as_array().unwrap();
        let name = bad.strip_suffix(".gguf").unwrap();
        let (failed, measured): (Vec<_>, Vec<_>) = rows.iter().partition(|r| r["model"] == name);
        assert_eq!((failed.len(), measured.len()), (2, 2), "{rows:#?}");
        assert!(failed[0].to_string().contains(says), "{bad}: {says:?} is not in {:#}", failed[0]);
        assert!(measured.iter().all(|r| r["prefill_tps"].as_f64().is_some_and(|s| s > 0.0)), "{measured:#?}");
    }
}

/// A KV cache of about 60 GB in an address space of 8 GB: the allocation fails on any machine.
#[cfg(target_os = "linux")]
#[test]
fn a_failed_allocation_is_a_failed_row_and_the_rest_is_measured() {
    // The memory plan would refuse this, so it is turned off to let llama.cpp's own allocation fail.
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "q8_0");
    let context: u32 = 1 << 26;
    patch(&sandbox, &model, "llama.context_length", 4, &context.to_le_bytes());
    let zonda = env!("CARGO_BIN_EXE_zonda");
    let bench = format!(
        "ulimit -v 8000000; exec {zonda} bench -m {model} --backend llama-cpp,mock --pp 8 --runs 1 --ctx {context} \
         --kv-type f32 --no-memory-check --out r --json"
    );
    let mut command = sandbox.command();
    let output = std::process::Command::new("sh")
        .args(["-c", &bench])
        .current_dir(sandbox.path(""))
        .envs(command.env("MALLOC_ARENA_MAX", "1").get_envs().filter_map(|(k, v)| Some((k, v?))))
        .output()
        .unwrap();
    let ran = common::ran(output).fails(1, &["1 of 2 runs failed"]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let row = |backend: &str| {
        document["rows"].as_array().unwrap().iter().find(|r| r["backend"] == backend).unwrap().clone()
    };
    assert!(row("llama-cpp").to_string().contains("alloc"), "{:#}", row("llama-cpp"));
    assert!(row("mock")["prefill_tps"].as_f64().is_some_and(|s| s > 0.0), "{:#}", row("mock"));
}

#[test]
fn unsupported_flags_and_missing_devices_are_refused() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "f32");
    let run = |more: &[&str]| {
        let args =
            ["run", "-m", &model, "--backend", "llama-cpp", "--raw", "-n", "3", "--temp", "0", "Hello"];
        sandbox.run(&[&args[..], more].concat())
    };
    run(&["--kv-type", "q8_0"]).ok();
    run(&["--kv-type", "q4_0"]).ok();
    run(&["--isa", "scalar"]).fails(1, &["llama-cpp backend has no --isa"]);
    run(&["--quantize", "q8_0"]).fails(1, &["llama-cpp backend has no --quantize"]);
    run(&["--gpu-layers", "0"]).fails(2, &["--gpu-layers"]);
    run(&["--device", "cpu", "--gpu-layers", "3"]).fails(1, &["--gpu-layers", "--device cpu"]);
    if !cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan", feature = "rocm")) {
        for gpu in [&["--device", "gpu"][..], &["--gpu-layers", "3"]] {
            run(gpu).fails(1, &["CPU only", "feature cuda"]);
        }
        let doctor = sandbox.run(&["doctor", "--quick"]).ok();
        assert!(
            doctor.out.contains("gpus          none") && doctor.out.contains("CPU only"),
            "{}",
            doctor.out
        );
    }
}

/// A tiny model that only llama.cpp runs, and the file's name.
fn foreign(sandbox: &Sandbox, architecture: &str, vocabulary: Option<&str>) -> String {
    let like = sandbox.path(&synth(sandbox, "tiny-llama", "f32"));
    let like = zonda_engine::load::GgufFile::open(&like).unwrap().metadata;
    let vocabulary = vocabulary.map(|kind| zonda_testkit::foreign::vocabulary(kind, &like));
    let metadata = vocabulary.as_ref().unwrap_or(&like);
    let path = zonda_testkit::foreign::foreign(architecture, metadata, &sandbox.path(""));
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_file_that_only_llama_cpp_runs_needs_no_backend_by_name() {
    let sandbox = Sandbox::new();
    for architecture in ["falcon", "gpt2", "stablelm", "starcoder2", "mamba", "rwkv6", "rwkv7"] {
        let model = foreign(&sandbox, architecture, None);
        let args = [
            "run",
            "-m",
            &model,
            "--raw",
            "--temp",
            "0",
            "-n",
            "6",
            "--ignore-eos",
            "--json",
            "wind and sea",
        ];
        let document = sandbox.run(&args).json();
        assert_eq!(document["completion_tokens"], 6, "{architecture}: {document}");
        let native = sandbox.run(&["run", "-m", &model, "--backend", "native", "--raw", "-n", "1", "wind"]);
        let says = format!("the native backend can't run {architecture}");
        native.fails(1, &[&says, "is not supported", "`--backend llama-cpp`"]);
    }
}

#[test]
fn inspect_says_which_backends_can_run_a_file() {
    let sandbox = Sandbox::new();
    let model = foreign(&sandbox, "mamba", None);
    let document = sandbox.run(&["inspect", &model, "--json"]).json();
    assert_eq!((&document["runs"], &document["architecture"]), (&true.into(), &"mamba".into()));
    let backends = document["backends"].as_array().unwrap();
    let of = |name: &str| backends.iter().find(|b| b["backend"] == name).unwrap();
    assert!(of("native")["why_not"].as_str().unwrap().contains("\"mamba\" is not supported"), "{document}");
    assert_eq!(
        (&of("llama-cpp")["why_not"], &of("llama-cpp")["compiled_in"]),
        (&serde_json::Value::Null, &true.into())
    );
    assert_eq!(document["memory"]["kv_bytes"], 0, "it keeps a state");
    let text = sandbox.run(&["inspect", &model]).ok().out;
    assert!(text.contains("runs on       llama-cpp\n") && text.contains("not on        native"), "{text}");
}

#[test]
fn a_file_with_iq4_nl_runs_on_both_backends() {
    let sandbox = Sandbox::new();
    let model = synth(&sandbox, "tiny-llama", "q4_0");
    // Blocks of iq4_nl are as large as those of q4_0. Two dimensions stand before the type: a count and two sizes.
    patch(&sandbox, &model, "blk.0.ffn_up.weight", 4 + 16, &20u32.to_le_bytes());
    let run = |more: &[&str]| {
        let args = ["run", "-m", &model, "--raw", "--temp", "0", "-n", "4", "--ignore-eos", "--json", "wind"];
        sandbox.run(&[&args[..], more].concat())
    };
    for backend in ["native", "llama-cpp"] {
        assert_eq!(run(&["--backend", backend]).json()["completion_tokens"], 4, "{backend}");
    }
    let text = sandbox.run(&["inspect", &model]).ok().out;
    assert!(text.contains("native") && text.contains("iq4_nl"), "{text}");
}

/// Without reference logits a rank rests on trust, and the report says so.
#[test]
fn a_file_that_only_llama_cpp_runs_is_benched_with_a_warning() {
    let sandbox = Sandbox::new();
    let model = foreign(&sandbox, "rwkv7", Some("rwkv"));
    let args = ["bench", "-m", &model, "--pp", "16", "--tg", "4", "--runs", "2", "--out", "r", "--json"];
    let ran = sandbox.run(&args).ok();
    assert!(ran.err.contains("not measured: rwkv7 on native: "), "{}", ran.err);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let rows = document["rows"].as_array().unwrap();
    assert!(rows.iter().filter(|r| r["backend"] == "llama-cpp").count() >= 4, "{document:#}");
    assert!(rows.iter().all(|r| r["backend"] != "native"), "{document:#}");
    let report = std::fs::read_dir(sandbox.path("r")).unwrap().flatten();
    let markdown = report.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "md")).unwrap();
    let markdown = std::fs::read_to_string(markdown).unwrap();
    assert!(
        markdown.contains("could not be compared with the reference, so its rank is unverified"),
        "{markdown}"
    );
    assert!(markdown.contains("\"rwkv7\" is not supported"), "{markdown}");
}

/// Sends a chat; returns status and answer.
fn chat(server: &Served, content: &str) -> serde_json::Value {
    use std::io::{Read as _, Write as _};
    let body = serde_json::json!({
        "messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0,
    })
    .to_string();
    let mut stream = std::net::TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    serde_json::from_str(body).unwrap()
}

/// A recurrent model behind the server: a request after another, in the same slot, gets what it gets on a server of its own.
#[test]
fn a_recurrent_model_serves_chats() {
    let sandbox = Sandbox::new();
    for architecture in ["mamba", "starcoder2"] {
        let model = foreign(&sandbox, architecture, None);
        let start = || Served::start(&sandbox, &["-m", &model, "--parallel", "1", "--ctx", "512"]);
        let answer = |server: &Served, content: &str| chat(server, content)["choices"][0]["message"].clone();
        let questions = ["Why is the wind warm?", "Why is the wind cold?", "Why is the wind warm?", "Hello"];
        let server = start();
        let together: Vec<_> = questions.iter().map(|question| answer(&server, question)).collect();
        server.end();
        for (question, found) in questions.iter().zip(&together) {
            let server = start();
            assert_eq!(&answer(&server, question), found, "{architecture}: {question}");
            server.end();
        }
    }
}

#[test]
fn tokenizers_that_only_llama_cpp_has_are_used() {
    let sandbox = Sandbox::new();
    let model = foreign(&sandbox, "falcon", Some("bert"));
    let ids = sandbox.run(&["tokenize", "-m", &model, "--json", "the wind is warm"]).json();
    assert!(ids.to_string().contains("104"), "{ids}");
    let args = ["run", "-m", &model, "--raw", "--temp", "0", "-n", "4", "--ignore-eos", "--json", "the wind"];
    assert_eq!(sandbox.run(&args).json()["completion_tokens"], 4);
    let text = sandbox.run(&["inspect", &model]).ok().out;
    assert!(text.contains("tokens, ends with"), "{text}");
}
