//! The record of an experiment: everything `results.json` holds. What can't be known is `null`, never 0.

use crate::ceilings::Ceilings;
use crate::clock::TimeLine;
use crate::facts::Facts;
use crate::gate::{Agreed, Unranked};
use crate::machine::Machine;
use crate::plan::BenchConfig;
use crate::quality::Quality;
use crate::stats::{Ratio, Stats, Verdict};
use crate::warning::Noted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zonda_engine::{TokenId, forward::BackendInfo};

/// Version of the JSON's shape; raised when a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The program that wrote it.
    pub program: Program,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// When it ended, RFC 3339, UTC.
    pub finished: String,
    /// It was interrupted: what is here is sound, but not all that was planned.
    pub partial: bool,
    /// The machine.
    pub machine: Machine,
    /// What was to be measured and how.
    pub config: BenchConfig,
    /// What the machine can do at most, measured before the first run and after the last.
    #[serde(default)]
    pub ceilings: Ceilings,
    /// What went on in the machine while it measured.
    #[serde(default)]
    pub conditions: Conditions,
    /// The models' files.
    pub models: Vec<ModelFiles>,
    /// Whether each subject computes the same function as the highest-precision form of its weights. A subject that was
    /// not compared, such as the mock, has no entry.
    #[serde(default)]
    pub agreement: Vec<Agreed>,
    /// What each subject's predictions of [`BenchConfig::quality`]'s text are worth; empty if that was not asked for.
    #[serde(default)]
    pub quality: Vec<Quality>,
    /// Every child process in the order they followed one another: its load and warm-up.
    pub processes: Vec<Process>,
    /// Every run, in the order they followed one another.
    pub rows: Vec<Row>,
    /// Statistics per backend, model and scenario.
    pub summary: Vec<Cell>,
    /// Backends with models, fastest first. The mock is never here.
    pub ranking: Vec<Rank>,
    /// Subjects that have figures and no place in the ranking, and why: fast and wrong is shown as wrong.
    #[serde(default)]
    pub unranked: Vec<Unranked>,
    /// What the harness itself costs, if the mock was measured.
    pub overhead: Option<Overhead>,
    /// What the figures say, in sentences computed from them.
    pub recommendation: Vec<String>,
    /// What may have disturbed the measurement, or must be known to read it.
    pub warnings: Vec<Noted>,
}

impl Record {
    /// A subject's quality, if it was measured.
    pub fn quality(&self, subject: usize) -> Option<&Quality> {
        self.quality.iter().find(|q| q.subject == subject)
    }
}

/// The program that measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// `zonda-bench`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the executable whose child processes ran the backends, if it could be read.
    pub sha256: Option<String>,
    /// It was built without optimisation.
    pub debug_build: bool,
}

/// The files of one subject's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFiles {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The files, in name order.
    pub files: Vec<ModelFile>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFile {
    /// Its name, without folders.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of what `hashed` says, in hexadecimal.
    pub sha256: String,
    /// `all` of the file, or of large files only the `ends`: the first and last 16 MiB.
    pub hashed: Hashed,
}

/// How much of a file its hash covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hashed {
    /// The whole file.
    All,
    /// The first and the last 16 MiB.
    Ends,
}

/// One child process: one subject in one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The block it belongs to, from 1.
    pub run: usize,
    /// What was loaded; `None` if that failed.
    pub load: Option<LoadReport>,
    /// From starting the process until the model was open, in ms; `None` if that failed.
    #[serde(default)]
    pub ready_ms: Option<f64>,
    /// From starting the process until the first token of its first run, in ms: with [`Process::temperature`] `cold`, the
    /// cold start. That run is the warm-up's prefill.
    #[serde(default)]
    pub first_token_ms: Option<f64>,
    /// Share of the model's file bytes that were in the page cache before loading, 0 to 1; `None` if unknown.
    pub file_cached: Option<f64>,
    /// The warm-up runs, in order.
    pub warmup: Vec<WarmUp>,
}

