//! The plan of a load: how requests arrive, how long prompts and answers are, which latencies count as good.

use crate::rng::Rng;
use serde::Serialize;
use std::time::Duration;

/// The endpoint that requests are sent to.
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
    /// At random times (a Poisson process), whether or not earlier requests were answered.
    Open {
        /// Requests per second on average.
        rate: f64,
    },
    /// From a fixed number of clients. Each sends its next request after the answer to the last one.
    Closed {
        /// Clients.
        concurrency: usize,
    },
}

/// When sending ends. Requests in progress are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// After this many requests.
    Requests(usize),
    /// After this time.
    Duration(Duration),
}

/// The latency bounds that an answer must meet to count as goodput. Without bounds, every complete answer counts.
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
    /// The model's name in requests, if given.
    pub model: Option<String>,
    /// The endpoint.
    pub api: Api,
    /// How requests arrive.
    pub arrivals: Arrivals,
    /// When the last one is sent.
    pub end: End,
    /// Words of each prompt. A tokenizer makes about one token of each; the server's count is recorded.
    pub prompt_tokens: usize,
    /// How many of these words, at the beginning, are the same in all prompts.
    pub shared_tokens: usize,
    /// Tokens of each answer.
    pub max_tokens: usize,
    /// The model may end its answers; otherwise requests set `ignore_eos`, so that answers have their full length.
    pub natural: bool,
    /// The bounds for goodput.
    pub bounds: LatencyBounds,
    /// Seed of arrival times and prompts.
    pub seed: u64,
}

/// Why a plan is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The rate is out of range.
    #[error("the rate: expected requests per second, above 0 and at most 10000, found {0}")]
    Rate(f64),
    /// A count is out of range.
    #[error("{what}: expected {expected}, found {found}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The valid range.
        expected: &'static str,
        /// The given value.
        found: usize,
    },
    /// A latency bound is not a positive number.
    #[error("the bound on {what}: expected milliseconds above 0, found {found}")]
    Bound {
        /// The latency that it bounds.
        what: &'static str,
        /// The given value.
        found: f64,
    },
}

/// The most clients, and the most concurrent requests in the open loop: each has a thread.
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

    /// Due times of requests in the open loop, from the beginning: gaps are exponentially distributed with mean 1 / `rate`.
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

    /// The prompt of request `index`: the shared words, then words of its own.
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
        // The deviation of an exponential distribution equals its mean; 20,000 gaps show both within a few percent.
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn prompts_share_the_configured_words() {
        let plan = plan();
        let (a, b) = (plan.prompt(0), plan.prompt(1));
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&a).len(), 20);
        assert_eq!(words(&a)[..5], words(&b)[..5]);
        assert_ne!(words(&a)[5..], words(&b)[5..]);
        assert_eq!(a, plan.prompt(0));
    }

    #[test]
    fn invalid_plans_are_named() {
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
