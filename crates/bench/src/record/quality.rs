//! The quality of a subject: its perplexity on a text, and its distance from reference logits there.

use super::config::BenchConfig;
use super::figure::figure;
use super::subject::SubjectName;
use super::warning::Warning;
use serde::{Deserialize, Serialize};

/// The quality of a subject's predictions of the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Quality {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// Backend and model.
    #[serde(flatten)]
    pub name: SubjectName,
    /// The text's file name.
    pub text: String,
    /// Perplexity: lower is better; comparable between subjects with one vocabulary.
    pub ppl: Option<f64>,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Tokens scored.
    pub tokens: Option<usize>,
    /// Mean KL divergence from the reference logits of the same weights and text, in nats.
    pub kl_mean: Option<f64>,
    /// The divergence that 99% of positions stay below.
    pub kl_p99: Option<f64>,
    /// Share of positions with the same best token, from 0 to 1.
    pub top1: Option<f64>,
    /// Positions compared.
    pub kl_positions: Option<usize>,
    /// A description of the reference.
    pub reference: Option<String>,
    /// Why a figure is missing.
    pub why: Option<String>,
}

impl Quality {
    /// The warning for a missing figure.
    pub fn warning(&self, config: &BenchConfig) -> Option<Warning> {
        let why = self.why.clone()?;
        Some(Warning::NoQuality { subject: config.subjects[self.subject].label(), why })
    }

    /// `perplexity 27.17 ± 1.21, KL 0.0038 from the reference on the text`; `None` without either figure.
    pub fn describe(&self) -> Option<String> {
        let ppl = self.ppl.map(|ppl| format!("perplexity {ppl:.2} ± {:.2}", self.stderr.unwrap_or(f64::NAN)));
        let kl = self.kl_mean.map(|kl| format!("KL {} from the reference on the text", figure(kl)));
        let parts: Vec<String> = ppl.into_iter().chain(kl).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
