//! Statistics of repeated measurements, as recorded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Half the width of the band in which two speeds count as the same: 2%.
pub const TIE: f64 = 0.02;

/// Statistics of a list of measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// The number of values.
    pub n: usize,
    /// The median (the mean of the two middle values if their number is even).
    pub median: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
    /// Sample standard deviation, divisor n − 1; `None` for one value.
    pub stdev: Option<f64>,
    /// 95% percentile-bootstrap interval of the median; `None` for fewer than three values.
    pub ci95: Option<[f64; 2]>,
}

/// The ratio of two speeds, from pairs of runs that followed one another closely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ratio {
    /// The ratio: geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// 95% interval of the ratio; `None` for fewer than two pairs.
    pub ci95: Option<[f64; 2]>,
    /// The number of pairs.
    pub pairs: usize,
}

/// The verdict from a [`Ratio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies within ±2%: no difference that matters.
    Tie,
    /// Slower: the interval lies below 1.
    Less,
    /// Faster: the interval lies above 1.
    More,
    /// The interval is too wide to decide, or there is none.
    Undecided,
}
