//! `--prompt-cache` across processes: a second process imports what the first computed and gives the same answer. Unusable
//! entries are reported and don't change the answer. A server's folder stays within its size.

use crate::common::{Ran, Sandbox, Served};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

fn synth(sandbox: &Sandbox, arch: &str, seed: &str, file: &str) {
    sandbox.run(&["synth", arch, "--quant", "q8_0", "--seed", seed, "-o", file]).ok();
}

/// A few hundred tokens.
fn prompt() -> String {
    (0..30).map(|i| format!("wind {i} ")).collect()
}

/// The answer to a prompt, with additional arguments.
fn ask(sandbox: &Sandbox, more: &[&str]) -> Ran {
    let prompt = prompt();
    let args = ["run", "--raw", "--temp", "0", "-n", "8", "--ignore-eos", "--json", "--ctx", "512", &prompt];
    sandbox.run(&[&args[..], more].concat())
}

/// How many tokens of the prompt came from the cache.
fn cached(document: &Value) -> u64 {
    document["cached_tokens"].as_u64().unwrap()
}

#[test]
fn a_second_run_imports_and_gives_the_same_answer() {
    let sandbox = Sandbox::new();
    synth(&sandbox, "tiny-mistral", "1", "m.gguf");
    for kv_type in ["f16", "q8_0", "f32"] {
        let plain = ask(&sandbox, &["-m", "m.gguf", "--kv-type", kv_type]).json();
        let file = format!("{kv_type}.kv");
        let args = ["-m", "m.gguf", "--kv-type", kv_type, "--prompt-cache", &file];
        let (first, second) = (ask(&sandbox, &args), ask(&sandbox, &args));
        assert_eq!((&first.err, &second.err), (&String::new(), &String::new()));
        let (first, second) = (first.json(), second.json());
        let tokens = first["prompt_tokens"].as_u64().unwrap();
        // Not a whole number of KV cache pages, so the last page is imported in part.
        assert!(tokens > 100 && tokens % 32 > 1, "{tokens} tokens");
        assert_eq!((cached(&first), cached(&second)), (0, tokens - 1), "{kv_type}: one token is computed");
        for document in [&first, &second] {
            assert_eq!(document["tokens"], plain["tokens"], "{kv_type}");
            assert_eq!(document["text"], plain["text"], "{kv_type}");
        }
    }
    // The line of figures shows it. A prompt that continues this one imports the shared prefix.
    let longer = prompt() + "and then some";
    let args = ["run", "-m", "m.gguf", "--raw", "-n", "2", "--prompt-cache", "f16.kv", "--ctx", "512"];
    let ran = sandbox.run(&[&args[..], &[&longer]].concat()).ok();
    assert!(ran.err.contains(" cached)"), "{ran:?}");
}

#[test]
fn the_mock_and_chat_store_prompts_too() {
    let sandbox = Sandbox::new();
    let args = ["-m", "mock", "--prompt-cache", "mock.kv"];
    let (first, second) = (ask(&sandbox, &args).json(), ask(&sandbox, &args).json());
    assert_eq!(first["tokens"], second["tokens"]);
    assert_eq!(cached(&second), second["prompt_tokens"].as_u64().unwrap() - 1);
    let other = ask(&sandbox, &["-m", "mock", "--seed", "5", "--prompt-cache", "mock.kv"]);
    assert!(other.err.contains("another model"), "{other:?}");

    synth(&sandbox, "tiny-mistral", "1", "m.gguf");
    let chat = || {
        let args =
            ["chat", "-m", "m.gguf", "--temp", "0", "-n", "4", "--ctx", "1024", "--prompt-cache", "c.kv"];
        sandbox.run_with_input(&args, (prompt() + "\n/stats\n").as_bytes()).ok()
    };
    let (first, second) = (chat(), chat());
    assert_eq!(first.out, second.out);
    assert!(!first.err.contains(" cached)") && second.err.contains(" cached)"), "{first:?} {second:?}");
}

