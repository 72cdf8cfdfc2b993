//! Analysis of a record: statistics, ranking, recommendation, comparison of records, the roofline, predictions.

pub mod compare;
pub mod model_cost;
pub mod predict;
pub mod recommend;
pub mod roofline;
pub mod stats;
mod student;
pub mod summary;
