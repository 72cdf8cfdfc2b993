//! Student's t distribution: the basis of intervals and tests of means on the log scale.

/// The two-sided probability of a |t| at least this large, with `freedom` degrees of freedom (which need not be whole).
pub fn two_sided(t: f64, freedom: f64) -> f64 {
    if t.is_nan() || freedom.is_nan() || freedom <= 0.0 {
        return f64::NAN;
    }
    // P(|T| > t) = I_x(ν/2, 1/2), x = ν/(ν + t²)   (Abramowitz and Stegun, 26.7.1 and 26.5.27)
    incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)
}

/// The critical value of |t| for the two-sided probability `alpha`: 0.05 for 95% intervals.
pub fn critical(alpha: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while two_sided(high, freedom) > alpha {
        high *= 2.0;
        if high > 1e9 {
            return f64::INFINITY;
        }
    }
    // 60 halvings of at most 1e9 leave less than 1e-9.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if two_sided(middle, freedom) > alpha { low = middle } else { high = middle }
    }
    high
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Abramowitz and Stegun, 26.5.8).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast below the distribution's mean; above it the symmetric one does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    front * fraction(x, a, b)
}

/// 1/(1 + d₁/(1 + d₂/(1 + …))), evaluated from the front (Lentz's method).
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let (mut value, mut c, mut d) = (1.0, 1.0, 0.0);
    for i in 0..500 {
        let m = f64::from(i / 2);
        let term = match i {
            0 => 1.0,
            i if i % 2 == 0 => m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            _ => -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        };
        d = 1.0 / away_from_zero(1.0 + term * d);
        c = away_from_zero(1.0 + term / c);
        let step = c * d;
        value *= step;
        if i > 0 && (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value - 1.0
}

/// ln Γ(x) for x > 0: Stirling's series, after shifting small x upwards (Abramowitz and Stegun, 6.1.41).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5))
        - 1.0 / (1680.0 * x.powi(7));
    shift + (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_gammas() {
        assert!((ln_gamma(0.5) - 0.5 * std::f64::consts::PI.ln()).abs() < 1e-12);
        assert!((ln_gamma(5.0) - 24f64.ln()).abs() < 1e-12 && ln_gamma(1.0).abs() < 1e-12);
    }

    /// One degree of freedom is Cauchy's distribution, two have a closed form, many are normal; the others are from
    /// published tables.
    #[test]
    fn known_values() {
        for t in [0.1f64, 0.5, 1.0, 3.0, 12.706] {
            let cauchy = 1.0 - 2.0 / std::f64::consts::PI * t.atan();
            assert!((two_sided(t, 1.0) - cauchy).abs() < 1e-12, "{t}");
            assert!((two_sided(t, 2.0) - (1.0 - t / (2.0 + t * t).sqrt())).abs() < 1e-12, "{t}");
        }
        for (freedom, expected) in
            [(1.0, 12.7062), (4.0, 2.7764), (9.0, 2.2622), (18.0, 2.1009), (30.0, 2.0423), (1e7, 1.959_964)]
        {
            assert!(
                (critical(0.05, freedom) - expected).abs() < 1e-4,
                "{freedom}: {}",
                critical(0.05, freedom)
            );
        }
        assert!((critical(0.01, 10.0) - 3.1693).abs() < 1e-4);
        assert_eq!((two_sided(0.0, 5.0), two_sided(f64::INFINITY, 5.0)), (1.0, 0.0));
        assert!(two_sided(1.0, 0.0).is_nan());
    }
}
