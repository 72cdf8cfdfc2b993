//! The bench: measures backends honestly, and keeps what it measured.
//!
//! The rooms, in the order an experiment walks through them:
//!
//! * [`scenario`]: what is asked, as data;
//! * [`plan`]: who runs what in which order (randomised blocks from a recorded seed);
//! * [`run`](mod@run): the experiment, seen from the parent: one child process at a time, its failures contained;
//!   [`progress`]: following it;
//! * [`protocol`] and [`process`]: how parent and child speak, and what can go wrong between them;
//! * [`child`]: the other side: opens an engine, runs requests, reports; [`host`]: what it needs to be given for that;
//! * [`clock`]: the time line of a run and the figures defined on it; [`row`]: a run's line in the record;
//! * [`stats`], [`summary`], [`recommend`]: from runs to medians, a ranking and a recommendation;
//! * [`compare`]: two records, or the subjects of one, held against each other;
//! * [`machine`], [`files`], [`warning`]: where it was measured and what may have disturbed it;
//! * [`facts`], [`ceilings`]: what a token costs, what the machine can do at most, and the shares of it that speeds are;
//! * [`predict`]: what they allow to say of a model that was never run here;
//! * [`agreement`], [`passage`]: whether two backends compute the same function: their logits at the same positions;
//!   [`gate`]: who has to, and what comes of it if they don't;
//! * [`perplexity`]: how well a model predicts a text; [`quality`]: that of every subject;
//! * [`record`]: everything that is kept, [`schema`]: as a JSON schema; [`export`]: CSV, JSON and the terminal's tables.
//!
//! The bench knows no backend: whoever calls it passes in a way to open one.

pub mod agreement;
pub mod ceilings;
pub mod child;
pub mod clock;
pub mod compare;
mod compare_child;
mod conditions;
pub mod export;
pub mod facts;
pub mod files;
pub mod gate;
#[cfg(test)]
mod gate_tests;
pub mod homes;
pub mod host;
mod isolate;
pub mod machine;
pub mod passage;
pub mod perplexity;
pub mod plan;
pub mod predict;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod quality;
pub mod recommend;
pub mod record;
pub mod rng;
pub mod row;
pub mod run;
pub mod scenario;
pub mod schema;
pub mod serve_load;
pub mod stats;
mod student;
pub mod summary;
mod usage;
pub mod warning;

pub use child::child_main;
pub use export::{render_table, write_all};
pub use host::{Host, Opened};
pub use plan::{BenchConfig, Plan, Runs, Subject, Work};
pub use process::Launcher;
pub use progress::{Progress, Silent, Update};
pub use protocol::ChildSpec;
pub use record::Record;
pub use run::run;
pub use scenario::Scenario;

/// Why there is no record. Failures of single runs are rows of the record, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A scenario was refused.
    #[error("scenario {name}: {why}")]
    Scenario {
        /// Its name or path.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The plan makes no sense.
    #[error("{0}")]
    Plan(String),
    /// No child process could be started at all.
    #[error("can't start {program}: {source}")]
    Launch {
        /// The program.
        program: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A result could not be written.
    #[error("can't write {path}: {why}")]
    Write {
        /// Where.
        path: std::path::PathBuf,
        /// What went wrong.
        why: String,
    },
}
