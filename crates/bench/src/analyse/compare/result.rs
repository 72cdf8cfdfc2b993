//! The options of a comparison, and its result.

use crate::record::row::Row;
use crate::record::statistic::Verdict;
use crate::record::subject::SubjectKey;
use serde::Serialize;

/// The options of a comparison.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A slowdown by more than this many percent is a regression, if it is significant.
    pub regression_pct: f64,
    /// Whether to compare records of different machines.
    pub any_machine: bool,
}

/// A figure to compare. All are in tokens per second: higher is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Output tokens / total latency.
    Throughput,
    /// Prefill rate.
    PrefillTps,
    /// Decode rate.
    DecodeTps,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Good runs.
    pub runs: usize,
    /// Their median, in tokens/s.
    pub median: f64,
    /// 95% interval of the median; `None` for fewer than three runs.
    pub ci95: Option<[f64; 2]>,
}

/// One figure of one subject on one scenario, on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The subject on side B.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The scenario's name.
    pub scenario: String,
    /// The figure.
    pub metric: Metric,
    /// Whether it was measured with the mock: the cost of the harness.
    pub synthetic: bool,
    /// The first record, or the first subject.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// B ÷ A: above 1, B is faster. A ratio of geometric means, or the geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// 95% interval of the ratio; `None` with fewer than two runs on a side.
    pub ci95: Option<[f64; 2]>,
    /// The probability of a difference at least this large if both sides were equally fast.
    pub p: Option<f64>,
    /// Whether runs were compared in pairs.
    pub paired: bool,
    /// The verdict on B.
    pub verdict: Verdict,
    /// Whether the 95% intervals of the two medians overlap; `None` if a side has no interval.
    pub overlap: Option<bool>,
    /// Whether B is slower by more than allowed, and significantly so over all rows together (Holm's correction at 5%).
    pub regression: bool,
}

impl Compared {
    /// `native · smollm2-135m (gguf, q4_1), short, decode_tps`.
    pub fn name(&self) -> String {
        format!("{}, {}, {}", self.key, self.scenario, self.metric.name())
    }
}

impl Metric {
    /// The key in records.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Throughput => "throughput",
            Metric::PrefillTps => "prefill_tps",
            Metric::DecodeTps => "decode_tps",
        }
    }

    pub(super) const ALL: [Metric; 3] = [Metric::Throughput, Metric::PrefillTps, Metric::DecodeTps];

    pub(super) fn of(self, row: &Row) -> Option<f64> {
        match self {
            Metric::Throughput => row.throughput,
            Metric::PrefillTps => row.prefill_tps,
            Metric::DecodeTps => row.decode_tps,
        }
    }
}

/// Something that is only on one side or can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// A subject, or a subject and a scenario.
    pub what: String,
    /// Why it is not compared.
    pub why: String,
    /// Whether it was good on side A and failed, or computes wrongly, on side B: a regression in itself.
    pub broke: bool,
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// All figures that both sides have.
    pub rows: Vec<Compared>,
    /// What could not be compared, with reasons.
    pub missing: Vec<Missing>,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Every regression in a few words: figures that are slower by more than allowed, and what broke.
    pub fn regressions(&self) -> Vec<String> {
        let slower = self
            .rows
            .iter()
            .filter(|r| r.regression)
            .map(|r| format!("{} at {:.1}% of what it was", r.name(), 100.0 * r.ratio));
        let broke = self.missing.iter().filter(|m| m.broke).map(|m| format!("{}: {}", m.what, m.why));
        slower.chain(broke).collect()
    }
}

/// Records that can't be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// They were measured on different machines.
    #[error("the records are from different machines: {a} and {b}")]
    Machines {
        /// The first one's.
        a: String,
        /// The second one's.
        b: String,
    },
    /// They were measured in different ways.
    #[error("the records were made in different ways: {0}")]
    Ways(&'static str),
    /// They have nothing in common.
    #[error("the records have nothing in common: {0}")]
    Nothing(String),
}
