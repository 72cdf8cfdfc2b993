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

    /// Half the range as a share of the median, in percent: the spread shown beside a median.
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
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let s = Stats::of(&[4.0, 1.0, 3.0, 2.0], 0).unwrap();
        assert_eq!((s.n, s.median, s.mean, s.min, s.max), (4, 2.5, 2.5, 1.0, 4.0));
        assert!((s.stdev.unwrap() - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.spread_pct().unwrap() - 60.0).abs() < 1e-12);
        assert_eq!(quantile(&[10.0, 20.0, 30.0, 40.0, 50.0], 0.9), 46.0);
        assert_eq!(geometric_mean(&[2.0, 8.0]), Some(4.0));
    }

    #[test]
    fn what_can_not_be_said_is_none() {
        assert_eq!(Stats::of(&[], 0), None);
        assert_eq!(Stats::of(&[1.0, f64::NAN], 0), None);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
        let one = Stats::of(&[5.0], 0).unwrap();
        assert_eq!((one.stdev, one.ci95, one.spread_pct()), (None, None, None));
        assert_eq!(Stats::of(&[5.0, 6.0], 0).unwrap().ci95, None);
    }

    /// The interval covers the true median about as often as it claims (percentile intervals of small samples are
    /// known to fall a little short).
    #[test]
    fn the_interval_covers_the_median() {
        let mut rng = Rng::new(11, 5);
        let mut covered = 0;
        for trial in 0..400 {
            // A sum of uniforms: symmetric, close to normal, median 6.
            let values: Vec<f64> =
                (0..15).map(|_| (0..12).map(|_| rng.bits() as f64 / u64::MAX as f64).sum()).collect();
            let [low, high] = Stats::of(&values, trial).unwrap().ci95.unwrap();
            covered += usize::from(low <= 6.0 && 6.0 <= high);
        }
        assert!((364..=396).contains(&covered), "{covered} of 400");
    }

    proptest! {
        #[test]
        fn the_parts_are_in_order(values in prop::collection::vec(-1e9f64..1e9, 1..60), seed: u64) {
            let s = Stats::of(&values, seed).unwrap();
            prop_assert!(s.min <= s.median && s.median <= s.max);
            prop_assert!(s.min <= s.mean + 1e-3 && s.mean <= s.max + 1e-3);
            if let Some([low, high]) = s.ci95 {
                prop_assert!(s.min <= low && low <= high && high <= s.max);
            }
            prop_assert_eq!(Stats::of(&values, seed), Some(s));
        }
    }
}
