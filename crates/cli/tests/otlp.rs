//! Spans reach a collector.

mod common;

use common::{Sandbox, Served};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Receives one HTTP request and returns its head and body.
fn take(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    (head, body)
}

#[test]
fn a_generation_is_exported_as_a_span() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let collected = std::thread::spawn(move || take(&mut collector.accept().unwrap().0));
    let sandbox = Sandbox::new();
    let server = Served::start_with(&sandbox, &["-m", "mock"], |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    });
    let body = "{\"prompt\": \"secret words\", \"max_tokens\": 3}";
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    server.end();
    let (head, spans) = collected.join().unwrap();
    assert!(head.starts_with("POST /v1/traces "), "{head}");
    let spans = String::from_utf8_lossy(&spans).into_owned();
    for word in ["generation", "request", "completion_tokens", "finish_reason", "/v1/completions"] {
        assert!(spans.contains(word), "no {word} in {spans}");
    }
    assert!(!spans.contains("secret"), "no prompt in spans");
}
