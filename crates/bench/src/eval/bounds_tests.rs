//! The power of the equivalence gate with its number of positions: the figures in `docs/methodology.md`, found by simulation.

use crate::eval::bounds::{FEWEST, FEWEST_DECIDED, POSITIONS, bound, broken, positions};
use crate::eval::comparison::{LogitsComparison, Position};
use crate::record::LARGE;
use crate::record::comparison::LogitsSummary;
use crate::rng::Rng;

/// Simulated comparisons for one figure.
const TIMES: usize = 4000;

/// A random number from 0 to 1.
fn uniform(rng: &mut Rng) -> f64 {
    rng.bits() as f64 / u64::MAX as f64
}

/// A decided position that, with some probability, differs only in the best token.
fn position(wrong: bool) -> Position {
    Position {
        same_best: !wrong,
        lead: 1.0,
        other_lead: 1.0,
        kl: 0.0,
        max_abs_diff: 0.0,
        variance: 0.0,
        signal: 1.0,
    }
}

/// How often, in percent, a backend with another best token at this share of the decided positions passes the bound for
/// quantised weights.
fn kept(wrong: f64, decided: usize) -> f64 {
    let bound = bound("q4_0", None, "f16");
    let mut rng = Rng::new(decided as u64, (1e6 * wrong) as u64);
    let once = |_: &usize| {
        let positions: Vec<_> = (0..decided).map(|_| position(uniform(&mut rng) < wrong)).collect();
        broken(&LogitsSummary::of(&positions).unwrap(), &bound).is_empty()
    };
    100.0 * (0..TIMES).filter(once).count() as f64 / TIMES as f64
}

#[test]
fn a_broken_backend_is_found_even_with_few_positions() {
    let table = [
        (0.005, [99.9, 98.8, 97.6, 95.7]),
        (0.01, [95.2, 89.9, 87.4, 85.9]),
        (0.05, [0.3, 2.2, 5.1, 15.2]),
        (0.10, [0.0, 0.0, 0.0, 0.8]),
    ];
    for (wrong, row) in table {
        for (decided, expected) in [327, 176, 123, 66].into_iter().zip(row) {
            let found = kept(wrong, decided);
            // At most four standard errors with 4,000 comparisons.
            assert!((found - expected).abs() < 2.5, "{wrong} of {decided}: {found}, expected {expected}");
        }
    }
}

/// The relative scatter of the total error for positions whose mean squared differences are exponentially distributed.
fn scatter(positions: usize) -> f64 {
    let mut rng = Rng::new(positions as u64, 0xe);
    let errors: Vec<f64> = (0..TIMES / 4)
        .map(|_| {
            let all = (0..positions)
                .map(|_| Position { variance: -1e-3 * (1.0 - uniform(&mut rng)).ln(), ..position(false) });
            LogitsSummary::of(&all.collect::<Vec<_>>()).unwrap().error
        })
        .collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let squares = errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>();
    (squares / errors.len() as f64).sqrt() / mean
}

#[test]
fn the_error_is_accurate_even_with_few_positions() {
    // Half the variation of the squares divided by the root of their number: 3.6% and 2.2%.
    let (few, many) = (scatter(192), scatter(512));
    assert!((0.032..0.040).contains(&few) && (0.019..0.025).contains(&many), "{few} {many}");
}

/// With random weights the logits are nearly uniform: every backend's divergence is small, but the differences of a wrong one
/// are not.
#[test]
fn a_wrong_backend_is_found_with_nearly_uniform_logits() {
    let mut rng = Rng::new(5, 5);
    let mut row = |scale: f32| -> Vec<f32> {
        (0..500).map(|_| scale * (rng.bits() as f32 / u64::MAX as f32 - 0.5)).collect()
    };
    let (mut right, mut wrong) = (LogitsComparison::default(), LogitsComparison::default());
    for _ in 0..100 {
        let reference = row(0.2);
        let close: Vec<f32> = reference.iter().zip(row(0.002)).map(|(a, b)| a + b).collect();
        right.add(&reference, &close).unwrap();
        wrong.add(&reference, &row(0.2)).unwrap();
    }
    let (right, wrong) = (right.summary().unwrap(), wrong.summary().unwrap());
    let bounds = bound("q4_0", None, "f16");
    assert!(wrong.kl_mean < bounds.kl_mean && wrong.decided < FEWEST_DECIDED, "{wrong:?}");
    assert_eq!(broken(&right, &bounds), Vec::<String>::new());
    let broken = broken(&wrong, &bounds);
    assert!(broken.len() == 1 && broken[0].contains("differences of logits are 1.4"), "{broken:?}");
}

#[test]
fn large_models_are_compared_on_fewer_tokens() {
    assert_eq!([0, 1 << 20, LARGE].map(positions), [POSITIONS; 3]);
    assert_eq!([2 * LARGE, 4 * LARGE, 100 * LARGE].map(positions), [256, FEWEST, FEWEST]);
}

#[test]
fn bounds_widen_with_rounding() {
    let kl = |held, quantize, kv| bound(held, quantize, kv).kl_mean;
    assert!(kl("f32", None, "f16") < kl("bf16", None, "f16"));
    assert!(kl("bf16", None, "f16") < kl("q4_k+q6_k", None, "f16"));
    assert!(kl("q4_k+q6_k", None, "f16") < kl("q8_0", Some("q8_0"), "f16"));
    assert!(kl("q8_0", Some("q8_0"), "f16") < kl("q8_0", Some("q8_0"), "q4_0"));
    assert!(kl("q8_0", Some("q8_0"), "q4_0") < kl("q4_0", Some("q4_k_m"), "f16"));
}
