//! Typed warnings: possible disturbances of a measurement, and facts that its readers must know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A warning as the record keeps it: `kind`, its figures, and the sentence under `message`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Noted {
    /// The warning and its figures.
    #[serde(flatten)]
    pub warning: Warning,
    /// The warning as a sentence.
    pub message: String,
}

impl From<Warning> for Noted {
    fn from(warning: Warning) -> Noted {
        Noted { message: warning.to_string(), warning }
    }
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)] // the messages name the fields
pub enum Warning {
    /// The machine was busy before the first run.
    HighLoad { load1: f64, cores: usize },
    /// Another process used all or much of a core.
    BusyProcess { name: String, pid: u32, cpu_pct: f64 },
    /// The CPU frequency governor is set to save energy.
    Governor { governor: String },
    /// The hypervisor gave this machine's cores to other tenants during the measurement.
    StolenTime { pct: f64 },
    /// The processor throttled during the measurement.
    Throttled { times: u64 },
    /// The machine was hot before the first run.
    Hot { celsius: f64 },
    /// A peak of the machine changed during the measurement.
    PeaksDiffer { what: String, pct: f64 },
    /// The machine's peaks could not be measured.
    NoPeaks { why: String },
    /// A subject does not compute the function of its weights: it is not ranked.
    Disagrees { subject: String, why: String },
    /// A subject could not be compared with the reference: its rank is unverified.
    NotCompared { subject: String, why: String },
    /// A subject's quality, or its distance from the reference logits, could not be measured.
    NoQuality { subject: String, why: String },
    /// Other processes may run on the cores of the runs.
    NotIsolated { why: String },
    /// The program was built without optimisation.
    DebugBuild,
    /// Subjects of the same shape got different prompts, because their tokenizers or templates differ.
    UnequalPrompts { scenario: String, counts: Vec<(String, usize)> },
    /// Two subjects of the same shape tokenise the same text differently.
    SameModelDifferentIds { scenario: String, first: String, second: String },
    /// The model has no tokenizer, so its prompts are random ids.
    RandomPrompt { subject: String },
    /// The warm-up ended before two successive runs took about the same time.
    NotSteady { subject: String, run: usize, warmups: usize },
    /// The first load could not be made cold.
    NotCold { subject: String, cached_pct: f64 },
    /// Half the range of the runs exceeds a tenth of the median.
    WideSpread { subject: String, scenario: String, pct: f64 },
    /// A run is an outlier among the runs of its scenario.
    Outlier { subject: String, scenario: String, run: usize, times: f64 },
    /// The experiment was interrupted.
    Interrupted,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::HighLoad { load1, cores } => write!(
                f,
                "the machine was busy before measuring: load average {load1:.2} on {cores} cores; figures may be low"
            ),
            Warning::BusyProcess { name, pid, cpu_pct } => {
                write!(f, "process {name} ({pid}) was using {cpu_pct:.0}% of a core before measuring")
            }
            Warning::Governor { governor } => {
                write!(f, "the CPU frequency governor is {governor}, not performance; the clock may vary")
            }
            Warning::StolenTime { pct } => {
                write!(f, "the hypervisor took away {pct:.1}% of the cores' time during the measurement")
            }
            Warning::Throttled { times } => {
                write!(f, "the processor throttled {times} times during the measurement")
            }
            Warning::Hot { celsius } => {
                write!(f, "the machine was at {celsius:.0} °C before measuring; it may throttle")
            }
            Warning::PeaksDiffer { what, pct } => write!(
                f,
                "the machine's {what} changed by {pct:+.0}% during the measurement: another process may have been running"
            ),
            Warning::NoPeaks { why } => write!(f, "the machine's peaks could not be measured: {why}"),
            Warning::Disagrees { subject, why } => {
                write!(
                    f,
                    "{subject} is not ranked because it does not compute the function of its weights: {why}"
                )
            }
            Warning::NotCompared { subject, why } => write!(
                f,
                "{subject} could not be compared with the reference, so its rank is unverified: {why}"
            ),
            Warning::NoQuality { subject, why } => {
                write!(f, "the quality of {subject} is unknown or incomplete: {why}")
            }
            Warning::NotIsolated { why } => {
                write!(f, "the runs share their cores with other processes: {why}")
            }
            Warning::DebugBuild => {
                write!(f, "this is a debug build; its figures do not apply to a release build")
            }
            Warning::UnequalPrompts { scenario, counts } => {
                let counts: Vec<_> = counts.iter().map(|(who, n)| format!("{who} {n}")).collect();
                write!(f, "{scenario}: prompts differ in tokens: {}", counts.join(", "))
            }
            Warning::SameModelDifferentIds { scenario, first, second } => write!(
                f,
                "{scenario}: {first} and {second} have the same shape but different prompt ids; their tokenizers or \
                 chat templates differ"
            ),
            Warning::RandomPrompt { subject } => {
                write!(
                    f,
                    "{subject} has no tokenizer; its prompts are random ids of each scenario's nominal length"
                )
            }
            Warning::NotSteady { subject, run, warmups } => {
                write!(f, "{subject}, run {run}: not steady after {warmups} warm-up runs")
            }
            Warning::NotCold { subject, cached_pct } => write!(
                f,
                "{subject}: {cached_pct:.0}% of the files stayed in the page cache, so the first load was not cold"
            ),
            Warning::WideSpread { subject, scenario, pct } => {
                write!(f, "{subject}, {scenario}: runs scatter by ±{pct:.0}% around the median")
            }
            Warning::Outlier { subject, scenario, run, times } => write!(
                f,
                "{subject}, {scenario}: run {run} is an outlier, {times:.2} times the median; it counts like the others"
            ),
            Warning::Interrupted => write!(f, "interrupted: the record is partial"),
        }
    }
}
