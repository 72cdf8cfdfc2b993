//! A run's line in the record.

use super::subject::SubjectKey;
use super::timeline::TimeLine;
use super::usage::ProcessUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zonda_engine::TokenId;

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
    /// Backend, model, format and quantisation.
    #[serde(flatten)]
    pub key: SubjectKey,
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

/// Accepted / drafted; `None` if nothing was drafted.
pub fn acceptance(accepted: usize, drafted: usize) -> Option<f64> {
    (drafted > 0).then(|| accepted as f64 / drafted as f64)
}
