//! How far two computations of a model are apart, and the bounds that a backend must keep.

use super::config::BenchConfig;
use super::warning::Warning;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The comparison of two computations over many positions. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogitsSummary {
    /// How many positions were compared.
    pub positions: usize,
    /// Share of positions with the same best token.
    pub top1: f64,
    /// Positions at which the reference's lead is at least 0.2 nats, so that there is no near tie.
    pub decided: usize,
    /// Share of these positions with the same best token; `None` if there are none.
    pub top1_decided: Option<f64>,
    /// The largest lead of the reference at a position at which the other has another best token; 0 if there is none.
    pub largest_lead_lost: f64,
    /// Noise of the lead: root mean square of the difference between the other's lead and the reference's, in nats.
    pub lead_noise: f64,
    /// KL divergence in nats: mean over positions.
    pub kl_mean: f64,
    /// Standard error of that mean, with positions taken as independent; `None` for one position.
    #[serde(default)]
    pub kl_se: Option<f64>,
    /// The divergence that 99% of positions stay below.
    pub kl_p99: f64,
    /// The largest divergence.
    pub kl_max: f64,
    /// The largest difference of two logits.
    pub max_abs_diff: f64,
    /// Standard deviation of the differences of logits.
    pub spread: f64,
    /// The same as a share of the standard deviation of the reference's logits: 0 for equal logits, about 1.4 for unrelated
    /// ones.
    #[serde(default)]
    pub error: f64,
}

/// The bounds within which two backends count as the same function. Near ties don't count: their number depends on the
/// text and the model, and even exact arithmetic could choose either token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogitsBounds {
    /// Minimum share of positions with the same best token, among those without near ties.
    pub top1_decided: f64,
    /// Largest mean KL divergence, in nats.
    pub kl_mean: f64,
    /// Maximum [`LogitsSummary::error`]; `None`: any. It decides for nearly uniform logits, as with random weights, for which
    /// even a wrong backend has a small divergence.
    #[serde(default)]
    pub error: Option<f64>,
}

impl Default for LogitsBounds {
    fn default() -> LogitsBounds {
        LogitsBounds { top1_decided: 0.98, kl_mean: 0.01, error: None }
    }
}

impl LogitsBounds {
    /// The bounds that a comparison breaks, in words.
    pub fn broken(&self, found: &LogitsSummary) -> Vec<String> {
        let mut broken = Vec::new();
        // NaN breaks a bound too.
        let same = found.top1_decided.is_none_or(|top1| top1 >= self.top1_decided);
        if !same {
            let (found, expected) = (100.0 * found.top1_decided.unwrap_or(0.0), 100.0 * self.top1_decided);
            broken.push(format!(
                "the best token is the same at {found:.2}% of positions without near ties; expected at least {expected}%"
            ));
        }
        let close = found.kl_mean <= self.kl_mean;
        if !close {
            broken.push(format!(
                "the mean KL divergence is {:.4}; expected at most {}",
                found.kl_mean, self.kl_mean
            ));
        }
        if let Some(most) = self.error {
            let close = found.error <= most;
            if !close {
                broken.push(format!(
                    "the differences of logits are {:.3} times the spread of the logits; expected at most {most}",
                    found.error
                ));
            }
        }
        broken
    }
}

/// The gate's result: the comparison of a subject with the reference, the highest-precision form of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateResult {
    /// Index into [`crate::record::BenchConfig::subjects`].
    pub subject: usize,
    /// The reference in words.
    pub reference: String,
    /// Planned tokens of the comparison; fewer for large models.
    #[serde(default)]
    pub tokens: usize,
    /// The comparison; `None` if there is none (`why` gives the reason).
    pub found: Option<LogitsSummary>,
    /// The bounds.
    pub bound: LogitsBounds,
    /// Whether it is within the bounds; `None` if there are no reference logits.
    pub within: Option<bool>,
    /// The broken bounds, or why there is no comparison; empty if it is within the bounds.
    pub why: Vec<String>,
    /// The comparison comes from an earlier experiment with the same program, files and options.
    pub earlier: bool,
}

impl GateResult {
    /// The warning for a subject that is not within its bounds.
    pub fn warning(&self, config: &BenchConfig) -> Option<Warning> {
        let subject = config.subjects[self.subject].label();
        let why = self.why.join("; ");
        match self.within {
            Some(true) => None,
            Some(false) => Some(Warning::Disagrees { subject, why }),
            None => Some(Warning::NotCompared { subject, why }),
        }
    }
}
