//! The experiment: plan, child processes, the protocol between parent and child, and both sides of it.

pub mod child;
pub mod gate;
pub mod plan;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod quality;
pub mod row;
mod run;
pub mod scenario;
mod state;
mod trial;

pub use run::run;
