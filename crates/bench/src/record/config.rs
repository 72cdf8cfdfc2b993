//! What an experiment measures and how, as recorded.

use super::subject::Subject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One request that all backends get in the same words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in tables and on the command line: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// A short title for people.
    pub title: String,
    /// Its purpose, in a sentence.
    pub description: String,
    /// The system message, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The user's message, to which the model's chat template is applied.
    pub prompt: String,
    /// How many tokens are generated, ignoring end-of-sequence (at most this many with `--natural`).
    pub max_tokens: usize,
    /// How many random ids replace the prompt for a model without a tokenizer.
    pub nominal_prompt_tokens: usize,
}

/// A piece of work that every subject does in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A scenario: a chat prompt and an answer of fixed length.
    Scenario(Scenario),
    /// llama-bench's `pp`: this many random prompt tokens, followed by one token.
    Prompt(usize),
    /// llama-bench's `tg`: this many single-token steps from an empty context.
    Generate(usize),
}

impl Work {
    /// Its name in tables: the scenario's, or `pp512`, `tg128`.
    pub fn name(&self) -> String {
        match self {
            Work::Scenario(s) => s.name.clone(),
            Work::Prompt(n) => format!("pp{n}"),
            Work::Generate(n) => format!("tg{n}"),
        }
    }

    /// How many tokens are to be generated.
    pub fn max_tokens(&self) -> usize {
        match self {
            Work::Scenario(s) => s.max_tokens,
            Work::Prompt(_) => 1,
            Work::Generate(n) => *n,
        }
    }
}

/// The number of runs of each piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// This many runs.
    Fixed(usize),
    /// Runs until the 95% interval of every median throughput is within ± `pct` percent: at least `min`, at most `max` runs.
    UntilCi {
        /// Half the interval's width as a percentage of the median.
        pct: f64,
        /// Minimum number of runs.
        min: usize,
        /// Maximum number of runs.
        max: usize,
    },
}

impl Runs {
    /// Until every interval is within ± `pct` percent: at least 5 runs, at most 50.
    pub fn until_ci(pct: f64) -> Runs {
        Runs::UntilCi { pct, min: 5, max: 50 }
    }

    /// The maximum number of runs.
    pub fn most(self) -> usize {
        match self {
            Runs::Fixed(n) => n,
            Runs::UntilCi { max, .. } => max,
        }
    }
}

/// The text, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QualityText {
    /// The file, UTF-8.
    pub path: PathBuf,
    /// Its SHA-256, since figures of different texts can't be compared.
    pub sha256: String,
    /// Tokens of a window.
    pub window: usize,
    /// Maximum number of windows.
    pub windows: usize,
    /// This many windows, from the first on, are also compared with the reference logits.
    pub compared: usize,
}

/// The complete configuration of an experiment, as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchConfig {
    /// The subjects.
    pub subjects: Vec<Subject>,
    /// The work of each subject.
    pub work: Vec<Work>,
    /// The number of runs.
    pub runs: Runs,
    /// The seed of orders, random prompts and bootstrap intervals.
    pub seed: u64,
    /// Whether the model may end answers (`--natural`); otherwise end-of-sequence is ignored and lengths are fixed.
    pub natural: bool,
    /// Whether the prefix cache is on and primed (`--cached`); otherwise every run computes its whole prompt.
    pub cached: bool,
    /// Maximum warm-up runs of each process; they end sooner when two successive runs are within `steady_pct`.
    pub warmup: usize,
    /// Two warm-up runs count as alike if their TpT differ by at most this many percent.
    pub steady_pct: f64,
    /// A child that sends nothing for this many seconds, while loading or running, is stopped.
    pub timeout_s: u64,
    /// Whether the model's files are dropped from the page cache before the first load, so that one load is cold.
    pub cold_start: bool,
    /// Whether the machine's peaks are measured, before the first run and after the last.
    #[serde(default)]
    pub peaks: bool,
    /// Whether every subject is first compared with the reference.
    #[serde(default)]
    pub gate: bool,
    /// The folder of comparisons cached for later experiments with the same program, files and options; `None`: no cache.
    #[serde(default)]
    pub gate_cache: Option<PathBuf>,
    /// Whether each process is restricted to the cores of its threads.
    #[serde(default)]
    pub isolate: bool,
    /// The text on which each subject's quality is measured.
    #[serde(default)]
    pub quality: Option<QualityText>,
}
