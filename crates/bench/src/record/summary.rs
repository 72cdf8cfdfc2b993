//! Statistics of runs, the ranking, and the subjects left out of it.

use super::statistic::{Ratio, Stats, Verdict};
use super::subject::SubjectKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Statistics of one subject on one scenario, over its good runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Index into [`BenchConfig::subjects`](super::config::BenchConfig::subjects).
    pub subject: usize,
    /// Backend, model, format and quantisation.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The scenario's name.
    pub scenario: String,
    /// Whether the figures are the mock's.
    pub synthetic: bool,
    /// Good runs.
    pub runs: usize,
    /// Runs that failed or were skipped.
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
    /// As `Row::prefill_share`.
    #[serde(default)]
    pub prefill_share: Option<Stats>,
    /// As `Row::decode_share`.
    #[serde(default)]
    pub decode_share: Option<Stats>,
    /// As `Row::read_bytes_per_s`.
    #[serde(default)]
    pub read_bytes_per_s: Option<Stats>,
    /// As `Row::read_mean_bytes_per_s`.
    #[serde(default)]
    pub read_mean_bytes_per_s: Option<Stats>,
    /// Loading the engine, in ms, cold and warm.
    #[serde(default)]
    pub load_ms: Option<Stats>,
    /// Cold start of the subject, in ms: from the start of the process to the first token, with the model not in the page
    /// cache. The same in all cells of the subject.
    #[serde(default)]
    pub cold_start_ms: Option<f64>,
    /// CPU time of all threads in a run, in ms.
    #[serde(default)]
    pub cpu_ms: Option<Stats>,
    /// Context switches in a run, voluntary and involuntary.
    #[serde(default)]
    pub switches: Option<Stats>,
    /// Energy in a run, in joules.
    #[serde(default)]
    pub energy_j: Option<Stats>,
    /// Accepted / drafted tokens of all good runs together; `None` if nothing was drafted.
    #[serde(default)]
    pub acceptance: Option<f64>,
    /// The reason why the subject is not ranked; `None` if it is ranked or is the mock.
    #[serde(default)]
    pub not_ranked: Option<String>,
}

impl Cell {
    /// As `Row::headline`.
    pub fn headline(&self) -> Option<&Stats> {
        self.throughput.as_ref().or(self.prefill_tps.as_ref())
    }
}

/// A place in the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rank {
    /// Place from 1 among the subjects of the same shape.
    pub rank: usize,
    /// Index into [`BenchConfig::subjects`](super::config::BenchConfig::subjects).
    pub subject: usize,
    /// Backend, model, format and quantisation.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The model's shape; only subjects of one shape are ranked against each other.
    pub shape: String,
    /// Geometric mean over the scenarios of the median tokens/s.
    pub score_tps: f64,
    /// Speed relative to the best subject of its shape, from runs of the same block; `None` for the best one itself, and if no
    /// block has all runs of both.
    pub against_best: Option<Ratio>,
    /// The verdict from that ratio; `None` for the best one itself.
    pub verdict: Option<Verdict>,
    /// The scenarios in the score: those that all ranked subjects of the shape finished.
    pub scenarios: Vec<String>,
}

/// A subject with figures but without a place in the ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unranked {
    /// Index into [`BenchConfig::subjects`](super::config::BenchConfig::subjects).
    pub subject: usize,
    /// Backend, model, format and quantisation.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The reason.
    pub why: String,
}

/// The overhead of the harness: the mock's figures with all delays set to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overhead {
    /// Median TTFT in ms.
    pub ttft_ms: f64,
    /// Median TpT in µs.
    pub per_token_us: f64,
    /// Number of runs.
    pub runs: usize,
}
