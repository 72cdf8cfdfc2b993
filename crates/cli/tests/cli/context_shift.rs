//! `--context-shift` from the command line: the tokens are those of the shortened text; its messages and its refusals.

use crate::common::{Sandbox, Served};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const PROMPT: &str = "the wind and the sea";

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The most probable token after each of `tokens`, by `zonda logits`.
fn likeliest(sandbox: &Sandbox, tokens: &[u64]) -> Vec<u64> {
    let list = tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let made = sandbox.run(&["logits", "-m", "m.gguf", "--ids", &list, "--json", "--out", "l.npy"]).json();
    let vocab = made["shape"][1].as_u64().unwrap() as usize;
    let bytes = std::fs::read(sandbox.path("l.npy")).unwrap();
    let body = &bytes[bytes.len() - tokens.len() * vocab * 4..];
    let rows = body.chunks_exact(vocab * 4);
    rows.map(|row| {
        let row: Vec<f32> = row.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (0..vocab).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u64
    })
    .collect()
}

#[test]
fn the_answer_continues_the_shortened_text() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q8_0", "-o", "m.gguf"]).ok();
    let (context, keep) = (64, 8);
    let fixed =
        ["run", "-m", "m.gguf", "--raw", "--temp", "0", "--ctx", "64", "--ignore-eos", "-n", "150", "--json"];
    let shifting = ["--context-shift", "--keep", "7", PROMPT];
    let ran = sandbox.run(&[&fixed[..], &shifting].concat());
    let document = ran.json();
    assert!(ran.err.contains("the context of 64 tokens is full: 28 tokens after the kept prefix"), "{ran:?}");
    assert_eq!(ran.err.matches("tokens after the kept prefix").count(), 1, "reported once");
    let answer = ids(&document["tokens"]);
    assert_eq!((answer.len(), &document["finish_reason"]), (150, &json!("length")));

    let mut text = ids(&sandbox.run(&["tokenize", "-m", "m.gguf", "--bos", "--json", PROMPT]).json()["ids"]);
    assert_eq!(document["prompt_tokens"], text.len());
    let (mut done, mut shifts) = (0, 0);
    while done < answer.len() {
        // From here until the context is full, each token is the likeliest after the tokens before it.
        let first = text.len() - 1;
        let here = answer.len().min(done + context - first) - done;
        text.extend(&answer[done..done + here]);
        assert_eq!(
            likeliest(&sandbox, &text)[first..first + here],
            answer[done..done + here],
            "after {done}"
        );
        done += here;
        if done < answer.len() {
            text.drain(keep..keep + (context - keep) / 2);
            shifts += 1;
        }
    }
    assert_eq!(
        (&document["context_shifts"], &document["dropped_tokens"]),
        (&shifts.into(), &(28 * shifts).into())
    );
    assert_eq!(document["truncated_tokens"], 0);
    let guessed =
        sandbox.run(&[&fixed[..], &["--speculate", "ngram", "--draft-min", "3"], &shifting].concat()).json();
    assert_eq!(ids(&guessed["tokens"]), answer);
    assert!(guessed["drafted_tokens"].as_u64() > Some(0));

    let off = sandbox.run(&[&fixed[..], &[PROMPT]].concat());
    assert!(off.err.contains("--context-shift continues"), "{off:?}");
    assert_eq!(
        (&off.json()["finish_reason"], &off.json()["context_shifts"]),
        (&json!("context_full"), &json!(0))
    );
}

#[test]
fn long_prompts_are_cut_or_refused_and_answers_may_have_no_limit() {
    let sandbox = Sandbox::new();
    let long = "word ".repeat(100);
    let long = long.as_str();
    let mock = |more: &[&str]| {
        sandbox.run(&[&["run", "-m", "mock", "--ctx", "50", "-n", "5", "--json"], more].concat())
    };
    mock(&[long]).fails(1, &["at most 50", "--context-shift"]);
    let cut = mock(&["--context-shift", long]);
    assert!(cut.err.contains("too small for the prompt"), "{cut:?}");
    let cut = cut.json();
    let (kept, gone) = (cut["prompt_tokens"].as_u64().unwrap(), cut["truncated_tokens"].as_u64().unwrap());
    assert!(kept <= 50 && kept + gone > 100, "{cut}");
    mock(&["--context-shift", "--keep", "-1", long])
        .fails(1, &["are to be kept when the context of 50 is full", "--keep"]);
    mock(&["--context-shift", "--keep", "-2", "hi"]).fails(2, &["--keep", "-1 for the whole prompt"]);
    mock(&["--keep", "3", "hi"]).fails(2, &["--context-shift"]);
    let quiet = mock(&["--quiet", "--context-shift", long]);
    assert!(quiet.err.is_empty(), "{quiet:?}");
    // Without a limit the answer runs until the model ends it.
    let ended = sandbox.run(&[
        "run",
        "-m",
        "mock",
        "--ctx",
        "50",
        "-n",
        "-1",
        "--seed",
        "5",
        "--context-shift",
        "--json",
        "hi",
    ]);
    assert_eq!(ended.json()["finish_reason"], "stop");
    sandbox.run(&["run", "-m", "mock", "-n", "0", "hi"]).fails(2, &["at least 1, or -1"]);
}

#[test]
fn a_conversation_may_outgrow_its_context() {
    let sandbox = Sandbox::new();
    let lines = "the sea and the wind and the land\n".repeat(8) + "/stats\n";
    let args =
        ["chat", "-m", "mock", "--ctx", "96", "-n", "30", "--seed", "1", "--system", "you are the sea"];
    let full = sandbox.run_with_input(&args, lines.as_bytes()).ok();
    assert!(full.err.contains("at most 96") && full.err.contains("--context-shift"), "{full:?}");
    let shifted = sandbox.run_with_input(&[&args[..], &["--context-shift"]].concat(), lines.as_bytes()).ok();
    assert!(!shifted.err.contains("at most 96") && shifted.err.contains("more cut)"), "{shifted:?}");
    assert_eq!(shifted.err.matches("this message comes once").count(), 1, "{shifted:?}");
}

fn complete(server: &Served, body: &Value) -> Value {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    let (body, head) =
        (body.to_string(), "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    write!(stream, "{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn a_server_shifts_if_started_with_the_flag() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox, &["-m", "mock", "--ctx", "64", "--context-shift", "--keep", "4"]);
    let mut body =
        json!({"messages": [{"role": "user", "content": "hi"}], "ignore_eos": true, "max_tokens": 200});
    let answer = complete(&server, &body);
    assert_eq!(answer["usage"]["completion_tokens"], 200, "{answer}");
    let timings = &answer["timings"];
    assert_eq!(
        timings["dropped_tokens"].as_u64(),
        timings["context_shifts"].as_u64().map(|n| n * 29),
        "{answer}"
    );
    body["context_shift"] = false.into();
    assert!(complete(&server, &body)["usage"]["completion_tokens"].as_u64() < Some(64));
    server.end();
}
