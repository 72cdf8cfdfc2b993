//! The bench: measures, compares and evaluates backends, and keeps records.
//!
//! Its modules, in the order of their dependencies; each uses only earlier ones:
//!
//! 1. [`record`]: the record as plain data, and its JSON schema;
//! 2. [`analyse`]: statistics, ranking, recommendation, comparison of records, roofline, predictions;
//! 3. [`eval`]: reference logits, comparison of logits, perplexity, quality;
//! 4. [`experiment`]: plan, child processes, trials, and the gate that compares every backend before it is timed;
//! 5. [`report`]: CSV, JSON, Markdown, HTML and the terminal's tables;
//! 6. [`loadgen`]: load tests of a server.
//!
//! They all use [`machine`] and [`files`] (the computer and its files), [`rng`], [`host`] (the caller's services) and the
//! errors. The bench does not depend on backends: the caller passes a [`Host`] that opens one.

pub mod analyse;
mod conditions;
mod error;
pub mod eval;
pub mod experiment;
pub mod files;
pub mod host;
mod isolate;
pub mod loadgen;
pub mod machine;
pub mod record;
pub mod report;
pub mod rng;
mod usage;

pub use error::BenchError;
pub use experiment::child::child_main;
pub use experiment::plan::Plan;
pub use experiment::process::Launcher;
pub use experiment::progress::{Progress, Silent, Update};
pub use experiment::run;
pub use host::{ChildSpec, Host, Opened};
pub use record::{BenchConfig, Record, Runs, Scenario, Subject, Work};
pub use report::{render_table, write_all};
