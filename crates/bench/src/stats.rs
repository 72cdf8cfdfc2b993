//! Statistics of repeated measurements: median, spread, bootstrap confidence interval.

use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 2000;
/// Fewest values that get an interval: with two, resampling only gives the two values back.
const FEWEST_FOR_INTERVAL: usize = 3;

/// What a list of measurements says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl Stats {
    /// Summarises values; `None` if there are none or one isn't finite. `seed` makes the interval reproducible.
    pub fn of(values: &[f64], seed: u64) -> Option<Stats> {
        if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Stats {
            n,
            median: quantile(&sorted, 0.5),
            mean,
            min: sorted[0],
            max: sorted[n - 1],
            stdev: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
            ci95: (n >= FEWEST_FOR_INTERVAL).then(|| bootstrap_median(&sorted, seed)),
        })
    }

    /// Half the range as a share of the median, in percent.
    pub fn spread_pct(&self) -> Option<f64> {
        (self.n > 1 && self.median != 0.0).then(|| 50.0 * (self.max - self.min) / self.median.abs())
    }

    /// Half the width of the interval as a share of the median, in percent.
    pub fn ci_pct(&self) -> Option<f64> {
        let [low, high] = self.ci95?;
        (self.median != 0.0).then(|| 50.0 * (high - low) / self.median.abs())
    }
}

/// The `q`-quantile of sorted values, linear between ranks (Hyndman & Fan's type 7, as NumPy and R have it).
///
/// # Panics
/// If there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The median of values in any order; `None` if there are none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// The geometric mean; `None` if there are no values or one isn't positive.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|&v| v.is_nan() || v <= 0.0) {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// Half the width of the band in which two speeds count as the same: 2%.
pub const TIE: f64 = 0.02;

/// How one speed compares with another, from runs that followed one another closely (pairs).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The ratio: geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// 95% interval of the ratio; `None` for fewer than two pairs.
    pub ci95: Option<[f64; 2]>,
    /// How many pairs.
    pub pairs: usize,
}

/// What a [`Ratio`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Ratio {
    /// From the natural logarithms of the pairs' ratios: the interval is Student's, on the log scale. Taking pairs
    /// removes what slowed both runs alike. `None` if there are no pairs or one isn't finite.
    pub fn of_logs(logs: &[f64]) -> Option<Ratio> {
        if logs.is_empty() || logs.iter().any(|l| !l.is_finite()) {
            return None;
        }
        let n = logs.len();
        let mean = logs.iter().sum::<f64>() / n as f64;
        let ci95 = (n > 1).then(|| {
            let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let half = student_975(n - 1) * (variance / n as f64).sqrt();
            [(mean - half).exp(), (mean + half).exp()]
        });
        Some(Ratio { ratio: mean.exp(), ci95, pairs: n })
    }

    /// What it says.
    pub fn verdict(&self) -> Verdict {
        match self.ci95 {
            Some([low, high]) if low >= 1.0 - TIE && high <= 1.0 + TIE => Verdict::Tie,
            Some([_, high]) if high < 1.0 => Verdict::Less,
            Some([low, _]) if low > 1.0 => Verdict::More,
            _ => Verdict::Undecided,
        }
    }
}

/// The 97.5% quantile of Student's t (tabulated to 30 degrees of freedom; beyond, the expansion of Fisher and Cornish,
/// right to three digits).
fn student_975(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    match freedom {
        0 => f64::INFINITY,
        1..=30 => TABLE[freedom - 1],
        _ => 1.959_964 + 2.372_3 / freedom as f64 + 2.822_5 / (freedom as f64).powi(2),
    }
}

/// Which values lie far from the others: modified z-score beyond 3.5 (Iglewicz and Hoaglin, 1993). None of fewer than
/// five values is called an outlier.
pub fn outliers(values: &[f64]) -> Vec<bool> {
    let none = vec![false; values.len()];
    let Some(middle) = median(values).filter(|_| values.len() >= 5) else { return none };
    let distances: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
    match median(&distances) {
        Some(mad) if mad > 0.0 => distances.iter().map(|d| 0.6745 * d / mad > 3.5).collect(),
        _ => none,
    }
}

/// The 95% percentile-bootstrap interval of the median (Efron & Tibshirani, 1993, chapter 13).
fn bootstrap_median(sorted: &[f64], seed: u64) -> [f64; 2] {
    let mut rng = Rng::new(seed, 0xb007);
    let mut sample = vec![0.0; sorted.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            sample.fill_with(|| sorted[rng.below(sorted.len())]);
            sample.sort_by(f64::total_cmp);
            quantile(&sample, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    [quantile(&medians, 0.025), quantile(&medians, 0.975)]
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
