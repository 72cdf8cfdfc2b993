//! Statistics of repeated measurements, as recorded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Half the width of the band in which two speeds count as the same: 2%.
pub const TIE: f64 = 0.02;

/// What a list of measurements says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// How many values there are.
    pub n: usize,
    /// The middle value (mean of the two middle ones).
    pub median: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Sample standard deviation, divisor n − 1; `None` for one value.
    pub stdev: Option<f64>,
    /// 95% percentile-bootstrap interval of the median; `None` for fewer than three values.
    pub ci95: Option<[f64; 2]>,
}

/// How one speed compares with another, from runs that followed one another closely (pairs).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ratio {
    /// The ratio: geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// 95% interval of the ratio; `None` for fewer than two pairs.
    pub ci95: Option<[f64; 2]>,
    /// How many pairs.
    pub pairs: usize,
}

/// What a [`Ratio`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies within ±2%: no difference that matters.
    Tie,
    /// Slower: the interval lies below 1.
    Less,
    /// Faster: the interval lies above 1.
    More,
    /// The interval is too wide to say, or there is none.
    Undecided,
}