#[test]
fn unusable_entries_are_reported_and_the_prompt_is_computed() {
    let sandbox = Sandbox::new();
    synth(&sandbox, "tiny-mistral", "1", "m.gguf");
    synth(&sandbox, "tiny-mistral", "2", "other.gguf");
    let args = ["-m", "m.gguf", "--prompt-cache", "p.kv"];
    let file = sandbox.path("p.kv");
    let expected = ask(&sandbox, &args).json();
    let whole = std::fs::read(&file).unwrap();
    let refused = |more: &[&str], says: &str| {
        let ran = ask(&sandbox, &[&args[..], more].concat());
        assert!(ran.err.contains("not used") && ran.err.contains(says), "{says:?} is not in {ran:?}");
        let document = ran.json();
        assert_eq!((cached(&document), &document["tokens"]), (0, &expected["tokens"]), "{says}");
    };
    let with = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    // Damages the checksum, a token, and the keys and values.
    for at in [8, 600, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        with(&flipped);
        refused(&[], "the file is damaged");
        // The entry is rewritten, so the next run imports it.
        assert!(cached(&ask(&sandbox, &args).json()) > 100, "byte {at}");
    }
    for cut in [30, whole.len() / 2, whole.len() - 1] {
        with(&whole[..cut]);
        refused(&[], "the file has the wrong size");
    }
    with(&[&whole[..], b"more"].concat());
    refused(&[], "the file has the wrong size");
    ask(&sandbox, &["-m", "other.gguf", "--prompt-cache", "foreign.kv"]).ok();
    with(&std::fs::read(sandbox.path("foreign.kv")).unwrap());
    refused(&[], "made with another model, backend or KV type");
    with(&whole);
    let other_type = ask(&sandbox, &[&args[..], &["--kv-type", "q8_0"]].concat());
    assert!(other_type.err.contains("another model, backend or KV type"), "{other_type:?}");
    assert_eq!(cached(&other_type.json()), 0);
    // A file that is not an entry is neither used nor overwritten.
    with(b"things to remember, and more of them");
    refused(&[], "not a prompt cache");
    assert_eq!(std::fs::read(&file).unwrap(), b"things to remember, and more of them");
}

#[test]
fn an_unwritable_folder_loses_the_entry_but_not_the_answer() {
    let sandbox = Sandbox::new();
    let plain = ask(&sandbox, &["-m", "mock"]).json();
    let ran = ask(&sandbox, &["-m", "mock", "--prompt-cache", "absent/p.kv"]);
    assert!(ran.err.contains("the prompt was not stored") && ran.err.contains("absent"), "{ran:?}");
    assert_eq!(ran.json()["tokens"], plain["tokens"]);
}

/// Sends a server a prompt of token ids. Returns the answer's text, and how many tokens came from the cache.
fn completion(server: &Served, prompt: &[u32]) -> (Value, u64) {
    let body = json!({ "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": true }).to_string();
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    let cached = body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (body["choices"][0]["text"].clone(), cached)
}

/// The total bytes and the number of a folder's entries.
fn held(sandbox: &Sandbox, folder: &str) -> (u64, usize) {
    let files: Vec<_> = std::fs::read_dir(sandbox.path(folder)).unwrap().map(|f| f.unwrap()).collect();
    (files.iter().map(|f| f.metadata().unwrap().len()).sum(), files.len())
}

#[test]
fn another_server_imports_and_the_oldest_entry_is_evicted() {
    let sandbox = Sandbox::new();
    synth(&sandbox, "tiny-mistral", "1", "m.gguf");
    let prompt = |n: u32| -> Vec<u32> { (0..150).map(|i| 10 + 20 * n + (i * (2 * n + 3)) % 200).collect() };
    let args = ["-m", "m.gguf", "--ctx", "512", "--parallel", "2", "--prompt-cache"];
    let start = |more: &[&str]| Served::start(&sandbox, &[&args[..], more].concat());

    let server = start(&["cache"]);
    let first = completion(&server, &prompt(0));
    assert_eq!(first.1, 0);
    server.end();
    let (bytes, entries) = held(&sandbox, "cache");
    assert_eq!(entries, 1);

    // The folder has room for two and a half entries: the third evicts the least recently used, which is the first.
    let size = (bytes as f64 * 2.5 / f64::from(1 << 30)).to_string();
    let server = start(&["cache", "--prompt-cache-size", &size]);
    assert_eq!(completion(&server, &prompt(0)), (first.0.clone(), 149), "imported in another process");
    let second = completion(&server, &prompt(1));
    let third = completion(&server, &prompt(2));
    assert_eq!((second.1, third.1), (0, 0));
    server.end();
    let (all, entries) = held(&sandbox, "cache");
    assert!(entries == 2 && all as f64 <= bytes as f64 * 2.5, "{entries} entries of {all} bytes");

    let server = start(&["cache", "--prompt-cache-size", &size]);
    assert_eq!(completion(&server, &prompt(2)), (third.0, 149));
    assert_eq!(completion(&server, &prompt(1)), (second.0, 149));
    assert_eq!(completion(&server, &prompt(0)), (first.0, 0), "the oldest entry was evicted");
    server.end();
}
