//! The soak itself: a fresh run for the expected answers, then load from several clients, then what is left behind.

use super::client::Client;
use super::jobs::{FAULTS, Job, Outcome, jobs};
use super::watch::{Sample, grows, look, metric, percentile, slows, thirds};
use crate::common::{Sandbox, Served};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Clients at once.
const CLIENTS: usize = 8;
/// Sequences that the server runs at once.
const PARALLEL: &str = "4";
/// The most requests of one soak, whatever its time.
const MOST: usize = 20_000_000;
/// The most faults that are kept.
const FAULTS_KEPT: usize = 20;
/// How long the server may take to come to rest after the load.
const REST: Duration = Duration::from_secs(60);
/// Time between two looks at the process.
const LOOK: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// A model's file, or `mock`.
    pub model: String,
    /// The time of the load.
    pub time: Duration,
    /// Whether memory, threads and the time to the first token may not grow: for runs of some minutes.
    pub trends: bool,
    /// The server's program, if not the one that cargo built.
    pub program: Option<PathBuf>,
    /// The fresh run has another seed, so that its answers are others.
    pub other_seed: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub model: String,
    pub time: Duration,
    /// Requests by kind and status.
    pub kinds: BTreeMap<&'static str, BTreeMap<u16, usize>>,
    /// Answers that were compared with those of the fresh run.
    pub compared: usize,
    /// Seconds to the first text of streams, with the time since the load began.
    pub firsts: Vec<(Duration, f64)>,
    pub samples: Vec<Sample>,
    /// Before and after the load, at rest.
    pub rest: Option<(Sample, Sample)>,
    /// At most [`FAULTS_KEPT`] of them.
    pub faults: Vec<String>,
}

impl Report {
    pub fn answered(&self) -> usize {
        self.kinds.values().flat_map(BTreeMap::values).sum()
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(what);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} requests in {:?}, {} answers compared",
            self.model,
            self.answered(),
            self.time,
            self.compared
        )?;
        for (kind, statuses) in &self.kinds {
            let statuses: Vec<String> =
                statuses.iter().map(|(status, n)| format!("{n} with {status}")).collect();
            writeln!(f, "  {kind}: {}", statuses.join(", "))?;
        }
        for (name, third) in ["first", "last"].into_iter().zip(thirds(&self.firsts, self.time)) {
            let (half, most) = (percentile(&third, 0.5), percentile(&third, 0.99));
            writeln!(
                f,
                "  time to first token, {name} third: p50 {half:.3} s, p99 {most:.3} s, {} streams",
                third.len()
            )?;
        }
        let most = |of: fn(&Sample) -> f64| self.samples.iter().map(of).fold(0.0, f64::max);
        let (rss, threads) = (most(|s| s.rss), most(|s| s.threads as f64));
        let descriptors = most(|s| s.descriptors as f64);
        writeln!(f, "  under load: at most {rss:.0} MiB, {threads} threads, {descriptors} descriptors")?;
        for (name, third) in ["first", "last"].into_iter().zip(thirds(&self.memory(), self.time)) {
            writeln!(f, "  memory, {name} third: median {:.1} MiB", percentile(&third, 0.5))?;
        }
        if let Some((before, after)) = &self.rest {
            writeln!(f, "  at rest before: {before:?}\n  at rest after: {after:?}")?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "  FAULT: {fault}"))?;
        write!(f, "  {} faults", self.faults.len())
    }
}

impl Report {
    fn memory(&self) -> Vec<(Duration, f64)> {
        self.samples.iter().map(|sample| (sample.at, sample.rss)).collect()
    }
}

