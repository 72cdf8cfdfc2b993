//! Statistics of repeated measurements: median, spread, bootstrap confidence interval.

use crate::analyse::student;
use crate::record::statistic::{Ratio, Stats, TIE, Verdict};
use crate::rng::Rng;

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 2000;
/// Minimum number of values for an interval: with two, resampling only returns the two values.
const FEWEST_FOR_INTERVAL: usize = 3;

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

/// The `q`-quantile of sorted values, linear between ranks (Hyndman & Fan's type 7, the default in NumPy and R).
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

impl Ratio {
    /// From the natural logarithms of the pairs' ratios, with Student's interval on the log scale. Pairing removes effects
    /// that slowed both runs alike. `None` if there are no pairs or one isn't finite.
    pub fn of_logs(logs: &[f64]) -> Option<Ratio> {
        if logs.is_empty() || logs.iter().any(|l| !l.is_finite()) {
            return None;
        }
        let n = logs.len();
        let mean = logs.iter().sum::<f64>() / n as f64;
        let ci95 = (n > 1).then(|| {
            let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            interval(mean, (variance / n as f64).sqrt(), (n - 1) as f64)
        });
        Some(Ratio { ratio: mean.exp(), ci95, pairs: n })
    }

    /// From independent runs: how `b` compares with `a`, both positive, by the means of their logarithms. The interval is
    /// Welch's (1947): the sides may have different variances. `None` if a side has no values or one that isn't positive.
    /// `pairs` is 0.
    pub fn unpaired(a: &[f64], b: &[f64]) -> Option<Ratio> {
        let (a, b) = (Logs::of(a)?, Logs::of(b)?);
        let difference = b.mean - a.mean;
        let ci95 = a
            .error2
            .zip(b.error2)
            .map(|(ea, eb)| interval(difference, (ea + eb).sqrt(), welch_freedom(ea, a.n, eb, b.n)));
        Some(Ratio { ratio: difference.exp(), ci95, pairs: 0 })
    }

    /// The verdict on B.
    pub fn verdict(&self) -> Verdict {
        match self.ci95 {
            Some([low, high]) if low >= 1.0 - TIE && high <= 1.0 + TIE => Verdict::Tie,
            Some([_, high]) if high < 1.0 => Verdict::Less,
            Some([low, _]) if low > 1.0 => Verdict::More,
            _ => Verdict::Undecided,
        }
    }
}

/// Half the interval's width: Student's t times the standard error.
fn interval(mean: f64, error: f64, freedom: f64) -> [f64; 2] {
    let half = if error > 0.0 { student::critical(0.05, freedom) * error } else { 0.0 };
    [(mean - half).exp(), (mean + half).exp()]
}

/// Mean and variance of the logarithms of measurements.
struct Logs {
    n: usize,
    mean: f64,
    /// Squared standard error of the mean; `None` for one value.
    error2: Option<f64>,
}

impl Logs {
    fn of(values: &[f64]) -> Option<Logs> {
        if values.is_empty() || values.iter().any(|v| !v.is_finite() || *v <= 0.0) {
            return None;
        }
        let n = values.len();
        let mean = values.iter().map(|v| v.ln()).sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v.ln() - mean).powi(2)).sum();
        Some(Logs { n, mean, error2: (n > 1).then(|| squares / (n - 1) as f64 / n as f64) })
    }
}

/// Degrees of freedom of two means with these squared errors (Satterthwaite, 1946).
fn welch_freedom(a: f64, n: usize, b: f64, m: usize) -> f64 {
    (a + b).powi(2) / (a * a / (n - 1) as f64 + b * b / (m - 1) as f64)
}

/// The probability of a difference at least this large if both sides were equal (Welch's test on the log scale); `None` if a
/// side has fewer than two values.
pub fn unpaired_p(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (Logs::of(a)?, Logs::of(b)?);
    let (ea, eb) = a.error2.zip(b.error2)?;
    p_of(b.mean - a.mean, (ea + eb).sqrt(), welch_freedom(ea, a.n, eb, b.n))
}

/// Likewise for pairs, from the logarithms of their ratios; `None` for fewer than two.
pub fn paired_p(logs: &[f64]) -> Option<f64> {
    let n = logs.len();
    let mean = logs.iter().sum::<f64>() / n as f64;
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n.checked_sub(1)? as f64;
    (n > 1).then(|| p_of(mean, (variance / n as f64).sqrt(), (n - 1) as f64)).flatten()
}

fn p_of(difference: f64, error: f64, freedom: f64) -> Option<f64> {
    match error > 0.0 {
        true => Some(student::two_sided(difference / error, freedom)).filter(|p| p.is_finite()),
        // All values are equal.
        false => Some(if difference == 0.0 { 1.0 } else { 0.0 }),
    }
}

/// Which of several tests are significant at 5% for all of them together (Holm, 1979). Without this correction, one in
/// twenty comparisons of equal sides would be called different.
pub fn holm(p: &[f64]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut holds = vec![false; p.len()];
    for (rank, &i) in order.iter().enumerate() {
        if p[i] > 0.05 / (p.len() - rank) as f64 {
            break;
        }
        holds[i] = true;
    }
    holds
}

/// Which values are far from the others: modified z-score beyond 3.5 (Iglewicz and Hoaglin, 1993). With fewer than five
/// values there are no outliers.
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
mod tests;
