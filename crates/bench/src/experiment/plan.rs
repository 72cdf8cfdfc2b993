//! The plan of an experiment: who runs what, in which order, how often.
//!
//! Runs come in blocks. A block measures every subject (a backend with a model) on every piece of work once, in an
//! order drawn anew for each block from the recorded seed. A slow drift of the machine (heat, another tenant) then
//! falls on all subjects alike instead of on whichever came last.

use crate::{BenchError, rng::Rng, scenario::Scenario};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

/// Most prompt tokens of the warm-up's prefill: enough to touch every buffer of a chunked prefill.
pub const WARM_PROMPT: usize = 512;
/// Output tokens of a warm-up run.
pub const WARM_TOKENS: usize = 16;

/// A backend with a model and its options: what one child process opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The backend's name on the command line.
    pub backend: String,
    /// The model's name or file stem, for tables.
    pub model: String,
    /// Where the model lies; `None` for the mock.
    pub path: Option<PathBuf>,
    /// `gguf`, `safetensors`, `mlx`, or `None` (mock).
    pub format: Option<String>,
    /// The backend's figures are made up (the mock): shown as the harness's own overhead, never ranked.
    pub synthetic: bool,
    /// The command line's options (threads, isa, …), for the one who opens the engine; the bench only records them.
    pub options: BTreeMap<String, String>,
}

impl Subject {
    /// It guesses tokens ahead.
    pub fn speculates(&self) -> bool {
        self.options.contains_key("speculate")
    }

    /// A short name for progress and messages: `native · smollm2-135m (gguf)`.
    pub fn label(&self) -> String {
        match &self.format {
            Some(format) => format!("{} · {} ({format})", self.backend, self.model),
            None if self.model == self.backend => self.backend.clone(),
            None => format!("{} · {}", self.backend, self.model),
        }
    }
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
    pub quality: Option<crate::quality::QualityText>,
}

impl Default for BenchConfig {
    /// The four scenarios, two runs, no subject yet.
    fn default() -> BenchConfig {
        BenchConfig {
            subjects: Vec::new(),
            work: Scenario::builtin().into_iter().map(Work::Scenario).collect(),
            runs: Runs::Fixed(2),
            seed: 42,
            natural: false,
            cached: false,
            warmup: 5,
            steady_pct: 5.0,
            timeout_s: 600,
            cold_start: true,
            peaks: true,
            gate: true,
            gate_cache: None,
            isolate: false,
            quality: None,
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    config: BenchConfig,
}

/// One visit of a subject within a block: one child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// Indices into [`BenchConfig::work`], in the order they are run.
    pub work: Vec<usize>,
}

impl Plan {
    /// Checks a configuration.
    ///
    /// # Errors
    /// If nothing would be measured, something would be measured twice, or a number is absurd.
    pub fn new(config: BenchConfig) -> Result<Plan, BenchError> {
        let refuse = |why: String| Err(BenchError::Plan(why));
        if config.subjects.is_empty() {
            return refuse("no backend to measure".into());
        }
        if config.work.is_empty() {
            return refuse("no scenario to run".into());
        }
        let mut seen = HashSet::new();
        for s in &config.subjects {
            if !seen.insert((&s.backend, &s.model, &s.path, &s.options)) {
                return refuse(format!("{} is listed twice", s.label()));
            }
        }
        let mut seen = HashSet::new();
        for w in &config.work {
            if !seen.insert(w.name()) {
                return refuse(format!("scenario {} is listed twice", w.name()));
            }
            if w.max_tokens() == 0 || *w == Work::Prompt(0) {
                return refuse(format!("{}: expected at least one token", w.name()));
            }
        }
        match config.runs {
            Runs::Fixed(n) if !(1..=10_000).contains(&n) => {
                return refuse(format!("{n} runs: expected 1 to 10000"));
            }
            Runs::UntilCi { pct, min, max } if !(pct > 0.0 && pct < 100.0 && 3 <= min && min <= max) => {
                return refuse(format!(
                    "until the interval is within {pct}% in {min} to {max} runs: expected more than 0% and at least 3 runs"
                ));
            }
            _ => {}
        }
        if config.timeout_s == 0 {
            return refuse("a timeout of 0 seconds: expected at least 1".into());
        }
        Ok(Plan { config })
    }

    /// What is measured and how.
    pub fn config(&self) -> &BenchConfig {
        &self.config
    }

    /// The visits of one block, in the order they are made. `run` counts from 1.
    pub fn block(&self, run: usize) -> Vec<Visit> {
        let mut rng = Rng::new(self.config.seed, run as u64);
        let mut visits: Vec<Visit> = (0..self.config.subjects.len())
            .map(|subject| {
                let mut work: Vec<usize> = (0..self.config.work.len()).collect();
                rng.shuffle(&mut work);
                Visit { subject, work }
            })
            .collect();
        rng.shuffle(&mut visits);
        visits
    }

    /// The longest silence a child is allowed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(backend: &str) -> Subject {
        Subject {
            backend: backend.into(),
            model: "m".into(),
            path: None,
            format: None,
            synthetic: false,
            options: BTreeMap::new(),
        }
    }

    fn plan(subjects: usize, seed: u64) -> Plan {
        let subjects = (0..subjects).map(|i| subject(&format!("b{i}"))).collect();
        Plan::new(BenchConfig { subjects, seed, ..BenchConfig::default() }).unwrap()
    }

    #[test]
    fn a_block_holds_everything_once_and_orders_change() {
        let plan = plan(3, 9);
        let mut orders = HashSet::new();
        for run in 1..=20 {
            let block = plan.block(run);
            let mut subjects: Vec<_> = block.iter().map(|v| v.subject).collect();
            orders.insert(subjects.clone());
            subjects.sort_unstable();
            assert_eq!(subjects, [0, 1, 2]);
            for visit in block {
                let mut work = visit.work;
                work.sort_unstable();
                assert_eq!(work, [0, 1, 2, 3]);
            }
        }
        assert!(orders.len() >= 4, "the order of subjects hardly changes: {orders:?}");
    }

    #[test]
    fn the_seed_decides_the_order() {
        assert_eq!(plan(4, 1).block(2), plan(4, 1).block(2));
        assert!((1..=5).any(|run| plan(4, 1).block(run) != plan(4, 2).block(run)));
    }

    #[test]
    fn absurd_plans_are_refused() {
        let refused = |change: fn(&mut BenchConfig)| {
            let mut config = BenchConfig { subjects: vec![subject("a")], ..BenchConfig::default() };
            change(&mut config);
            Plan::new(config).unwrap_err().to_string()
        };
        assert!(refused(|c| c.subjects.clear()).contains("no backend"));
        assert!(refused(|c| c.work.clear()).contains("no scenario"));
        assert!(refused(|c| c.subjects.push(c.subjects[0].clone())).contains("twice"));
        assert!(refused(|c| c.work.push(c.work[0].clone())).contains("short is listed twice"));
        assert!(refused(|c| c.runs = Runs::Fixed(0)).contains("0 runs"));
        assert!(refused(|c| c.runs = Runs::UntilCi { pct: f64::NAN, min: 5, max: 9 }).contains("NaN"));
        assert!(refused(|c| c.work = vec![Work::Prompt(0)]).contains("pp0"));
        assert!(refused(|c| c.timeout_s = 0).contains("timeout"));
    }
}
