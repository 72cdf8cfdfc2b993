//! Puts load on a server and reports tokens per second, time to the first token, and gaps between tokens.
//!
//! ```text
//! cargo run --release -p zonda-server --example load -- --url 127.0.0.1:8080 --clients 8 --requests 32
//! ```
//!
//! Each client has one connection at a time and sends its next request when the answer is complete. It uses plain HTTP and the
//! streams of `/v1/completions`, so it works with any server with OpenAI's API; times are taken when a chunk arrives.
//!
//! | flag | meaning | default |
//! |---|---|---|
//! | `--url HOST:PORT` | the server | 127.0.0.1:8080 |
//! | `--model NAME` | which model | none: the server's only one |
//! | `--key KEY` | an API key | none |
//! | `--clients N` | requests at once | 8 |
//! | `--requests N` | total requests | 4 for each client |
//! | `--prompt-words N` | length of each request's own prompt, in words | 32 |
//! | `--shared-words N` | length of a common prefix of all prompts, in words | 0 |
//! | `--tokens N` | length of each answer | 64 |
//! | `--intrude N` | one more request with a prompt of N words while the clients run, to show its effect on their gaps | none |

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The command line.
struct Plan {
    url: String,
    model: Option<String>,
    key: Option<String>,
    clients: usize,
    requests: usize,
    own: usize,
    shared: usize,
    tokens: usize,
    intrude: Option<usize>,
}

/// One answer with its times.
#[derive(Debug, Default)]
struct Answer {
    first: Duration,
    total: Duration,
    /// Gaps between chunks with text, with the end of each.
    gaps: Vec<(Duration, Instant)>,
    tokens: usize,
    cached: usize,
}

const WORDS: [&str; 16] = [
    "river", "mountain", "warm", "engine", "letter", "seven", "quiet", "market", "garden", "copper",
    "window", "north", "paper", "story", "cloud", "bridge",
];

/// `n` words that depend on `salt`.
fn words(salt: usize, n: usize) -> String {
    let mut state = salt as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 60) as usize]
    };
    (0..n).map(|_| next()).collect::<Vec<_>>().join(" ")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::from_args()?;
    ask(&plan, &words(usize::MAX, 8), 2).map_err(|e| format!("{}: {e}", plan.url))?;
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let failures = AtomicUsize::new(0);
    let began = Instant::now();
    let intruder = std::thread::scope(|scope| {
        for _ in 0..plan.clients {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= plan.requests {
                        return;
                    }
                    let prompt = format!("{} {}", words(1 << 40, plan.shared), words(i + 1, plan.own));
                    match ask(&plan, &prompt, plan.tokens) {
                        Ok(answer) => answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer),
                        Err(error) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            eprintln!("request {i}: {error}");
                        }
                    }
                }
            });
        }
        plan.intrude.map(|n| {
            std::thread::sleep(Duration::from_secs(1));
            let start = Instant::now();
            (start, ask(&plan, &words(1 << 50, n), 1))
        })
    });
    let wall = began.elapsed();
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&plan, &answers, wall, failures.into_inner());
    if let Some((start, intruder)) = intruder {
        let end = start + intruder?.first;
        let during = |a: &Answer| {
            a.gaps.iter().filter(|(_, at)| *at >= start && *at <= end).map(|g| g.0).collect::<Vec<_>>()
        };
        let gaps: Vec<Duration> = answers.iter().flat_map(during).collect();
        println!("intruder            {:>9.1} ms to its first token", (end - start).as_secs_f64() * 1e3);
        spread("gaps meanwhile", gaps);
    }
    Ok(())
}

fn report(plan: &Plan, answers: &[Answer], wall: Duration, failures: usize) {
    let tokens: usize = answers.iter().map(|a| a.tokens).sum();
    let cached: usize = answers.iter().map(|a| a.cached).sum();
    println!(
        "{} clients, {} answers, {failures} failures, {:.2} s",
        plan.clients,
        answers.len(),
        wall.as_secs_f64()
    );
    println!("throughput          {:>9.1} tokens/s ({tokens} tokens)", tokens as f64 / wall.as_secs_f64());
    println!("cached              {cached:>9} prompt tokens");
    spread("first token", answers.iter().map(|a| a.first).collect());
    spread("whole answer", answers.iter().map(|a| a.total).collect());
    spread("gaps", answers.iter().flat_map(|a| a.gaps.iter().map(|g| g.0)).collect());
}

fn spread(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    if times.is_empty() {
        return println!("{what:<19} none");
    }
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
    println!(
        "{what:<19} {p50:>9.2} ms median, {p90:.2} p90, {p99:.2} p99, {max:.2} max ({} of them)",
        times.len()
    );
}

/// One streamed completion.
fn ask(plan: &Plan, prompt: &str, tokens: usize) -> Result<Answer, Box<dyn std::error::Error>> {
    let model = plan.model.as_ref().map(|m| format!("\"model\": {m:?}, ")).unwrap_or_default();
    let body = format!(
        "{{{model}\"prompt\": {prompt:?}, \"max_tokens\": {tokens}, \"temperature\": 0, \"ignore_eos\": true, \
         \"stream\": true, \"stream_options\": {{\"include_usage\": true}}}}"
    );
    let key = plan.key.as_ref().map(|k| format!("authorization: Bearer {k}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{key}content-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        plan.url,
        body.len()
    );
    let began = Instant::now();
    let mut stream = TcpStream::connect(&plan.url)?;
    stream.set_nodelay(true)?;
    stream.write_all((head + &body).as_bytes())?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().ok_or("no answer")??;
    if !status.contains(" 200 ") {
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        return Err(format!("{status}: {}", rest.last().cloned().unwrap_or_default()).into());
    }
    let mut answer = Answer::default();
    let mut last: Option<Instant> = None;
    for line in lines {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data.contains("\"error\"") {
            return Err(data.to_owned().into());
        }
        let number = |name: &str| {
            let digits =
                data.split(name).nth(1)?.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty())?;
            digits.parse::<usize>().ok()
        };
        if data.contains("\"usage\":{") {
            answer.tokens = number("\"completion_tokens\"").unwrap_or(0);
            answer.cached = number("\"cached_tokens\"").unwrap_or(0);
        } else if data.contains("\"text\":\"") && !data.contains("\"text\":\"\"") {
            let now = Instant::now();
            match last.replace(now) {
                None => answer.first = now - began,
                Some(before) => answer.gaps.push((now - before, now)),
            }
        }
    }
    answer.total = last.ok_or("the stream had no text")? - began;
    Ok(answer)
}

impl Plan {
    fn from_args() -> Result<Plan, Box<dyn std::error::Error>> {
        let mut plan = Plan {
            url: "127.0.0.1:8080".to_owned(),
            model: None,
            key: None,
            clients: 8,
            requests: 0,
            own: 32,
            shared: 0,
            tokens: 64,
            intrude: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--url" => plan.url = value.trim_start_matches("http://").trim_end_matches('/').to_owned(),
                "--model" => plan.model = Some(value),
                "--key" => plan.key = Some(value),
                "--clients" => plan.clients = value.parse()?,
                "--requests" => plan.requests = value.parse()?,
                "--prompt-words" => plan.own = value.parse()?,
                "--shared-words" => plan.shared = value.parse()?,
                "--tokens" => plan.tokens = value.parse()?,
                "--intrude" => plan.intrude = Some(value.parse()?),
                other => return Err(format!("unknown flag {other}").into()),
            }
        }
        if plan.requests == 0 {
            plan.requests = 4 * plan.clients;
        }
        Ok(plan)
    }
}
