//! Tests of the statistics: known values, properties, and simulations with a known truth.

use crate::analyse::stats::{geometric_mean, holm, outliers, quantile, unpaired_p};
use crate::analyse::student;
use crate::record::statistic::{Ratio, Stats, Verdict};
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
fn undefined_statistics_are_none() {
    assert_eq!(Stats::of(&[], 0), None);
    assert_eq!(Stats::of(&[1.0, f64::NAN], 0), None);
    assert_eq!(geometric_mean(&[1.0, 0.0]), None);
    let one = Stats::of(&[5.0], 0).unwrap();
    assert_eq!((one.stdev, one.ci95, one.spread_pct()), (None, None, None));
    assert_eq!(Stats::of(&[5.0, 6.0], 0).unwrap().ci95, None);
}

/// The interval covers the true median about as often as it claims (percentile intervals of small samples are known to
/// cover slightly less).
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

/// A normal deviate (Box and Muller).
fn normal(rng: &mut Rng) -> f64 {
    let mut uniform = || (rng.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let (u, v) = (1.0 - uniform(), uniform());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Verdicts on `runs` blocks of four scenarios: each run has 3% noise, each block a drift of 5% shared by both sides, and
/// the second side is `slower` times as slow.
fn verdicts(runs: usize, slower: f64, seed: u64) -> Vec<Verdict> {
    let mut rng = Rng::new(seed, 77);
    let experiment = |rng: &mut Rng| {
        let blocks: Vec<f64> = (0..runs)
            .map(|_| {
                let drift = 0.05 * normal(rng);
                let mut run = |speed: f64| speed.ln() + drift + 0.03 * normal(rng);
                (0..4).map(|_| run(100.0 / slower) - run(100.0)).sum::<f64>() / 4.0
            })
            .collect();
        Ratio::of_logs(&blocks).unwrap().verdict()
    };
    (0..1000).map(|_| experiment(&mut rng)).collect()
}

#[test]
fn equal_sides_are_rarely_called_different() {
    for runs in [2, 3, 5, 10, 40] {
        let verdicts = verdicts(runs, 1.0, runs as u64);
        let different = verdicts.iter().filter(|v| matches!(v, Verdict::Less | Verdict::More)).count();
        assert!(different <= 60, "{runs} runs: {different} of 1000 called different");
    }
}

#[test]
fn five_percent_at_three_percent_noise_is_found() {
    let found = verdicts(5, 1.05, 9).iter().filter(|v| **v == Verdict::Less).count();
    assert!(found >= 900, "{found} of 1000 found");
    let wrong = verdicts(5, 1.05, 10).iter().filter(|v| **v == Verdict::More).count();
    assert!(wrong <= 2, "{wrong} of 1000 in the wrong direction");
}

#[test]
fn many_runs_of_equal_sides_are_a_tie() {
    let ties = verdicts(40, 1.0, 3).iter().filter(|v| **v == Verdict::Tie).count();
    assert!(ties >= 950, "{ties} of 1000");
}

#[test]
fn known_ratios() {
    let r = Ratio::of_logs(&[2.0f64.ln(), 2.0f64.ln()]).unwrap();
    assert!((r.ratio - 2.0).abs() < 1e-12 && r.verdict() == Verdict::More, "{r:?}");
    let one = Ratio::of_logs(&[0.5f64.ln()]).unwrap();
    assert_eq!((one.ci95, one.verdict()), (None, Verdict::Undecided));
    assert_eq!(Ratio::of_logs(&[]), None);
    assert_eq!(Ratio::of_logs(&[f64::NEG_INFINITY]), None);
    // Mean 0.1, standard deviation 0.1, four values: half the interval is 3.18245 · 0.1 / 2.
    let r = Ratio::of_logs(&[0.0, 0.2, 0.1 - 0.07071068, 0.1 + 0.07071068]).unwrap();
    assert!((r.ci95.unwrap()[1].ln() - (0.1 + 3.182_446 * 0.05)).abs() < 1e-6, "{r:?}");
}

/// A case for Welch's test: 1.0 and 1.2 on the log scale, with deviation 0.1 over 4 values and 0.2 over 9.
#[test]
fn unpaired_ratios_by_hand() {
    let around = |mean: f64, sd: f64, n: usize| -> Vec<f64> {
        // Values at ± sd have the sample deviation sd · √(n/(n−1)) for even n.
        let sd = sd * ((n - 1) as f64 / n as f64).sqrt();
        (0..n).map(|i| (mean + if i % 2 == 0 { sd } else { -sd }).exp()).collect()
    };
    let (a, b) = (around(1.0, 0.1, 4), around(1.2, 0.2, 8));
    let r = Ratio::unpaired(&a, &b).unwrap();
    assert!((r.ratio.ln() - 0.2).abs() < 1e-12 && r.pairs == 0);
    let (ea, eb) = (0.01 / 4.0, 0.04 / 8.0);
    let freedom = (ea + eb) * (ea + eb) / (ea * ea / 3.0 + eb * eb / 7.0);
    let half = student::critical(0.05, freedom) * f64::sqrt(ea + eb);
    assert!((r.ci95.unwrap()[1].ln() - (0.2 + half)).abs() < 1e-9);
    // The interval ends at exactly 1 when p is 5%.
    let p = unpaired_p(&a, &b).unwrap();
    assert_eq!(p < 0.05, r.ci95.unwrap()[0] > 1.0);
    assert_eq!(unpaired_p(&a, &a), Some(1.0));
    assert_eq!((unpaired_p(&a, &[1.0]), Ratio::unpaired(&a, &[0.0])), (None, None));
    let alone = Ratio::unpaired(&[2.0], &[1.0]).unwrap();
    assert_eq!((alone.ratio, alone.ci95), (0.5, None));
}

#[test]
fn holm_by_hand() {
    assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005]), [true, false, false, true]);
    assert_eq!(holm(&[0.04]), [true]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn an_outlier_is_far_from_the_rest() {
    assert_eq!(outliers(&[10.0, 10.1, 9.9, 10.2, 5.0]), [false, false, false, false, true]);
    assert_eq!(outliers(&[10.0, 10.1, 5.0]), [false; 3]);
    assert_eq!(outliers(&[10.0; 6]), [false; 6]);
}
