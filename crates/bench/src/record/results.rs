//! The record of an experiment: everything `results.json` holds. What can't be known is `null`, never 0.

use super::comparison::GateResult;
use super::config::BenchConfig;
use super::peaks::Roofline;
use super::process::Process;
use super::quality::Quality;
use super::row::Row;
use super::summary::{Cell, Overhead, Rank, Unranked};
use super::usage::Conditions;
use super::warning::Noted;
use crate::machine::Machine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the JSON's shape; raised when a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The program that wrote it.
    pub program: Program,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// When it ended, RFC 3339, UTC.
    pub finished: String,
    /// It was interrupted: what is here is sound, but not all that was planned.
    pub partial: bool,
    /// The machine.
    pub machine: Machine,
    /// What was to be measured and how.
    pub config: BenchConfig,
    /// What the machine can do at most, measured before the first run and after the last.
    #[serde(default, rename = "ceilings")]
    pub roofline: Roofline,
    /// What went on in the machine while it measured.
    #[serde(default)]
    pub conditions: Conditions,
    /// The models' files.
    pub models: Vec<ModelFiles>,
    /// Whether each subject computes the same function as the highest-precision form of its weights. A subject that was
    /// not compared, such as the mock, has no entry.
    #[serde(default)]
    pub agreement: Vec<GateResult>,
    /// What each subject's predictions of [`BenchConfig::quality`]'s text are worth; empty if that was not asked for.
    #[serde(default)]
    pub quality: Vec<Quality>,
    /// Every child process in the order they followed one another: its load and warm-up.
    pub processes: Vec<Process>,
    /// Every run, in the order they followed one another.
    pub rows: Vec<Row>,
    /// Statistics per backend, model and scenario.
    pub summary: Vec<Cell>,
    /// Backends with models, fastest first. The mock is never here.
    pub ranking: Vec<Rank>,
    /// Subjects that have figures and no place in the ranking, and why: fast and wrong is shown as wrong.
    #[serde(default)]
    pub unranked: Vec<Unranked>,
    /// What the harness itself costs, if the mock was measured.
    pub overhead: Option<Overhead>,
    /// What the figures say, in sentences computed from them.
    pub recommendation: Vec<String>,
    /// What may have disturbed the measurement, or must be known to read it.
    pub warnings: Vec<Noted>,
}

impl Record {
    /// A subject's quality, if it was measured.
    pub fn quality(&self, subject: usize) -> Option<&Quality> {
        self.quality.iter().find(|q| q.subject == subject)
    }
}

/// The program that measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// `zonda-bench`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the executable whose child processes ran the backends, if it could be read.
    pub sha256: Option<String>,
    /// It was built without optimisation.
    pub debug_build: bool,
}

/// The files of one subject's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFiles {
    /// Index into [`BenchConfig::subjects`].
    pub subject: usize,
    /// The files, in name order.
    pub files: Vec<ModelFile>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFile {
    /// Its name, without folders.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of what `hashed` says, in hexadecimal.
    pub sha256: String,
    /// `all` of the file, or of large files only the `ends`: the first and last 16 MiB.
    pub hashed: Hashed,
}

/// How much of a file its hash covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hashed {
    /// The whole file.
    All,
    /// The first and the last 16 MiB.
    Ends,
}
