//! Metrics for Prometheus, under Zonda's own names and, where gateways and autoscalers read them, under vLLM's names.

use crate::models::Loaded;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use zonda_engine::{FinishReason, Outcome};

/// Bounds of the histograms, in seconds.
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const NEXT_TOKEN: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];
const WHOLE: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Model {
    model_name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    path: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct End {
    model_name: String,
    finished_reason: &'static str,
}

type Times = Family<Model, Histogram, fn() -> Histogram>;
type Level = Family<Model, Gauge>;
type Share = Family<Model, Gauge<f64, AtomicU64>>;

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    answers: Family<Answer, Counter>,
    ends: Family<End, Counter>,
    prompt: Family<Model, Counter>,
    cached: Family<Model, Counter>,
    generated: Family<Model, Counter>,
    drafted: Family<Model, Counter>,
    accepted: Family<Model, Counter>,
    shifts: Family<Model, Counter>,
    first_token: Times,
    next_token: Times,
    prefill: Times,
    whole: Times,
    running: Level,
    waiting: Level,
    loaded: Level,
    kv: Share,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let times = |new: fn() -> Histogram| Times::new_with_constructor(new);
        let metrics = Metrics {
            registry: Registry::default(),
            answers: Family::default(),
            ends: Family::default(),
            prompt: Family::default(),
            cached: Family::default(),
            generated: Family::default(),
            drafted: Family::default(),
            accepted: Family::default(),
            shifts: Family::default(),
            first_token: times(|| Histogram::new(FIRST_TOKEN)),
            next_token: times(|| Histogram::new(NEXT_TOKEN)),
            prefill: times(|| Histogram::new(FIRST_TOKEN)),
            whole: times(|| Histogram::new(WHOLE)),
            running: Family::default(),
            waiting: Family::default(),
            loaded: Family::default(),
            kv: Family::default(),
        };
        metrics.register()
    }

    fn register(mut self) -> Metrics {
        let r = &mut self.registry;
        r.register("zonda_requests", "HTTP requests answered", self.answers.clone());
        // Each under two names: Zonda's and vLLM's.
        for (name, metric) in [("zonda_prompt_tokens", &self.prompt), ("vllm:prompt_tokens", &self.prompt)] {
            r.register(name, "Prompt tokens of finished generations, including cached ones", metric.clone());
        }
        r.register("zonda_cached_tokens", "Prompt tokens found in the prefix cache", self.cached.clone());
        for (name, metric) in
            [("zonda_generated_tokens", &self.generated), ("vllm:generation_tokens", &self.generated)]
        {
            r.register(name, "Generated tokens", metric.clone());
        }
        for (name, metric, help) in [
            ("zonda_drafted_tokens", &self.drafted, "Tokens that were drafted and verified"),
            ("vllm:spec_decode_num_draft_tokens", &self.drafted, "Tokens that were drafted and verified"),
            ("zonda_accepted_tokens", &self.accepted, "Drafted tokens that were accepted"),
            ("vllm:spec_decode_num_accepted_tokens", &self.accepted, "Drafted tokens that were accepted"),
            ("zonda_context_shifts", &self.shifts, "Number of context shifts"),
        ] {
            r.register(name, help, metric.clone());
        }
        for (name, metric) in [("zonda_generations", &self.ends), ("vllm:request_success", &self.ends)] {
            r.register(name, "Finished generations, by finish reason", metric.clone());
        }
        for (name, metric, help) in [
            (
                "zonda_time_to_first_token_seconds",
                &self.first_token,
                "Time from a request to its first token",
            ),
            ("vllm:time_to_first_token_seconds", &self.first_token, "Time from a request to its first token"),
            ("zonda_inter_token_seconds", &self.next_token, "Time from one token to the next"),
            ("vllm:inter_token_latency_seconds", &self.next_token, "Time from one token to the next"),
            ("zonda_prefill_seconds", &self.prefill, "Time to compute the uncached part of a prompt"),
            ("zonda_request_seconds", &self.whole, "Time from a request to its last token"),
            ("vllm:e2e_request_latency_seconds", &self.whole, "Time from a request to its last token"),
        ] {
            r.register(name, help, metric.clone());
        }
        for (name, metric, help) in [
            ("zonda_sequences_running", &self.running, "Sequences that have a slot"),
            ("vllm:num_requests_running", &self.running, "Sequences that have a slot"),
            ("zonda_sequences_waiting", &self.waiting, "Sequences that wait for a slot"),
            ("vllm:num_requests_waiting", &self.waiting, "Sequences that wait for a slot"),
            ("zonda_model_loaded", &self.loaded, "1 if the model is in memory"),
        ] {
            r.register(name, help, metric.clone());
        }
        for (name, metric) in [("zonda_kv_usage_ratio", &self.kv), ("vllm:kv_cache_usage_perc", &self.kv)] {
            r.register(name, "Share of the KV cache that running sequences occupy, 0 to 1", metric.clone());
        }
        self
    }

    /// Counts a request whose response head is about to be sent.
    pub(crate) fn answered(&self, path: &str, status: u16) {
        self.answers.get_or_create(&Answer { path: path.to_owned(), status }).inc();
    }

    /// The metrics of a model.
    pub(crate) fn series(&self, model: &str) -> Series {
        let model = Model { model_name: model.to_owned() };
        Series {
            ends: self.ends.clone(),
            prompt: self.prompt.get_or_create_owned(&model),
            cached: self.cached.get_or_create_owned(&model),
            generated: self.generated.get_or_create_owned(&model),
            drafted: self.drafted.get_or_create_owned(&model),
            accepted: self.accepted.get_or_create_owned(&model),
            shifts: self.shifts.get_or_create_owned(&model),
            first_token: self.first_token.get_or_create_owned(&model),
            next_token: self.next_token.get_or_create_owned(&model),
            prefill: self.prefill.get_or_create_owned(&model),
            whole: self.whole.get_or_create_owned(&model),
            model: model.model_name,
        }
    }

    /// All metrics as text, in the OpenMetrics format.
    pub(crate) fn encode(&self, models: &[(&str, Option<Arc<Loaded>>)]) -> String {
        for (name, loaded) in models {
            let model = Model { model_name: (*name).to_owned() };
            let occupancy = loaded.as_ref().map(|l| l.engine.occupancy()).unwrap_or_default();
            self.loaded.get_or_create(&model).set(i64::from(loaded.is_some()));
            self.running.get_or_create(&model).set(occupancy.running as i64);
            self.waiting.get_or_create(&model).set(occupancy.waiting as i64);
            let used = occupancy.total_pages - occupancy.free_pages - occupancy.cached_pages;
            self.kv.get_or_create(&model).set(used as f64 / occupancy.total_pages.max(1) as f64);
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

/// The metrics of one model.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    model: String,
    ends: Family<End, Counter>,
    prompt: Counter,
    cached: Counter,
    generated: Counter,
    drafted: Counter,
    accepted: Counter,
    shifts: Counter,
    first_token: Histogram,
    next_token: Histogram,
    prefill: Histogram,
    whole: Histogram,
}

impl Series {
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub fn next_token(&self, after: Duration) {
        self.next_token.observe(after.as_secs_f64());
    }

    /// Counts tokens as they are generated, so that tokens of a cancelled answer are included.
    pub fn generated(&self, tokens: usize) {
        self.generated.inc_by(tokens as u64);
    }

    pub fn finished(&self, outcome: &Outcome) {
        self.prompt.inc_by(outcome.usage.prompt_tokens as u64);
        self.cached.inc_by(outcome.usage.cached_tokens as u64);
        self.drafted.inc_by(outcome.usage.drafted_tokens as u64);
        self.accepted.inc_by(outcome.usage.accepted_tokens as u64);
        self.shifts.inc_by(outcome.usage.context_shifts as u64);
        self.prefill.observe(outcome.timing.prefill.as_secs_f64());
        if let Some(total) = outcome.timing.total() {
            self.whole.observe(total.as_secs_f64());
        }
        let reason = match outcome.reason {
            FinishReason::Stop | FinishReason::StopString => "stop",
            FinishReason::Length | FinishReason::ContextFull => "length",
            FinishReason::Cancelled => "abort",
            FinishReason::Refused(_) | FinishReason::Error(_) => "error",
        };
        self.ended(reason, 1);
    }

    /// Counts cancelled generations.
    pub fn cancelled(&self, count: usize) {
        self.ended("abort", count as u64);
    }

    fn ended(&self, finished_reason: &'static str, count: u64) {
        self.ends.get_or_create(&End { model_name: self.model.clone(), finished_reason }).inc_by(count);
    }
}
