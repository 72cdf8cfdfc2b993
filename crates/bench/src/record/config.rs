//! What an experiment measures and how, as recorded.

use super::subject::Subject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One request that every backend gets in the same words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in tables and on the command line: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// A short title for people.
    pub title: String,
    /// What it asks for, in a sentence.
    pub description: String,
    /// The system message, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The user's message; the model's chat template is put around it.
    pub prompt: String,
    /// How many tokens are generated, end-of-sequence ignored (at most this many with `--natural`).
    pub max_tokens: usize,
    /// How many random ids stand in for the prompt where a model has no tokenizer.
    pub nominal_prompt_tokens: usize,
}

/// One thing that every subject does in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A scenario: a chat prompt and an answer of fixed length.
    Scenario(Scenario),
    /// llama-bench's `pp`: this many random prompt tokens, and the one token that follows.
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

    /// How many tokens it asks for.
    pub fn max_tokens(&self) -> usize {
        match self {
            Work::Scenario(s) => s.max_tokens,
            Work::Prompt(_) => 1,
            Work::Generate(n) => *n,
        }
    }
}

/// How often each piece of work is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// This many times.
    Fixed(usize),
    /// Until the 95% interval of every median throughput is within ± `pct` percent, at least `min` times, at most
    /// `max` times.
    UntilCi {
        /// Half the interval's width as a percentage of the median.
        pct: f64,
        /// Fewest runs.
        min: usize,
        /// Most runs.
        max: usize,
    },
}

impl Runs {
    /// Until every interval is within ± `pct` percent: at least 5 runs, at most 50.
    pub fn until_ci(pct: f64) -> Runs {
        Runs::UntilCi { pct, min: 5, max: 50 }
    }

    /// The most runs there can be.
    pub fn most(self) -> usize {
        match self {
            Runs::Fixed(n) => n,
            Runs::UntilCi { max, .. } => max,
        }
    }
}

/// Which text, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QualityText {
    /// The file, UTF-8.
    pub path: PathBuf,
    /// Its SHA-256: figures of different texts can't be compared.
    pub sha256: String,
    /// Tokens of a window.
    pub window: usize,
    /// Maximum number of windows.
    pub windows: usize,
    /// This many windows, from the first on, are also compared with the reference logits.
    pub compared: usize,
}

/// Everything that decides what is measured and how. Recorded as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchConfig {
    /// Who is measured.
    pub subjects: Vec<Subject>,
    /// What each does.
    pub work: Vec<Work>,
    /// How often.
    pub runs: Runs,
    /// Orders, random prompts and bootstrap intervals come from it.
    pub seed: u64,
    /// The model may stop by itself (`--natural`); otherwise end-of-sequence is ignored and lengths are fixed.
    pub natural: bool,
    /// The prefix cache is on and primed (`--cached`); otherwise every run computes its whole prompt.
    pub cached: bool,
    /// Most warm-up runs of each process; they end sooner when two in a row are within `steady_pct`.
    pub warmup: usize,
    /// When two warm-up runs count as alike: their TpT differ by at most this many percent.
    pub steady_pct: f64,
    /// A child that says nothing for this long (seconds) is stopped: loading, or no first token.
    pub timeout_s: u64,
    /// Drop the model's files from the page cache before its first load, so that one load is cold.
    pub cold_start: bool,
    /// Measure what the machine can do at most, before the first run and after the last.
    #[serde(default)]
    pub peaks: bool,
    /// Compare every subject with the highest-precision form of its weights first.
    #[serde(default)]
    pub gate: bool,
    /// Where comparisons are kept for later experiments with the same program, files and options; `None`: nowhere.
    #[serde(default)]
    pub gate_cache: Option<PathBuf>,
    /// Keep each process to the cores that its threads run on.
    #[serde(default)]
    pub isolate: bool,
    /// Measure each subject's quality on this text.
    #[serde(default)]
    pub quality: Option<QualityText>,
}
