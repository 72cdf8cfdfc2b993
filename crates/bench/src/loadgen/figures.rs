//! The figures of a load: one row per request, and percentiles, rates, goodput and failures of all requests.

use super::plan::LatencyBounds;
use super::request::{Asked, Outcome};
use crate::analyse::stats::quantile;
use serde::Serialize;
use std::collections::BTreeMap;

/// The spread of some values, in their unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let at = |q| quantile(&sorted, q);
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Spread { n: sorted.len(), mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

/// All requests together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that were sent or due.
    pub requests: usize,
    /// Requests with a complete answer.
    pub complete: usize,
    /// Failed requests, by reason.
    pub failures: BTreeMap<String, usize>,
    /// From the beginning to the end of the last answer, in seconds.
    pub wall_s: f64,
    /// Complete answers per second.
    pub requests_per_s: f64,
    /// Generated tokens of complete answers, by the server's count; `None` if it sends none.
    pub generated: Option<usize>,
    /// Generated tokens per second.
    pub tokens_per_s: Option<f64>,
    /// Prompt tokens of complete answers.
    pub prompt_tokens: Option<usize>,
    /// Prompt tokens that came from the server's cache.
    pub cached_tokens: Option<usize>,
    /// Time to the first token, in ms.
    pub ttft_ms: Option<Spread>,
    /// Gaps between deliveries, in ms.
    pub itl_ms: Option<Spread>,
    /// Time per token after the first, one value per answer, in ms.
    pub tpt_ms: Option<Spread>,
    /// Time to the last token, in ms.
    pub total_ms: Option<Spread>,
    /// Complete answers within the bounds.
    pub good: usize,
    /// Complete answers within the bounds, per second.
    pub goodput_per_s: f64,
    /// The client's own delay, in ms.
    pub late_ms: Option<Spread>,
}

/// A row of `results.json`: one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its number, from 1.
    pub order: usize,
    /// Always `http`.
    pub measured_at: &'static str,
    /// `ok`, or what went wrong.
    pub status: String,
    /// The HTTP status of a failed request, if there was one.
    pub http_status: Option<u16>,
    /// When it was due, in ms from the beginning. All other times count from then.
    pub due_ms: f64,
    /// When it was sent.
    pub late_ms: f64,
    /// The first delivery.
    pub ttft_ms: Option<f64>,
    /// (last − first) / (tokens − 1).
    pub tpt_ms: Option<f64>,
    /// The last delivery.
    pub total_ms: Option<f64>,
    /// Generated tokens per second of the total time.
    pub throughput: Option<f64>,
    /// Gaps between deliveries: 50th, 90th and 99th percentile.
    pub itl_ms: Option<[f64; 3]>,
    /// Prompt tokens.
    pub prompt_tokens: Option<usize>,
    /// Prompt tokens that came from the server's cache.
    pub cached_tokens: Option<usize>,
    /// Generated tokens.
    pub generated: Option<usize>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// Complete and within the bounds.
    pub good: bool,
    /// When each delivery arrived.
    pub deliveries_ms: Vec<f64>,
}

/// Why an answer without visible text counts as a failure.
const HIDDEN: &str = "the answer had no text: with more --max-tokens the hidden part may end";

/// The row of a request.
pub(super) fn row(asked: &Asked, bounds: &LatencyBounds) -> Row {
    let complete = asked.outcome == Outcome::Complete;
    let gaps = Spread::of(asked.gaps_ms());
    let kept = |bound: Option<f64>, value: Option<f64>| bound.is_none_or(|b| value.is_none_or(|v| v <= b));
    let good = complete && kept(bounds.ttft_ms, asked.ttft_ms()) && kept(bounds.itl_ms, gaps.map(|g| g.p99));
    let only = |value: Option<f64>| value.filter(|_| complete);
    let rate = |tokens: usize| asked.total_ms().filter(|t| *t > 0.0).map(|t| tokens as f64 / t * 1e3);
    let (status, http_status) = match &asked.outcome {
        Outcome::Failed(refusal) => (format!("failed: {}", refusal.why), refusal.status),
        Outcome::Hidden => (format!("failed: {HIDDEN}"), Some(200)),
        Outcome::Complete | Outcome::Interrupted => ("ok".to_owned(), None),
    };
    Row {
        order: asked.index + 1,
        measured_at: "http",
        status,
        http_status,
        due_ms: asked.due_ms,
        late_ms: asked.late_ms,
        ttft_ms: only(asked.ttft_ms()),
        tpt_ms: only(asked.tpt_ms()),
        total_ms: only(asked.total_ms()),
        throughput: only(asked.generated.and_then(rate)),
        itl_ms: gaps.filter(|_| complete).map(|g| [g.p50, g.p90, g.p99]),
        prompt_tokens: asked.prompt_tokens,
        cached_tokens: asked.cached_tokens,
        generated: asked.generated,
        finish_reason: asked.finish_reason.clone(),
        good,
        deliveries_ms: asked.deliveries_ms.clone(),
    }
}

/// All requests together, from each request and its row; `wall_s` is the time of the whole load.
pub(super) fn summary(asked: &[&Asked], rows: &[Row], wall_s: f64) -> Summary {
    let complete: Vec<&Asked> = asked.iter().copied().filter(|a| a.outcome == Outcome::Complete).collect();
    let mut failures = BTreeMap::new();
    for asked in asked {
        let why = match &asked.outcome {
            Outcome::Failed(refusal) => {
                let status =
                    refusal.status.filter(|s| *s != 200).map(|s| format!("{s}: ")).unwrap_or_default();
                format!("{status}{}", refusal.why)
            }
            Outcome::Hidden => HIDDEN.to_owned(),
            Outcome::Complete | Outcome::Interrupted => continue,
        };
        *failures.entry(why).or_default() += 1;
    }
    // If the count of one answer is missing, there is no total.
    let total = |of: fn(&Asked) -> Option<usize>| {
        complete.iter().map(|a| of(a)).sum::<Option<usize>>().filter(|_| !complete.is_empty())
    };
    let per_s = |n: usize| if wall_s > 0.0 { n as f64 / wall_s } else { 0.0 };
    let generated = total(|a| a.generated);
    let good = rows.iter().filter(|r| r.good).count();
    Summary {
        requests: asked.len(),
        complete: complete.len(),
        failures,
        wall_s,
        requests_per_s: per_s(complete.len()),
        generated,
        tokens_per_s: generated.map(per_s),
        prompt_tokens: total(|a| a.prompt_tokens),
        cached_tokens: total(|a| a.cached_tokens),
        ttft_ms: Spread::of(complete.iter().filter_map(|a| a.ttft_ms())),
        itl_ms: Spread::of(complete.iter().flat_map(|a| a.gaps_ms())),
        tpt_ms: Spread::of(complete.iter().filter_map(|a| a.tpt_ms())),
        total_ms: Spread::of(complete.iter().filter_map(|a| a.total_ms())),
        good,
        goodput_per_s: per_s(good),
        late_ms: Spread::of(asked.iter().map(|a| a.late_ms)),
    }
}
