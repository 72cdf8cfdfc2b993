//! `zonda serve` as a process: its log, its shutdown and its refusals.

use crate::common::{Sandbox, Served};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Sends one request to a server; returns status and body.
fn ask(server: &Served, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn it_prints_its_address_and_stops_on_a_signal() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox, &["-m", "mock"]);
    assert_eq!(server.models, ["mock"]);
    assert_eq!(ask(&server, "GET", "/ready", "", "").0, 200);
    let (status, body) =
        ask(&server, "POST", "/v1/completions", "", "{\"prompt\": \"secret words\", \"max_tokens\": 3}");
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let log = server.end();
    assert!(log.contains("answered") && log.contains("/v1/completions") && log.contains("req-"), "{log}");
    assert!(!log.contains("secret"), "no prompt in the log: {log}");
}

#[test]
fn the_log_can_be_json_and_contain_prompts() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox, &["-m", "mock", "--log-format", "json", "--log-prompts"]);
    ask(
        &server,
        "POST",
        "/v1/completions",
        "x-request-id: mine-1\r\n",
        "{\"prompt\": \"secret words\", \"max_tokens\": 3}",
    );
    let log = server.end();
    let lines: Vec<Value> =
        log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    assert!(log.contains("secret words"));
    let answered = lines.iter().find(|l| l["message"] == "answered").unwrap();
    assert_eq!((&answered["status"], &answered["span"]["id"]), (&Value::from(200), &Value::from("mine-1")));
}

#[test]
fn keys_come_from_flags_files_and_the_environment() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("keys"), "# who may ask\n\nfrom-file\n").unwrap();
    let args = ["-m", "mock", "--api-key", "from-flag", "--api-key-file", "keys"];
    let server = Served::start_with(&sandbox, &args, |command| {
        command.env("ZONDA_API_KEY", "from-env, other");
    });
    for (key, expected) in [
        ("from-flag", 200),
        ("from-file", 200),
        ("from-env", 200),
        ("other", 200),
        ("nobody", 401),
        ("", 401),
    ] {
        let header = format!("authorization: Bearer {key}\r\n");
        assert_eq!(ask(&server, "GET", "/v1/models", &header, "").0, expected, "{key}");
    }
    server.end();
}

#[test]
fn several_models_are_loaded_on_demand() {
    let sandbox = Sandbox::new();
    for name in ["a.gguf", "b.gguf"] {
        sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", name]).ok();
    }
    let models = ["-m", "a.gguf", "-m", "b.gguf", "--backend", "mock,native"];
    let server =
        Served::start(&sandbox, &[&models[..], &["--max-memory", "0.000001", "--ctx", "64"]].concat());
    assert_eq!(server.models, ["a", "b"]);
    for model in ["b", "a", "b"] {
        let body = format!("{{\"model\": \"{model}\", \"prompt\": [1, 2, 3], \"max_tokens\": 2}}");
        let (status, answer) = ask(&server, "POST", "/v1/completions", "", &body);
        assert_eq!(status, 200, "{answer}");
    }
    let log = server.end();
    assert!(log.matches("unloading").count() >= 3, "{log}");
}

