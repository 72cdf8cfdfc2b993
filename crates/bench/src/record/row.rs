//! The row of a run in the record.

use super::subject::SubjectKey;
use super::timeline::TimeLine;
use super::usage::ProcessUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zonda_engine::TokenId;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Status {
    /// It was measured.
    Ok,
    /// It failed: a crash, a timeout, an error, or an answer of the wrong length.
    Failed(String),
    /// It was skipped because an earlier run failed.
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

/// One run of one scenario. Missing figures are `None`; a failed run has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The place among all runs in execution order, from 1; `None` if the run never began.
    pub order: Option<usize>,
    /// Index into `BenchConfig::subjects`.
    pub subject: usize,
    /// Backend, model, format and quantisation.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The scenario's name.
    pub scenario: String,
    /// Requested output tokens.
    pub tokens: usize,
    /// The block, from 1.
    pub run: usize,
    /// The outcome.
    pub status: Status,
    /// Whether the figures are the mock's: the overhead of the harness.
    pub synthetic: bool,
    /// The place of measurement: `engine` (in the process) or `http`. The two are never mixed.
    pub measured_at: String,
    /// Total latency in ms: t_last − t0.
    pub total_ms: Option<f64>,
    /// Time to the first token in ms.
    pub ttft_ms: Option<f64>,
    /// Time per token after the first, in ms.
    pub tpt_ms: Option<f64>,
    /// Output tokens per second: N / total. `None` for `pp` rows, whose single output token is not a measurement.
    pub throughput: Option<f64>,
    /// N: tokens generated.
    pub generated: Option<usize>,
    /// Prompt tokens.
    pub prompt_tokens: Option<usize>,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: Option<usize>,
    /// Uncached prompt tokens per second of prefill compute time.
    pub prefill_tps: Option<f64>,
    /// 1 / TpT, per second.
    pub decode_tps: Option<f64>,
    /// The prefill rate as a share of the arithmetic peak, 0 to 1: operations per token × tokens/s ÷ the peak of the type
    /// that multiplies the weights.
    #[serde(default)]
    pub prefill_share: Option<f64>,
    /// The decode rate as a share of the memory bandwidth, 0 to 1: bytes of weights, keys and values read per token ×
    /// tokens/s ÷ the read bandwidth around the run ([`Row::read_bytes_per_s`]); for models above 1 GiB at most the bandwidth
    /// of large memory.
    #[serde(default)]
    pub decode_share: Option<f64>,
    /// Read bandwidth of all threads right before or right after the run, in bytes per second from half a GiB: the higher of
    /// both. `None` if it was not measured.
    #[serde(default)]
    pub read_bytes_per_s: Option<f64>,
    /// The mean of both: an estimate of the bandwidth during the run.
    #[serde(default)]
    pub read_mean_bytes_per_s: Option<f64>,
    /// Gaps between deliveries in ms: 50th, 90th and 99th percentile.
    pub itl_ms: Option<[f64; 3]>,
    /// Time to load the engine of this run's process, in ms.
    pub load_ms: Option<f64>,
    /// Highest resident memory during the run, in MiB.
    pub peak_rss_mb: Option<f64>,
    /// Resources used.
    pub usage: Option<ProcessUsage>,
    /// Whether its tokens/s are an outlier; the run still counts.
    pub outlier: bool,
    /// Drafted tokens that were verified; `None` without speculation.
    #[serde(default)]
    pub drafted_tokens: Option<usize>,
    /// Drafted tokens that were accepted.
    #[serde(default)]
    pub accepted_tokens: Option<usize>,
    /// Accepted / drafted; `None` if nothing was drafted.
    #[serde(default)]
    pub acceptance: Option<f64>,
    /// The finish reason.
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
