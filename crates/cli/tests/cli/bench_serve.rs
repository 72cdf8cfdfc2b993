//! `zonda bench serve` against `zonda serve` with the mock.

use crate::common::{Sandbox, Served, has_keys};

#[test]
fn a_closed_loop_is_measured_and_recorded() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox, &["-m", "mock", "--api-key", "k"]);
    let out = sandbox.path("out");
    let out = out.to_str().unwrap();
    let load = ["bench", "serve", "--url", &server.url, "--concurrency", "3", "--requests", "12"];
    let length = ["--prompt-tokens", "40", "--shared-tokens", "32", "--max-tokens", "10", "--out", out];
    let args: Vec<&str> = load.iter().chain(&length).copied().collect();
    sandbox.run(&args).fails(1, &["--api-key"]);
    let keyed: Vec<&str> = args.iter().copied().chain(["--api-key", "k", "--json"]).collect();
    let report = sandbox.run(&keyed).json();
    has_keys(&report, &["schema_version", "kind", "measured_at", "config", "summary", "rows"]);
    assert_eq!((&report["kind"], &report["measured_at"]), (&"serve".into(), &"http".into()));
    let summary = &report["summary"];
    assert_eq!((&summary["complete"], &summary["generated"]), (&12.into(), &120.into()));
    assert!(summary["cached_tokens"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(report["config"]["model"], "mock");
    for row in report["rows"].as_array().unwrap() {
        let time = |name: &str| row[name].as_f64().unwrap();
        assert!(time("ttft_ms") <= time("total_ms"), "{row}");
        let sum = time("ttft_ms") + 9.0 * time("tpt_ms");
        assert!((sum - time("total_ms")).abs() < 1e-6 * sum.max(1.0), "{row}");
    }
    let csv = std::fs::read_to_string(sandbox.path("out/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 13);
    assert!(
        csv.starts_with("backend,scenario,tokens,run,total_ms,ttft_ms,tpt_ms,throughput,generated,model")
    );
    assert!(sandbox.path("out/results.json").exists());
    server.end();
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_refusals() {
    let sandbox = Sandbox::new();
    // One slot, a queue of one and 4 ms per token: most requests find the queue full.
    let server = Served::start(
        &sandbox,
        &["-m", "mock", "--mock-step", "4", "--parallel", "1", "--queue", "1", "--no-prefix-cache"],
    );
    let out = sandbox.path("out");
    let ran = sandbox.run(&[
        "bench",
        "serve",
        "--url",
        &server.url,
        "--rate",
        "200",
        "--requests",
        "60",
        "--max-tokens",
        "20",
        "--completions",
        "--ttft-bound",
        "100000",
        "--itl-bound",
        "100000",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ]);
    let report = ran.json();
    let summary = &report["summary"];
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(count("requests"), 60);
    assert_eq!(count("complete"), count("good"));
    let refused: u64 = summary["failures"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(why, _)| why.starts_with("429"))
        .map(|(_, n)| n.as_u64().unwrap())
        .sum();
    assert!(refused > 0 && refused + count("complete") == 60, "{summary}");
    server.end();
}

#[test]
fn invalid_arguments_are_explained() {
    let sandbox = Sandbox::new();
    sandbox.run(&["bench", "serve", "--url", "ftp://x"]).fails(2, &["--url", "ftp://x"]);
    sandbox
        .run(&["bench", "serve", "--url", "http://127.0.0.1:1"])
        .fails(1, &["127.0.0.1:1", "start the server"]);
    let nowhere = ["bench", "serve", "--url", "http://127.0.0.1:1"];
    for (flags, says) in
        [(["--rate", "0"], "rate"), (["--max-tokens", "0"], "answer"), (["--concurrency", "0"], "clients")]
    {
        let args: Vec<&str> = nowhere.iter().copied().chain(flags).collect();
        sandbox.run(&args).fails(2, &[says]);
    }
    sandbox.run(&["bench", "serve"]).fails(2, &["--url"]);
    sandbox
        .run(&["bench", "serve", "--url", "http://x", "--rate", "1", "--concurrency", "2"])
        .fails(2, &["--rate"]);
}

/// A server that shows no text until some tokens were generated, as those do that hide a thought.
fn hides_first_tokens(hidden: u64) -> String {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let n = body["max_tokens"].as_u64().unwrap_or(0);
            let shown = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
                .repeat(n.saturating_sub(hidden) as usize);
            let end = format!(
                "data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"length\"}}],\
                 \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{n}}}}}\n\ndata: [DONE]\n\n"
            );
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            let _ = (&stream).write_all(format!("{head}{shown}{end}").as_bytes());
        }
    });
    url
}

#[test]
fn a_server_that_hides_the_first_tokens_is_measured() {
    let sandbox = Sandbox::new();
    let url = hides_first_tokens(4);
    let measure = |tokens: &str| {
        let load = ["bench", "serve", "--url", &url, "-m", "x", "--concurrency", "1", "--requests", "2"];
        let more = ["--max-tokens", tokens, "--out", "out", "--json"];
        sandbox.run(&load.iter().chain(&more).copied().collect::<Vec<_>>())
    };
    assert_eq!(measure("10").json()["summary"]["complete"], 2);
    let ran = measure("3").fails(1, &["no request was answered"]);
    assert!(ran.out.contains("the answer had no text"), "{ran:?}");
}