/// Runs the plan.
pub fn soak(plan: &Plan) -> Report {
    let sandbox = Sandbox::new();
    for (i, name) in ["small-a.gguf", "small-b.gguf"].iter().enumerate() {
        let seed = i.to_string();
        sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "--seed", &seed, "-o", name]).ok();
    }
    let small = std::fs::metadata(sandbox.path("small-a.gguf")).unwrap().len();
    let main = std::fs::metadata(&plan.model).map_or(0, |file| file.len());
    // Room for the main model and one of the small ones: the small ones are swapped.
    let room = format!("{:.9}", (main + small * 3 / 2) as f64 / (1u64 << 30) as f64);
    let mock = plan.model == "mock";
    let start = |seed: &str, parallel: &str| {
        let mut args = vec!["-m", &plan.model, "-m", "small-a.gguf", "-m", "small-b.gguf"];
        args.extend(["--max-memory", &room, "--ctx", "1024", "--parallel", parallel, "--queue", "128"]);
        if mock {
            args.extend(["--backend", "mock,native", "--seed", seed, "--mock-faults", FAULTS]);
        } else {
            args.extend(["--backend", "native"]);
        }
        let program = plan.program.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_zonda")));
        Served::start_command(&sandbox, sandbox.command_of(program), &args, |_| {})
    };
    let mut report = Report { model: plan.model.clone(), time: plan.time, ..Report::default() };

    let fresh = start(if plan.other_seed { "2" } else { "1" }, "1");
    let swapped: Vec<&str> = fresh.models[1..].iter().map(String::as_str).collect();
    let jobs = jobs(&fresh.models[0], mock, &swapped);
    let client = Client::new(&fresh.url);
    let expected: Vec<Option<Value>> = jobs
        .iter()
        .map(|job| {
            let outcome = job.has_one_answer().then(|| job.run(&client));
            outcome.transpose().unwrap_or_else(|wrong| panic!("without load: {wrong}")).and_then(|o| o.answer)
        })
        .collect();
    drop(client);
    fresh.end();

    let server = start("1", PARALLEL);
    let client = Client::new(&server.url);
    let before = at_rest(&server, &client, None, &mut report);
    load(plan, &server, &jobs, &expected, &mut report);
    let after = at_rest(&server, &client, before, &mut report);
    report.rest = before.zip(after);
    if plan.trends {
        let memory = grows(&report.samples, plan.time, |s| s.rss, 16.0);
        let threads = grows(&report.samples, plan.time, |s| s.threads as f64, 4.0);
        let descriptors = grows(&report.samples, plan.time, |s| s.descriptors as f64, 4.0);
        let firsts = slows(&report.firsts, plan.time);
        for (what, trend) in [
            ("memory (MiB)", memory),
            ("threads", threads),
            ("descriptors", descriptors),
            ("p99 of the time to the first token", firsts),
        ] {
            if let Some(trend) = trend {
                report.fault(format!("{what}: {trend}"));
            }
        }
    }
    drop(client);
    server.end();
    report
}

/// The load: every client takes jobs in an order of its own until the time is over.
fn load(plan: &Plan, server: &Served, jobs: &[Job], expected: &[Option<Value>], report: &mut Report) {
    let began = Instant::now();
    let asked = AtomicUsize::new(0);
    let shared = Mutex::new(report);
    let over = || began.elapsed() >= plan.time || asked.load(Ordering::Relaxed) >= MOST;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (asked, shared, over) = (&asked, &shared, &over);
            scope.spawn(move || {
                let client = Client::new(&server.url);
                let mut random = number as u64;
                while !over() {
                    asked.fetch_add(1, Ordering::Relaxed);
                    random = mix(random);
                    let i = (random >> 32) as usize % jobs.len();
                    let at = began.elapsed();
                    let outcome = jobs[i].run(&client);
                    let report = &mut *shared.lock().unwrap();
                    note(report, &jobs[i], expected[i].as_ref(), at, outcome);
                }
            });
        }
        // This thread looks at the process meanwhile.
        let mut next = Duration::ZERO;
        while !over() {
            std::thread::park_timeout(Duration::from_millis(100));
            if began.elapsed() >= next {
                next = began.elapsed() + LOOK;
                shared.lock().unwrap().samples.extend(look(server.id(), began.elapsed()));
            }
        }
    });
}

fn note(
    report: &mut Report,
    job: &Job,
    expected: Option<&Value>,
    at: Duration,
    outcome: Result<Outcome, String>,
) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(wrong) => return report.fault(wrong),
    };
    *report.kinds.entry(job.kind).or_default().entry(outcome.status).or_default() += 1;
    report.firsts.extend(outcome.first.map(|first| (at, first.as_secs_f64())));
    if let (Some(found), Some(expected)) = (&outcome.answer, expected) {
        report.compared += 1;
        if found != expected {
            report.fault(format!("{} {}: expected {expected}, found {found}", job.kind, job.body));
        }
    }
}

/// Waits until nothing runs, and nothing is left over compared with `before`. What is left over then is a fault.
fn at_rest(server: &Served, client: &Client, before: Option<Sample>, report: &mut Report) -> Option<Sample> {
    let began = Instant::now();
    loop {
        let (_, metrics) = client.get("/metrics").expect("the server answers");
        let busy = ["zonda_sequences_running", "zonda_sequences_waiting"].map(|name| metric(&metrics, name));
        let kv = metric(&metrics, "zonda_kv_usage_ratio");
        let now = look(server.id(), began.elapsed());
        // The clients' connections are closed, a few descriptors may come and go, and tokio ends idle threads after 10 s.
        let left = match (before, now) {
            (Some(before), Some(now)) => {
                now.descriptors > before.descriptors + 4 || now.threads > before.threads + 1
            }
            _ => false,
        };
        if busy == [0.0, 0.0] && kv == 0.0 && !left {
            return now;
        }
        if began.elapsed() > REST {
            report.fault(format!(
                "after the load: {busy:?} sequences run and wait, KV usage {kv}, {now:?}; before {before:?}"
            ));
            return now;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// SplitMix64's step and output function (Steele, Lea, Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