impl Process {
    /// `cold`, `warm` or `None` (between, or unknown): was the model in the page cache when it was loaded?
    pub fn temperature(&self) -> Option<&'static str> {
        match self.file_cached? {
            share if share <= 0.05 => Some("cold"),
            share if share >= 0.95 => Some("warm"),
            _ => None,
        }
    }
}

/// One warm-up run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WarmUp {
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Generated tokens.
    pub generated: usize,
    /// TTFT in ms.
    pub ttft_ms: Option<f64>,
    /// TpT in ms.
    pub tpt_ms: Option<f64>,
}

/// What a child reports after opening its engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadReport {
    /// What runs the model.
    #[schemars(with = "crate::schema::Backend")]
    pub backend: BackendInfo,
    /// The model's architecture and shapes in one line: equal for two forms of the same model.
    pub shape: String,
    /// The longest sequence the engine holds, in tokens.
    pub context: usize,
    /// Whether the engine has a tokenizer; without one it is given random ids.
    pub has_tokenizer: bool,
    /// Opening took this long, in ms: files, repacking, allocation, tokenizer.
    pub load_ms: f64,
    /// What one token costs; `None` for the mock, or if it isn't known.
    #[serde(default)]
    pub facts: Option<Facts>,
    /// The CPUs that the process was kept to; `None` if it was not asked for, or not allowed.
    #[serde(default)]
    pub kept_to: Option<Vec<usize>>,
    /// Why it was not kept to its CPUs though it was asked for.
    #[serde(default)]
    pub not_kept: Option<String>,
    /// Resources used by opening.
    pub usage: ProcessUsage,
}

/// What a process used over some span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessUsage {
    /// Highest resident memory within the span, in bytes (where the system can't reset the mark: of the process so far).
    pub peak_rss: Option<u64>,
    /// CPU time of all threads, user and system, in ms.
    pub cpu_ms: Option<f64>,
    /// Context switches the process asked for (waiting).
    pub voluntary_switches: Option<u64>,
    /// Context switches forced on it: another process wanted the core.
    pub involuntary_switches: Option<u64>,
    /// Energy that the processor's packages used meanwhile, other processes' share included, in joules (RAPL); `None`
    /// where the system doesn't let it be read.
    #[serde(default)]
    pub energy_j: Option<f64>,
}

/// What went on in the machine from the first run to the last. What can't be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conditions {
    /// Share of the cores' time that the hypervisor gave to others, in percent.
    pub steal_pct: Option<f64>,
    /// Load average over one minute at the end.
    pub load1_after: Option<f64>,
    /// The hottest thermal zone before the first run, in °C.
    pub celsius_before: Option<f64>,
    /// The hottest thermal zone after the last run, in °C.
    pub celsius_after: Option<f64>,
    /// How often the processor was slowed down for its heat meanwhile.
    pub throttles: Option<u64>,
}

/// What a child reports after one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// When each token arrived.
    pub timeline: TimeLine,
    /// Prompt tokens, the cached ones included.
    pub prompt_tokens: usize,
    /// Prompt tokens that the prefix cache spared.
    pub cached_tokens: usize,
    /// Compute time of the other prompt tokens, in ms.
    pub prefill_ms: f64,
    /// Tokens that were drafted and verified; 0 without speculation.
    #[serde(default)]
    pub drafted_tokens: usize,
    /// Those of them that were right.
    #[serde(default)]
    pub accepted_tokens: usize,
    /// Why it ended: `length`, `stop`, `context_full`, …
    pub finish_reason: String,
    /// SHA-256 of the prompt's ids as little-endian `u32`.
    pub prompt_sha256: String,
    /// The generated ids.
    pub ids: Vec<TokenId>,
    /// The generated text; empty without a tokenizer.
    pub text: String,
    /// Resources used.
    pub usage: ProcessUsage,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Status {
    /// It was measured.
    Ok,
    /// It was tried and failed: a crash, a timeout, an error, an answer of the wrong length.
    Failed(String),
    /// It wasn't tried, because an earlier try failed.
    NotRun(String),
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status::Ok => write!(f, "ok"),
            Status::Failed(why) => write!(f, "failed: {why}"),
            Status::NotRun(why) => write!(f, "not run: {why}"),
        }
    }
}