#[test]
fn it_refuses_invalid_settings() {
    let sandbox = Sandbox::new();
    sandbox.run(&["serve"]).fails(2, &["--model"]);
    sandbox.run(&["serve", "-m", "mock", "-m", "mock"]).fails(2, &["two models are named \"mock\""]);
    sandbox.run(&["serve", "-m", "mock", "--backend", "mock,mock"]).fails(2, &["mock is named twice"]);
    sandbox.run(&["serve", "-m", "absent.gguf", "--backend", "native,mock"]).fails(1, &["absent.gguf"]);
    sandbox.run(&["serve", "-m", "mock", "--backend", "native"]).fails(1, &["mock backend only"]);
    sandbox.run(&["serve", "-m", "absent.gguf"]).fails(1, &["absent.gguf"]);
    sandbox.run(&["serve", "-m", "mock", "--port", "99999"]).fails(2, &["99999"]);
    sandbox.run(&["serve", "-m", "mock", "--parallel", "0"]).fails(2, &["parallel"]);
    sandbox.run(&["serve", "-m", "mock", "--tls-cert", "c.pem"]).fails(2, &["--tls-key"]);
    sandbox
        .run(&["serve", "-m", "mock", "--tls-cert", "c.pem", "--tls-key", "k.pem"])
        .fails(1, &["c.pem", "PEM"]);
    sandbox.run(&["serve", "-m", "mock", "--cors", "example.org"]).fails(2, &["example.org"]);
    sandbox.run(&["serve", "-m", "mock", "--api-key-file", "absent"]).fails(1, &["absent"]);
    sandbox.run(&["serve", "-m", "mock", "--timeout", "0"]).fails(2, &["timeout"]);
    sandbox.run(&["serve", "-m", "mock", "--isa", "scalar", "--port", "0"]).fails(1, &["no --isa"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    sandbox.run(&["serve", "-m", "mock", "--port", &port]).fails(1, &["listening on", "--port"]);
}

/// The system ends a process that reads a mapped file beyond its end.
#[cfg(unix)]
#[test]
fn a_model_file_that_is_cut_is_an_error_and_a_copy_runs_on() {
    let sandbox = Sandbox::new();
    for (more, status) in [(&[][..], 500), (&["--no-mmap"], 200)] {
        let name = format!("cut-{status}.gguf");
        sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", &name]).ok();
        let server = Served::start(&sandbox, &[&["-m", &name, "--ctx", "64"], more].concat());
        let body = "{\"prompt\": [5, 60, 159], \"max_tokens\": 4, \"seed\": 1, \"logprobs\": 1}";
        let (before, answer) = ask(&server, "POST", "/v1/completions", "", body);
        assert_eq!(before, 200, "{answer}");
        let file = std::fs::File::options().write(true).open(sandbox.path(&name)).unwrap();
        file.set_len(0).unwrap();
        let (after, found) = ask(&server, "POST", "/v1/completions", "", body);
        assert_eq!(after, status, "{found}");
        let choices = |answer: &str| serde_json::from_str::<Value>(answer).unwrap()["choices"].clone();
        if status == 200 {
            assert_eq!(choices(&found), choices(&answer));
        } else {
            assert!(found.contains(&name) && found.contains("it has 0 now"), "{found}");
        }
        assert_eq!(ask(&server, "GET", "/health", "", "").0, 200);
        server.end();
    }
}

#[test]
fn faults_of_the_mock_end_the_requests_that_have_them() {
    let sandbox = Sandbox::new();
    sandbox.run(&["serve", "-m", "mock", "--mock-faults", "error", "--port", "0"]).fails(1, &["KIND:TOKEN"]);
    let faults = "error:100,panic:101,nan:102,slow:103";
    let server = Served::start(&sandbox, &["-m", "mock", "--parallel", "2", "--mock-faults", faults]);
    for (token, expected) in [(99, 200), (100, 500), (101, 500), (102, 500), (103, 200)] {
        let body = format!("{{\"prompt\": [300, {token}], \"max_tokens\": 3}}");
        let (status, answer) = ask(&server, "POST", "/v1/completions", "", &body);
        assert_eq!(status, expected, "{token}: {answer}");
    }
    server.end();
}

/// With `--deterministic` a seeded request gives the same tokens alone on one thread and beside others on two.
#[test]
fn deterministic_answers_do_not_depend_on_load_or_threads() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "tiny.gguf"]).ok();
    let start = |threads: &str, parallel: &str| {
        let args = [
            "-m",
            "tiny.gguf",
            "--ctx",
            "512",
            "--deterministic",
            "--threads",
            threads,
            "--parallel",
            parallel,
        ];
        Served::start(&sandbox, &args)
    };
    let body = |i: usize| {
        let prompt: Vec<usize> = (0..i % 17 + 1).map(|t| (t * 7 + i / 3) % 160).collect();
        let tokens = i % 11 + 1;
        format!(
            "{{\"prompt\": {prompt:?}, \"max_tokens\": {tokens}, \"seed\": {i}, \"temperature\": 1.2, \"logprobs\": 1}}"
        )
    };
    let choices = |server: &Served, i: usize| {
        let (status, answer) = ask(server, "POST", "/v1/completions", "", &body(i));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let alone = start("1", "1");
    let expected: Vec<Value> = (0..40).map(|i| choices(&alone, i)).collect();
    alone.end();
    let crowded = start("2", "5");
    let found: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|i| {
                scope.spawn({
                    let (c, s) = (&choices, &crowded);
                    move || c(s, i)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    crowded.end();
    for (a, b) in expected.iter().zip(&found) {
        assert_eq!(a["usage"]["completion_tokens"], b["usage"]["completion_tokens"]);
        assert!(a["choices"][0]["logprobs"]["token_logprobs"][0].is_number());
        assert_eq!(a["choices"], b["choices"]);
    }
}
