//! [`Figures`]: the measurements of a generation, in the units of reports and records.

use super::Outcome;
use serde::Serialize;
use std::time::Duration;

/// The figures of one generation, as defined in the README. A missing figure is `None`, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens of the prompt, including template and BOS; of a prompt that was cut, those that remained.
    pub prompt_tokens: usize,
    /// Those of them that the prefix cache held.
    pub cached_tokens: usize,
    /// Generated tokens, end of sequence not counted.
    pub completion_tokens: usize,
    /// Tokens that were drafted and verified; 0 without speculation.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// Accepted / drafted.
    pub acceptance: Option<f64>,
    /// Tokens cut from the middle of a prompt that was longer than the context.
    pub truncated_tokens: usize,
    /// Number of context shifts.
    pub context_shifts: usize,
    /// Tokens dropped by context shifts.
    pub dropped_tokens: usize,
    /// First token delivered − t0.
    pub ttft_ms: Option<f64>,
    /// (last − first) / (N − 1).
    pub tpt_ms: Option<f64>,
    /// Last token delivered − t0.
    pub total_ms: Option<f64>,
    /// Uncached prompt tokens per second of prefill computation.
    pub prefill_tps: Option<f64>,
    /// 1 / tpt.
    pub decode_tps: Option<f64>,
}

impl Figures {
    /// The figures of a generation.
    pub fn of(outcome: &Outcome) -> Figures {
        let (usage, timing) = (&outcome.usage, &outcome.timing);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let rate = |n: f64, seconds: f64| (n > 0.0 && seconds > 0.0).then_some(n / seconds);
        let gaps = usage.completion_tokens.checked_sub(1).filter(|&n| n > 0).map(|n| n as f64);
        let decode = timing.first.zip(timing.last).map(|(first, last)| (last - first).as_secs_f64());
        let uncached = usage.prompt_tokens.saturating_sub(usage.cached_tokens) as f64;
        Figures {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            drafted_tokens: usage.drafted_tokens,
            accepted_tokens: usage.accepted_tokens,
            acceptance: rate(usage.accepted_tokens as f64, usage.drafted_tokens as f64)
                .or((usage.drafted_tokens > 0).then_some(0.0)),
            truncated_tokens: usage.truncated_tokens,
            context_shifts: usage.context_shifts,
            dropped_tokens: usage.dropped_tokens,
            ttft_ms: timing.ttft().map(ms),
            tpt_ms: gaps.zip(decode).map(|(n, d)| d * 1e3 / n),
            total_ms: timing.total().map(ms),
            prefill_tps: rate(uncached, timing.prefill.as_secs_f64()),
            decode_tps: gaps.zip(decode).and_then(|(n, d)| rate(n, d)),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let show = |value: Option<f64>, unit: &str| value.map(|v| format!("{v:.1} {unit}"));
        let among = |count: usize, what: &str| match count {
            0 => String::new(),
            _ => format!(" ({count} {what})"),
        };
        let cached = among(self.cached_tokens, "cached") + &among(self.truncated_tokens, "more cut");
        let parts = [
            Some(format!("{} prompt tokens{cached}", self.prompt_tokens)),
            show(self.prefill_tps, "tokens/s prefill"),
            Some(format!("{} tokens", self.completion_tokens)),
            show(self.decode_tps, "tokens/s decode"),
            self.acceptance
                .map(|_| format!("{} of {} drafts right", self.accepted_tokens, self.drafted_tokens)),
            (self.context_shifts > 0)
                .then(|| format!("{} context shifts ({} dropped)", self.context_shifts, self.dropped_tokens)),
            show(self.ttft_ms, "ms to the first token"),
            show(self.total_ms, "ms in all"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{FinishReason, Timing, Usage};
    use std::time::Instant;

    fn outcome(tokens: usize) -> Outcome {
        let t0 = Instant::now();
        let at = |ms| Some(t0 + Duration::from_millis(ms));
        let (first, last) =
            if tokens == 0 { (None, None) } else { (at(100), at(100 + 10 * (tokens as u64 - 1))) };
        Outcome {
            reason: FinishReason::Length,
            usage: Usage {
                prompt_tokens: 50,
                cached_tokens: 10,
                completion_tokens: tokens,
                ..Usage::default()
            },
            timing: Timing { t0, prefill: Duration::from_millis(80), first, last },
            seed: 0,
        }
    }

    #[test]
    fn figures_follow_their_definitions() {
        let f = Figures::of(&outcome(11));
        let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        assert!(close(f.ttft_ms, 100.0) && close(f.tpt_ms, 10.0) && close(f.total_ms, 200.0), "{f:?}");
        assert!(close(f.prefill_tps, 500.0) && close(f.decode_tps, 100.0), "{f:?}");
        assert!(close(f.total_ms, f.ttft_ms.unwrap() + 10.0 * f.tpt_ms.unwrap()));
    }

    #[test]
    fn undefined_figures_are_none() {
        let one = Figures::of(&outcome(1));
        assert_eq!((one.tpt_ms, one.decode_tps), (None, None));
        assert!(one.ttft_ms.is_some());
        let none = Figures::of(&outcome(0));
        assert_eq!((none.ttft_ms, none.total_ms), (None, None));
    }
}
