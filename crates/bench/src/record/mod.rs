//! The record of an experiment: everything `results.json` holds, as plain data. Nothing here measures, reads or writes.

pub mod comparison;
pub mod config;
mod figure;
pub mod model_cost;
pub mod peaks;
pub mod process;
pub mod quality;
pub mod results;
pub mod row;
pub mod schema;
pub mod statistic;
pub mod subject;
pub mod summary;
pub mod timeline;
pub mod usage;
pub mod warning;

pub use comparison::{GateResult, LogitsBounds, LogitsSummary};
pub use config::{BenchConfig, QualityText, Runs, Scenario, Work};
pub use figure::figure;
pub use model_cost::{Arithmetic, ModelCost};
pub use peaks::{LARGE, Peaks, Rate, Roofline};
pub use process::{LoadReport, Process, RunReport, WarmUp};
pub use quality::Quality;
pub use results::{Hashed, ModelFile, ModelFiles, Program, Record, SCHEMA_VERSION};
pub use row::{Row, Status};
pub use statistic::{Ratio, Stats, TIE, Verdict};
pub use subject::{Subject, SubjectKey, SubjectName};
pub use summary::{Cell, Overhead, Rank, Unranked};
pub use timeline::{Delivery, TimeLine, TimeLineError};
pub use usage::{Conditions, ProcessUsage};
pub use warning::{Noted, Warning};
