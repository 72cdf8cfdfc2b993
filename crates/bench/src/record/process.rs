//! The reports of an experiment's child processes: loading, warm-up, single runs.

use super::model_cost::ModelCost;
use super::timeline::TimeLine;
use super::usage::ProcessUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zonda_engine::TokenId;
use zonda_engine::forward::BackendInfo;

/// One child process: one subject in one block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Index into `BenchConfig::subjects`.
    pub subject: usize,
    /// The block it belongs to, from 1.
    pub run: usize,
    /// The loaded engine; `None` if loading failed.
    pub load: Option<LoadReport>,
    /// Time from the start of the process until the model was open, in ms; `None` if loading failed.
    #[serde(default)]
    pub ready_ms: Option<f64>,
    /// Time from the start of the process until the first token of its first run, in ms; the cold start if
    /// [`Process::temperature`] is `cold`. The first run is the prefill of the warm-up.
    #[serde(default)]
    pub first_token_ms: Option<f64>,
    /// Share of the model's file bytes that were in the page cache before loading, 0 to 1; `None` if unknown.
    pub file_cached: Option<f64>,
    /// The warm-up runs, in order.
    pub warmup: Vec<WarmUp>,
}

impl Process {
    /// `cold`, `warm` or `None` (between, or unknown): was the model in the page cache when it was loaded?
    pub fn temperature(&self) -> Option<&'static str> {
        match self.file_cached? {
            share if share <= 0.05 => Some("cold"),
            share if share >= 0.95 => Some("warm"),
            _ => None,
        }
    }
}

/// One warm-up run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WarmUp {
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Generated tokens.
    pub generated: usize,
    /// TTFT in ms.
    pub ttft_ms: Option<f64>,
    /// TpT in ms.
    pub tpt_ms: Option<f64>,
}

/// The report of a child after it opened its engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadReport {
    /// The backend.
    #[schemars(with = "Backend")]
    pub backend: BackendInfo,
    /// The model's architecture and shapes in one line: equal for two forms of the same model.
    pub shape: String,
    /// The longest sequence the engine holds, in tokens.
    pub context: usize,
    /// Whether the engine has a tokenizer; without one, prompts are random ids.
    pub has_tokenizer: bool,
    /// Time to open the engine, in ms: files, repacking, allocation, tokenizer.
    pub load_ms: f64,
    /// The cost of one token; `None` for the mock, or if it isn't known.
    #[serde(default, rename = "facts")]
    pub cost: Option<ModelCost>,
    /// The CPUs that the process was bound to; `None` without `--isolate`, or if binding failed.
    #[serde(default)]
    pub kept_to: Option<Vec<usize>>,
    /// The reason why binding failed.
    #[serde(default)]
    pub not_kept: Option<String>,
    /// Resources used by opening.
    pub usage: ProcessUsage,
}

/// The schema of [`BackendInfo`], whose crate does not depend on schemas.
#[derive(JsonSchema)]
#[allow(dead_code)] // only its schema is used
#[schemars(rename = "BackendInfo")]
struct Backend {
    /// The backend's name on the command line: `native`, `llama-cpp`, `mlx`, `mock`.
    name: String,
    /// The backend's own version.
    version: String,
    /// The device: `cpu`, or a GPU's name.
    device: String,
    /// The instruction set in use, such as `avx512`; empty if not applicable.
    isa: String,
    /// Number of worker threads (1 for single-threaded backends).
    threads: usize,
    /// How the weights are held in memory: `q4_1`, `bf16`, or a mix such as `q4_k+q6_k`.
    weights: String,
    /// KV cache type: `f16`, `f32`, `q8_0`, `q4_0`.
    kv_type: String,
}

/// Fails to compile if the two types differ.
impl From<BackendInfo> for Backend {
    fn from(info: BackendInfo) -> Backend {
        let BackendInfo { name, version, device, isa, threads, weights, kv_type } = info;
        Backend { name, version, device, isa, threads, weights, kv_type }
    }
}

/// The report of a child after one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// When each token arrived.
    pub timeline: TimeLine,
    /// Prompt tokens, including cached ones.
    pub prompt_tokens: usize,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// Compute time of the uncached prompt tokens, in ms.
    pub prefill_ms: f64,
    /// Drafted tokens that were verified; 0 without speculation.
    #[serde(default)]
    pub drafted_tokens: usize,
    /// Drafted tokens that were accepted.
    #[serde(default)]
    pub accepted_tokens: usize,
    /// The finish reason: `length`, `stop`, `context_full`, …
    pub finish_reason: String,
    /// SHA-256 of the prompt's ids as little-endian `u32`.
    pub prompt_sha256: String,
    /// The generated ids.
    pub ids: Vec<TokenId>,
    /// The generated text; empty without a tokenizer.
    pub text: String,
    /// Resources used.
    pub usage: ProcessUsage,
}
