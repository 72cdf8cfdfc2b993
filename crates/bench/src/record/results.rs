//! The whole record: the contents of `results.json`. Unknown figures are `null`, never 0.

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

/// Version of the JSON; raised when a key changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The program that measured.
    pub program: Program,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// When it ended, RFC 3339, UTC.
    pub finished: String,
    /// The experiment was interrupted: the figures are valid but incomplete.
    pub partial: bool,
    /// The machine.
    pub machine: Machine,
    /// The configuration.
    pub config: BenchConfig,
    /// The machine's peaks, measured before the first run and after the last.
    #[serde(default, rename = "ceilings")]
    pub roofline: Roofline,
    /// The state of the machine during the measurement.
    #[serde(default)]
    pub conditions: Conditions,
    /// The models' files.
    pub models: Vec<ModelFiles>,
    /// The gate's result for each subject. A subject that was not compared, such as the mock, has no entry.
    #[serde(default)]
    pub agreement: Vec<GateResult>,
    /// The quality of each subject on the text of [`BenchConfig::quality`]; empty without a text.
    #[serde(default)]
    pub quality: Vec<Quality>,
    /// Every child process in order: its load and warm-up.
    pub processes: Vec<Process>,
    /// Every run, in order.
    pub rows: Vec<Row>,
    /// Statistics per backend, model and scenario.
    pub summary: Vec<Cell>,
    /// Backends with models, fastest first. The mock is never here.
    pub ranking: Vec<Rank>,
    /// Subjects with figures but without a place in the ranking, with the reason.
    #[serde(default)]
    pub unranked: Vec<Unranked>,
    /// The overhead of the harness, if the mock was measured.
    pub overhead: Option<Overhead>,
    /// The recommendation, in sentences computed from the figures.
    pub recommendation: Vec<String>,
    /// Possible disturbances of the measurement, and facts that its readers must know.
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
    /// The program was built without optimisation.
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
    /// SHA-256 of the part that `hashed` names, in hexadecimal.
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
