//! What is asked of a server: how requests arrive, how long they are, what counts as good.

use crate::rng::Rng;
use serde::Serialize;
use std::time::Duration;

/// The endpoint that is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1/chat/completions`
    #[default]
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Api {
    /// The endpoint's path.
    pub fn path(self) -> &'static str {
        match self {
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
        }
    }
}

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "loop", rename_all = "snake_case")]
pub enum Arrivals {
    /// At random times, as a Poisson process, whether or not earlier ones were answered.
    Open {
        /// Requests per second on average.
        rate: f64,
    },
    /// From so many clients, each of which asks again once it is answered.
    Closed {
        /// Clients.
        concurrency: usize,
    },
}

/// When no more requests are sent. Those that run are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// After so many.
    Requests(usize),
    /// After so long.
    Duration(Duration),
}

/// What an answer has to keep to for goodput; without a bound, every complete answer is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyBounds {
    /// Longest time to the first token, in ms.
    pub ttft_ms: Option<f64>,
    /// Longest 99th percentile of an answer's gaps between deliveries, in ms.
    pub itl_ms: Option<f64>,
}

/// A load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadPlan {
    /// The server, for the record.
    pub url: String,
    /// The model that is asked for, if one is named.
    pub model: Option<String>,
    /// The endpoint.
    pub api: Api,
    /// How requests arrive.
    pub arrivals: Arrivals,
    /// When the last one is sent.
    pub end: End,
    /// Words of each prompt, which tokenizers of English make about as many tokens of; the server's count is recorded.
    pub prompt_tokens: usize,
    /// Of these, words at the beginning that all prompts have in common.
    pub shared_tokens: usize,
    /// Tokens of each answer.
    pub max_tokens: usize,
    /// Answers may end by themselves; otherwise `ignore_eos` asks for their full length.
    pub natural: bool,
    /// What is good.
    pub bounds: LatencyBounds,
    /// Decides arrivals and prompts.
    pub seed: u64,
}

/// Why a load makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A rate that is none.
    #[error("the rate: expected requests per second, above 0 and at most 10000, found {0}")]
    Rate(f64),
    /// A count that is none.
    #[error("{what}: expected {expected}, found {found}")]
    Count {
        /// Of what.
        what: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: usize,
    },
    /// A bound that is none.
    #[error("the bound on {what}: expected milliseconds above 0, found {found}")]
    Bound {
        /// On what.
        what: &'static str,
        /// What it is.
        found: f64,
    },
}

/// Most clients, and most requests at once in the open loop: each has a thread.
pub const MOST_AT_ONCE: usize = 1024;

const ARRIVAL: u64 = 1;
const PROMPT: u64 = 2;
const SHARED: u64 = 3;

const WORDS: [&str; 32] = [
    "river", "mountain", "warm", "engine", "letter", "seven", "quiet", "market", "garden", "copper",
    "window", "north", "paper", "story", "cloud", "bridge", "summer", "table", "stone", "music", "winter",
    "forest", "silver", "morning", "road", "island", "yellow", "harbor", "simple", "circle", "valley",
    "night",
];

