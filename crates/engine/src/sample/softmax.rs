//! The two loops of a softmax, written so that the compiler vectorises them and so that they give the same bits on every
//! machine: a seeded request must not depend on a platform's maths library.

/// e^x for `x <= 0`, to about 1e-7 of its value; 0 below -87, where e^x leaves the normal range.
///
/// Cephes' `expf`: x = n ln 2 + r with a whole n, a polynomial for e^r, and 2^n by way of the exponent's bits.
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const P: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let p = ((((P[0] * r + P[1]) * r + P[2]) * r + P[3]) * r + P[4]) * r + P[5];
    let polynomial = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let value = polynomial * f32::from_bits(exponent << 23);
    if x > -87.0 { value } else { 0.0 }
}

/// The sum, in double precision and in eight lanes.
pub(super) fn sum(values: &[f32]) -> f64 {
    sum_of(values, |x| x)
}

/// The sum of `e^(x - max)`, where no value is above `max`.
pub(super) fn sum_exp(values: &[f32], max: f32) -> f64 {
    sum_of(values, |x| exp(x - max))
}

fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(term(x));
        }
    }
    let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(term(x))).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_bits() {
        assert_eq!(exp(0.0), 1.0);
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                i == 87_000 || (found / expected - 1.0).abs() < 3e-7,
                "e^{x}: {found} and not {expected}"
            );
        }
        assert_eq!([-87.0, -1e30, f32::NEG_INFINITY].map(exp), [0.0; 3]);
    }

    #[test]
    fn the_sum_includes_all_values() {
        for n in [0u16, 1, 7, 8, 9, 100] {
            let values: Vec<f32> = (1..=n).map(f32::from).collect();
            assert_eq!(sum(&values), f64::from(n) * (f64::from(n) + 1.0) / 2.0);
        }
    }
}
