//! The equivalence gate: before anything is timed, each backend is compared with the highest-precision form of the same
//! weights, on identical token ids. Who is out of bounds is measured and shown, and not ranked.

use crate::agreement::{Bounds, Summary};
use serde::{Deserialize, Serialize};

/// How a subject compares with the highest-precision form of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreed {
    /// Index into [`crate::BenchConfig::subjects`].
    pub subject: usize,
    /// What it was compared with.
    pub reference: String,
    /// The comparison; `None` if there is none, which `why` explains.
    pub found: Option<Summary>,
    /// What it has to keep.
    pub bound: Bounds,
    /// Whether it does; `None` if it could not be compared through no fault of its own.
    pub within: Option<bool>,
    /// What it breaks, or why it could not be compared; empty if it is within its bounds.
    pub why: Vec<String>,
    /// The comparison was made in an earlier experiment with the same program, files and options.
    pub earlier: bool,
}

/// A subject that has figures and no place in the ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unranked {
    /// Index into [`crate::BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// As in [`crate::record::Row::format`].
    pub format: Option<String>,
    /// As in [`crate::record::Row::quant`].
    pub quant: Option<String>,
    /// Why.
    pub why: String,
}
