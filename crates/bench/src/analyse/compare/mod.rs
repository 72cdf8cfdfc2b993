//! Compares two records, or the subjects of one record: which figures are faster, slower or undecided.
//!
//! Runs of two records are independent, so their means are compared (Welch, on the log scale). Subjects of
//! one record ran in the same blocks, so they are compared in pairs, which removes what slowed a block as a whole.

mod cells;
mod notes;
mod pairing;
mod records;
mod result;

pub use records::{compare, within};
pub use result::{CompareError, Compared, Comparison, Metric, Missing, Options, Side};