/// One run of one scenario. Figures are `None` where they don't exist; those of a failed run are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The place among all runs as they really followed one another, from 1; `None` if it never began.
    pub order: Option<usize>,
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// `gguf`, `safetensors`, `mlx`; `None` for the mock.
    pub format: Option<String>,
    /// How the weights are held in memory; `None` if the engine never opened, or holds none.
    pub quant: Option<String>,
    /// The scenario's name.
    pub scenario: String,
    /// Output tokens asked for.
    pub tokens: usize,
    /// The block, from 1.
    pub run: usize,
    /// How it went.
    pub status: Status,
    /// The figures are made up by the mock: the harness's own overhead.
    pub synthetic: bool,
    /// Where it was measured: `engine` (in the process) or `http`. The two are never mixed.
    pub measured_at: String,
    /// Total latency in ms: t_last − t0.
    pub total_ms: Option<f64>,
    /// Time to the first token in ms.
    pub ttft_ms: Option<f64>,
    /// Time per token after the first, in ms.
    pub tpt_ms: Option<f64>,
    /// Output tokens a second: N / total. `None` for `pp` rows, whose one token says nothing.
    pub throughput: Option<f64>,
    /// N: tokens generated.
    pub generated: Option<usize>,
    /// Prompt tokens.
    pub prompt_tokens: Option<usize>,
    /// Prompt tokens that the prefix cache spared.
    pub cached_tokens: Option<usize>,
    /// Uncached prompt tokens a second of prefill compute time.
    pub prefill_tps: Option<f64>,
    /// 1 / TpT, a second.
    pub decode_tps: Option<f64>,
    /// The prefill rate as a share of what the machine's arithmetic allows, 0 to 1: operations a token × tokens/s ÷ the
    /// peak of the type that the weights are multiplied in.
    #[serde(default)]
    pub prefill_share: Option<f64>,
    /// The decode rate as a share of what the machine's memory allows, 0 to 1: bytes of weights, keys and values read a
    /// token × tokens/s ÷ the read bandwidth around the run ([`Row::read_bytes_per_s`]); of models above 1 GiB at most what
    /// large memory allows.
    #[serde(default)]
    pub decode_share: Option<f64>,
    /// Memory that all threads read right before or right after the run, out of half a GiB, in bytes a second: the higher of
    /// both readings. `None` if it was not measured.
    #[serde(default)]
    pub read_bytes_per_s: Option<f64>,
    /// The mean of both readings: what the run had, more or less, where memory's speed changed meanwhile.
    #[serde(default)]
    pub read_mean_bytes_per_s: Option<f64>,
    /// Gaps between deliveries in ms: 50th, 90th and 99th percentile.
    pub itl_ms: Option<[f64; 3]>,
    /// What loading the engine of this run's process took, in ms.
    pub load_ms: Option<f64>,
    /// Highest resident memory during the run, in MiB.
    pub peak_rss_mb: Option<f64>,
    /// Resources used.
    pub usage: Option<ProcessUsage>,
    /// Its tokens/s lie far from those of the other runs; it is marked, and counts like them.
    pub outlier: bool,
    /// Tokens that were drafted and verified; `None` without speculation.
    #[serde(default)]
    pub drafted_tokens: Option<usize>,
    /// Those of them that were right.
    #[serde(default)]
    pub accepted_tokens: Option<usize>,
    /// Accepted / drafted; `None` if nothing was drafted.
    #[serde(default)]
    pub acceptance: Option<f64>,
    /// Why generation ended.
    pub finish_reason: Option<String>,
    /// SHA-256 of the prompt's ids.
    pub prompt_sha256: Option<String>,
    /// Raw deliveries: pairs of nanoseconds since t0 and tokens.
    pub timeline: Option<TimeLine>,
    /// The generated ids.
    pub ids: Vec<TokenId>,
    /// The generated text.
    pub text: String,
}

impl Row {
    /// The figure that compares this row with others of its scenario, in tokens/s: throughput, and for `pp` rows
    /// the prefill rate.
    pub fn headline(&self) -> Option<f64> {
        self.throughput.or(self.prefill_tps)
    }
}

