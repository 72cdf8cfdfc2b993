//! The plan of an experiment: the work of each subject, its order and number of runs.
//!
//! Runs come in blocks. A block measures every subject (a backend with a model) on every piece of work once, in an order
//! drawn anew for each block from the recorded seed. A slow drift of the machine (heat, another tenant) then affects all
//! subjects alike, not only the one that ran last.

use crate::error::BenchError;
use crate::record::config::{BenchConfig, Runs, Scenario, Work};
use crate::rng::Rng;
use std::collections::HashSet;
use std::time::Duration;

/// Maximum prompt tokens of the warm-up's prefill: enough to touch every buffer of a chunked prefill.
pub const WARM_PROMPT: usize = 512;
/// Output tokens of a warm-up run.
pub const WARM_TOKENS: usize = 16;

impl Default for BenchConfig {
    /// The four default scenarios, three runs, no subjects.
    fn default() -> BenchConfig {
        BenchConfig {
            subjects: Vec::new(),
            work: Scenario::builtin().into_iter().map(Work::Scenario).collect(),
            runs: Runs::Fixed(3),
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

/// One trial of a subject within a block: one child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// Indices into [`BenchConfig::work`], in execution order.
    pub work: Vec<usize>,
}

impl Plan {
    /// Checks a configuration.
    ///
    /// # Errors
    /// If nothing would be measured, something would be measured twice, or a number is out of range.
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

    /// The configuration.
    pub fn config(&self) -> &BenchConfig {
        &self.config
    }

    /// The trials of one block, in execution order. `run` counts from 1.
    pub fn block(&self, run: usize) -> Vec<Trial> {
        let mut rng = Rng::new(self.config.seed, run as u64);
        let mut trials: Vec<Trial> = (0..self.config.subjects.len())
            .map(|subject| {
                let mut work: Vec<usize> = (0..self.config.work.len()).collect();
                rng.shuffle(&mut work);
                Trial { subject, work }
            })
            .collect();
        rng.shuffle(&mut trials);
        trials
    }

    /// The longest time without a message from a child.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::subject::Subject;
    use std::collections::BTreeMap;

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
    fn a_block_has_everything_once_in_a_new_order() {
        let plan = plan(3, 9);
        let mut orders = HashSet::new();
        for run in 1..=20 {
            let block = plan.block(run);
            let mut subjects: Vec<_> = block.iter().map(|v| v.subject).collect();
            orders.insert(subjects.clone());
            subjects.sort_unstable();
            assert_eq!(subjects, [0, 1, 2]);
            for trial in block {
                let mut work = trial.work;
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
    fn invalid_plans_are_refused() {
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
