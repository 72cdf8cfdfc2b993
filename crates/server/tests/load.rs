//! Many clients over real sockets: limits hold, nothing leaks, a client that disconnects frees its slot, and shutdown is
//! graceful.

mod common;

use common::{server_with, source};
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zonda_engine::EngineConfig;
use zonda_engine::forward::Limits;
use zonda_engine::mock::MockOptions;
use zonda_server::listen::{Listen, serve};
use zonda_server::{Config, Server};

/// A server on its own port.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<bool>,
}

async fn start(server: Arc<Server>, listen: Listen) -> Running {
    server.models().load_first().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(serve(listener, server, listen, async move {
        stopped.await.ok();
    }));
    Running { address, stop, ended }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a new connection; returns status and body.
    async fn ask(&self, body: &Value) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(&raw(body)).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        let text = String::from_utf8(text).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        Ok((head.split(' ').nth(1).unwrap().parse().expect("a status"), body.to_owned()))
    }
}

/// A request as bytes; the server closes the connection after the response.
fn raw(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// A mock with `slots` slots and about a millisecond per token that never ends an answer.
fn slow(slots: usize, per_token: Duration) -> MockOptions {
    let limits = Limits { slots, batch_tokens: 512, context: 4096, kv_tokens: slots * 4096, kv_page: 16 };
    MockOptions { limits, per_token, end_every: 0, ..MockOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_connections_against_a_queue_of_64() {
    let engine = EngineConfig { max_waiting: 64, ..EngineConfig::default() };
    let server = server_with(Config::default(), slow(8, Duration::from_millis(1)), engine);
    let running = start(server.clone(), Listen::default()).await;
    let ask = |i: usize| {
        let stream = i.is_multiple_of(2);
        let body =
            json!({"prompt": "the ".repeat(1 + i % 30), "max_tokens": 20, "seed": i, "stream": stream});
        let running = &running;
        async move { (stream, running.ask(&body).await.expect("an answer")) }
    };
    let (mut complete, mut refused) = (0, 0);
    for (stream, (status, body)) in join_all((0..500).map(ask)).await {
        match status {
            200 if stream => {
                assert!(
                    body.contains("data: [DONE]") && body.contains("\"finish_reason\":\"length\""),
                    "{body}"
                );
                complete += 1;
            }
            200 => {
                assert!(body.contains("\"completion_tokens\":20"), "{body}");
                complete += 1;
            }
            429 => {
                assert!(body.contains("queue_full"), "{body}");
                refused += 1;
            }
            other => panic!("{other}: {body}"),
        }
    }
    assert_eq!(complete + refused, 500);
    assert!(complete >= 72, "8 can run and 64 wait: {complete} were answered");
    let loaded = server.models().get(None).await.unwrap();
    assert_eq!((loaded.engine.in_flight(), loaded.engine.occupancy().running), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_frees_its_slot() {
    let engine = EngineConfig { max_waiting: 0, ..EngineConfig::default() };
    let server = server_with(Config::default(), slow(1, Duration::from_millis(2)), engine);
    let running = start(server.clone(), Listen::default()).await;
    let loaded = server.models().get(None).await.unwrap();
    let endless = |stream: bool| json!({"prompt": "the", "max_tokens": 4000, "stream": stream});
    for stream in [true, false, true, false] {
        let mut connection = running.connect().await;
        connection.write_all(&raw(&endless(stream))).await.unwrap();
        while loaded.engine.occupancy().running == 0 {
            tokio::task::yield_now().await;
        }
        if stream {
            connection.read_exact(&mut [0; 200]).await.unwrap();
        }
        assert_eq!(running.ask(&endless(false)).await.unwrap().0, 429, "the only slot is in use");
        drop(connection);
        let left = Instant::now();
        while loaded.engine.in_flight() > 0 {
            assert!(left.elapsed() < Duration::from_secs(10), "the slot is still in use");
            tokio::task::yield_now().await;
        }
        println!("freed after {:?}", left.elapsed());
    }
    assert_eq!(running.ask(&json!({"prompt": "the", "max_tokens": 3})).await.unwrap().0, 200);
}

/// The resident memory of this process in KiB.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_leak_no_memory() {
    let server = server_with(Config::default(), MockOptions::default(), EngineConfig::default());
    let running = start(server.clone(), Listen::default()).await;
    let round = async |from: usize, to: usize| {
        for first in (from..to).step_by(20) {
            let ask = |i: usize| {
                let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "integer", "minimum": 0, "maximum": i % 50}}});
                let body = match i % 4 {
                    0 => {
                        json!({"prompt": format!("the {i}"), "max_tokens": 8, "stream": true, "logprobs": 2})
                    }
                    1 => json!({"prompt": format!("{i} of"), "max_tokens": 8, "response_format": schema}),
                    2 => json!({"prompt": "the sea", "max_tokens": -1}),
                    _ => json!({"prompt": "the sea and the wind", "max_tokens": 8, "n": 2}),
                };
                let running = &running;
                async move { running.ask(&body).await.unwrap().0 }
            };
            for (i, status) in join_all((first..first + 20).map(ask)).await.into_iter().enumerate() {
                assert_eq!(status, if i % 4 == 2 { 400 } else { 200 });
            }
        }
    };
    round(0, 2000).await;
    let before = resident();
    round(2000, 10_000).await;
    let after = resident();
    println!("{before} KiB after 2,000 requests, {after} KiB after 10,000");
    assert!(after < before + 16 * 1024, "grew from {before} to {after} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_are_cut_off() {
    let config = Config { body_timeout: Duration::from_millis(300), ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    let listen = Listen { head_timeout: Duration::from_millis(300), ..Listen::default() };
    let running = start(server, listen).await;
    // A head that never ends, byte by byte.
    let mut head = running.connect().await;
    let mut sent = 0;
    let began = Instant::now();
    while head.write_all(b"G").await.is_ok() && began.elapsed() < Duration::from_secs(20) {
        sent += 1;
        let mut byte = [0];
        let closed = tokio::time::timeout(Duration::from_millis(20), head.read(&mut byte)).await;
        if let Ok(Ok(0) | Err(_)) = closed {
            break;
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{sent} bytes were taken and the connection still lives"
    );
    // A body that never ends.
    let mut body = running.connect().await;
    let part = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{";
    body.write_all(part).await.unwrap();
    let mut answer = vec![0; 12];
    body.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    // Other clients are not delayed.
    assert_eq!(running.ask(&json!({"prompt": "the"})).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_waits_for_running_requests() {
    let server = server_with(Config::default(), slow(4, Duration::from_millis(2)), EngineConfig::default());
    let running = start(server.clone(), Listen::default()).await;
    let loaded = server.models().get(None).await.unwrap();
    let asks: Vec<_> = (0..3)
        .map(|i| {
            let body = json!({"prompt": "the", "max_tokens": 100, "stream": i == 0});
            let mut stream = std::net::TcpStream::connect(running.address).unwrap();
            std::io::Write::write_all(&mut stream, &raw(&body)).unwrap();
            tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
                text
            })
        })
        .collect();
    let idle = running.connect().await;
    while loaded.engine.occupancy().running < 3 {
        tokio::task::yield_now().await;
    }
    drop(loaded);
    running.stop.send(()).unwrap();
    assert!(running.ended.await.unwrap(), "all ended in time");
    for text in asks {
        let text = text.await.unwrap();
        assert!(text.contains("\"finish_reason\":\"length\""), "{text}");
    }
    assert!(server.draining());
    drop(idle);
    assert!(TcpStream::connect(running.address).await.is_err(), "the port is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_with_a_time_limit_ends() {
    let server = server_with(Config::default(), slow(1, Duration::from_millis(2)), EngineConfig::default());
    let running = start(server, Listen { drain: Duration::from_millis(50), ..Listen::default() }).await;
    let mut endless = running.connect().await;
    endless.write_all(&raw(&json!({"prompt": "the", "max_tokens": 100_000, "stream": true}))).await.unwrap();
    endless.read_exact(&mut [0; 200]).await.unwrap();
    running.stop.send(()).unwrap();
    assert!(!running.ended.await.unwrap(), "it reports that a request was cut off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_requested_by_many_clients_is_loaded_once() {
    let loads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = loads.clone();
    let source = zonda_server::ModelSource::new("mock", 0, move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(common::engine(MockOptions::default(), EngineConfig::default()))
    });
    let other = source_of("other");
    let server =
        Server::new(Config { max_model_bytes: Some(1), ..Config::default() }, vec![other, source]).unwrap();
    let asks = (0..20).map(|_| common::complete(&server, json!({"model": "mock", "max_tokens": 2})));
    for answer in join_all(asks).await {
        answer.ok();
    }
    assert_eq!(loads.load(std::sync::atomic::Ordering::SeqCst), 1);
}

fn source_of(name: &str) -> zonda_server::ModelSource {
    source(name, MockOptions::default(), EngineConfig::default())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 30,
        rng_seed: proptest::test_runner::RngSeed::Fixed(8),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A seeded request gets the same answer alone and with others, with a small or large KV cache, cached or not.
    #[test]
    fn company_changes_nothing(
        asks in prop::collection::vec((0usize..40, 1usize..30, any::<i64>(), any::<bool>()), 2..24),
        slots in 1usize..9,
        room in 1usize..9,
        chunk in 1usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limits = Limits { slots, batch_tokens: 32, context: 256, kv_tokens: 256 * room.min(slots), kv_page: 8 };
        let config = EngineConfig { prefill_chunk: chunk, ..EngineConfig::default() };
        let crowded = server_with(Config::default(), MockOptions { limits, ..MockOptions::default() }, config);
        let alone = server_with(Config::default(), MockOptions::default(), EngineConfig::default());
        let body = |(words, tokens, seed, cached): &(usize, usize, i64, bool)| json!({
            "prompt": "the sea and the wind ".repeat(words / 5) + &"house ".repeat(words % 5 + 1),
            "max_tokens": tokens, "seed": seed, "temperature": 1.3, "cache_prompt": cached,
        });
        runtime.block_on(async {
            let together = join_all(asks.iter().map(|a| common::complete(&crowded, body(a)))).await;
            for (ask, answer) in asks.iter().zip(together) {
                let single = common::complete(&alone, body(ask)).await.ok();
                assert_eq!(answer.ok()["choices"], single["choices"]);
            }
        });
    }
}
