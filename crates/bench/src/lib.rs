//! The bench: measures backends, compares and evaluates them, and keeps what it measured.
//!
//! Its rooms, in the order of their dependencies; no room uses one that comes later:
//!
//! 1. [`record`]: everything that is kept, as plain data, and its JSON schema;
//! 2. [`analyse`]: statistics, ranking, recommendation, comparison of records, roofline, predictions;
//! 3. [`eval`]: reference logits, comparison of logits, perplexity, quality;
//! 4. [`experiment`]: plan, child processes, trials, and the gate that compares every backend before it is timed;
//! 5. [`report`]: CSV, JSON, Markdown, HTML and the terminal's tables;
//! 6. [`loadgen`]: load on a server.
//!
//! Below them stand [`machine`] and [`files`] (the computer and its files), [`rng`], [`host`] (what the caller
//! provides) and the errors. The bench knows no backend: the caller passes a [`Host`] that opens one.

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