impl LoadPlan {
    /// Checks that the load can be run.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn check(&self) -> Result<(), PlanError> {
        let count = |what, expected, found, good: bool| match good {
            true => Ok(()),
            false => Err(PlanError::Count { what, expected, found }),
        };
        match self.arrivals {
            Arrivals::Open { rate } if !(rate > 0.0 && rate <= 1e4) => return Err(PlanError::Rate(rate)),
            Arrivals::Open { .. } => {}
            Arrivals::Closed { concurrency: n } => {
                count("clients", "1 to 1024", n, (1..=MOST_AT_ONCE).contains(&n))?;
            }
        }
        if let End::Requests(n) = self.end {
            count("requests", "1 to 1000000", n, (1..=1_000_000).contains(&n))?;
        }
        count(
            "prompt tokens",
            "1 to 1000000",
            self.prompt_tokens,
            (1..=1_000_000).contains(&self.prompt_tokens),
        )?;
        let shared = self.shared_tokens;
        count("shared tokens", "at most the prompt tokens", shared, shared <= self.prompt_tokens)?;
        count("tokens of an answer", "at least 1", self.max_tokens, self.max_tokens > 0)?;
        for (what, bound) in [("TTFT", self.bounds.ttft_ms), ("gaps", self.bounds.itl_ms)] {
            if let Some(found) = bound.filter(|b| !(*b > 0.0 && b.is_finite())) {
                return Err(PlanError::Bound { what, found });
            }
        }
        Ok(())
    }

    /// When requests are due in the open loop, from the beginning on: gaps are exponential with mean 1 / `rate`.
    pub fn due(&self, rate: f64) -> impl Iterator<Item = Duration> + use<> {
        let mut rng = Rng::new(self.seed, ARRIVAL);
        let mut at = 0.0;
        std::iter::repeat_with(move || {
            // In (0, 1]: the logarithm is finite.
            let uniform = ((rng.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            at -= uniform.ln() / rate;
            Duration::from_secs_f64(at)
        })
    }

    /// The prompt of request `index`: words that no other request has, after those that all have.
    pub fn prompt(&self, index: usize) -> String {
        let mut shared = Rng::new(self.seed, SHARED);
        let mut own = Rng::new(self.seed.wrapping_add(index as u64), PROMPT);
        let words = (0..self.prompt_tokens).map(|i| {
            let rng = if i < self.shared_tokens { &mut shared } else { &mut own };
            WORDS[rng.below(WORDS.len())]
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The body of request `index`.
    pub fn body(&self, index: usize) -> serde_json::Value {
        let mut body = serde_json::json!({
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if let Some(model) = &self.model {
            body["model"] = model.as_str().into();
        }
        if !self.natural {
            body["ignore_eos"] = true.into();
        }
        match self.api {
            Api::Chat => {
                body["messages"] = serde_json::json!([{"role": "user", "content": self.prompt(index)}]);
            }
            Api::Completions => body["prompt"] = self.prompt(index).into(),
        }
        body
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn plan() -> LoadPlan {
        LoadPlan {
            url: "http://test".to_owned(),
            model: None,
            api: Api::Chat,
            arrivals: Arrivals::Closed { concurrency: 2 },
            end: End::Requests(6),
            prompt_tokens: 20,
            shared_tokens: 5,
            max_tokens: 4,
            natural: false,
            bounds: LatencyBounds::default(),
            seed: 1,
        }
    }

    #[test]
    fn arrivals_are_a_poisson_process_of_the_seed() {
        let due: Vec<f64> = plan().due(50.0).take(20_000).map(|d| d.as_secs_f64()).collect();
        assert!(due.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(due, plan().due(50.0).take(20_000).map(|d| d.as_secs_f64()).collect::<Vec<_>>());
        let gaps: Vec<f64> = due.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Of an exponential distribution the deviation is the mean; 20,000 gaps show both within a few percent.
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn prompts_share_what_they_are_to_share() {
        let plan = plan();
        let (a, b) = (plan.prompt(0), plan.prompt(1));
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&a).len(), 20);
        assert_eq!(words(&a)[..5], words(&b)[..5]);
        assert_ne!(words(&a)[5..], words(&b)[5..]);
        assert_eq!(a, plan.prompt(0));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let bad = [
            (LoadPlan { arrivals: Arrivals::Open { rate: 0.0 }, ..plan() }, "above 0"),
            (LoadPlan { arrivals: Arrivals::Open { rate: f64::NAN }, ..plan() }, "NaN"),
            (LoadPlan { arrivals: Arrivals::Closed { concurrency: 0 }, ..plan() }, "clients"),
            (LoadPlan { end: End::Requests(0), ..plan() }, "requests"),
            (LoadPlan { shared_tokens: 21, ..plan() }, "shared"),
            (LoadPlan { max_tokens: 0, ..plan() }, "answer"),
            (LoadPlan { bounds: LatencyBounds { ttft_ms: Some(-1.0), itl_ms: None }, ..plan() }, "TTFT"),
        ];
        for (plan, says) in bad {
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(says), "{says} in {error}");
        }
        assert_eq!(plan().check(), Ok(()));
    }
}