/// Statistics of one subject on one scenario, over its good runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// As in [`Row::format`].
    pub format: Option<String>,
    /// As in [`Row::quant`].
    pub quant: Option<String>,
    /// The scenario's name.
    pub scenario: String,
    /// The figures are the mock's.
    pub synthetic: bool,
    /// Good runs.
    pub runs: usize,
    /// Runs that failed or weren't tried.
    pub failed: usize,
    /// The first failure's reason.
    pub why: Option<String>,
    /// Prompt tokens of the good runs, if they agree.
    pub prompt_tokens: Option<usize>,
    /// Tokens generated, if the good runs agree.
    pub generated: Option<usize>,
    /// TTFT in ms.
    pub ttft_ms: Option<Stats>,
    /// TpT in ms.
    pub tpt_ms: Option<Stats>,
    /// Total latency in ms.
    pub total_ms: Option<Stats>,
    /// Throughput in tokens/s.
    pub throughput: Option<Stats>,
    /// Prefill rate in tokens/s.
    pub prefill_tps: Option<Stats>,
    /// Decode rate in tokens/s.
    pub decode_tps: Option<Stats>,
    /// Highest resident memory in MiB.
    pub peak_rss_mb: Option<Stats>,
    /// 50th, 90th and 99th percentile of all gaps between deliveries of the good runs, in ms.
    pub itl_ms: Option<[f64; 3]>,
    /// As [`Row::prefill_share`].
    #[serde(default)]
    pub prefill_share: Option<Stats>,
    /// As [`Row::decode_share`].
    #[serde(default)]
    pub decode_share: Option<Stats>,
    /// As [`Row::read_bytes_per_s`].
    #[serde(default)]
    pub read_bytes_per_s: Option<Stats>,
    /// As [`Row::read_mean_bytes_per_s`].
    #[serde(default)]
    pub read_mean_bytes_per_s: Option<Stats>,
    /// Loading the engine, in ms, cold and warm.
    #[serde(default)]
    pub load_ms: Option<Stats>,
    /// From starting the process to the first token while the model was not in the page cache, in ms. Of the subject: the
    /// same in all its cells.
    #[serde(default)]
    pub cold_start_ms: Option<f64>,
    /// CPU time of all threads in a run, in ms.
    #[serde(default)]
    pub cpu_ms: Option<Stats>,
    /// Context switches in a run, asked for and forced.
    #[serde(default)]
    pub switches: Option<Stats>,
    /// Energy in a run, in joules.
    #[serde(default)]
    pub energy_j: Option<Stats>,
    /// Accepted / drafted tokens of all good runs together; `None` if nothing was drafted.
    #[serde(default)]
    pub acceptance: Option<f64>,
    /// Why the subject has no place in the ranking though it has figures; `None` if it has one or is the mock.
    #[serde(default)]
    pub not_ranked: Option<String>,
}

impl Cell {
    /// As [`Row::headline`].
    pub fn headline(&self) -> Option<&Stats> {
        self.throughput.as_ref().or(self.prefill_tps.as_ref())
    }
}

/// A place in the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rank {
    /// Place from 1 among the subjects of the same shape.
    pub rank: usize,
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// As in [`Row::format`].
    pub format: Option<String>,
    /// As in [`Row::quant`].
    pub quant: Option<String>,
    /// The model's shape; only subjects of one shape are ranked against each other.
    pub shape: String,
    /// Geometric mean over the scenarios of the median tokens/s.
    pub score_tps: f64,
    /// Speed against the best one of its shape, from runs of the same block; `None` for the best one itself, and
    /// where no block holds all runs of both.
    pub against_best: Option<Ratio>,
    /// What that says; `None` for the best one itself.
    pub verdict: Option<Verdict>,
    /// The scenarios the score is made of: those that every ranked subject of the shape finished.
    pub scenarios: Vec<String>,
}

/// What the harness itself costs: the mock's figures with all its delays at zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overhead {
    /// Median TTFT in ms.
    pub ttft_ms: f64,
    /// Median TpT in µs.
    pub per_token_us: f64,
    /// Runs that this rests on.
    pub runs: usize,
}
