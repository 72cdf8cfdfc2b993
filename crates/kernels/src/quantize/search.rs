//! The searches behind the K types: scale (and minimum) of one sub-block by weighted least squares.
//!
//! The error as a function of the scale has many local minima, one for each assignment of codes. So a few starting scales
//! around the one that just covers the range are tried: each gives codes, the codes give the best scale in closed form, and
//! the candidate with the smallest weighted squared error wins. ggml's quantisers use the same idea.
//!
//! Sums run in [`LANES`] partial sums, which the compiler turns into vector instructions.

const LANES: usize = 8;
/// Ranges below this count as zero: an `f16` scale could not represent them.
const TINY: f32 = 1e-15;

type Sums = [f32; LANES];

/// Nearest integer to `v`, as a float; ties to even. For `|v| < 2^22`; the caller clamps larger values.
///
/// Adding 1.5·2²³ leaves no bits for a fraction, and unlike `f32::round` it needs no instruction beyond SSE2.
#[inline(always)]
pub(super) fn nearest(v: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT) - SHIFT
}

/// The scale `d` for `x ≈ d·q` with `q` in `−half..half`, minimising `Σ w (x − d·q)²` over the candidates.
/// Zero for a sub-block of (nearly) zeros.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], half: f32) -> f32 {
    const { assert!(N.is_multiple_of(LANES)) };
    let extreme = x.iter().fold(0.0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
    if extreme.abs() < TINY {
        return 0.0;
    }
    let (mut best_gain, mut best) = (0.0, 0.0);
    for step in -9..=9 {
        let inverse = -(half + 0.1 * step as f32) / extreme;
        let (mut xq, mut qq) = (Sums::default(), Sums::default());
        for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let q = nearest(inverse * x[i]).clamp(-half, half - 1.0);
                xq[i] += w[i] * x[i] * q;
                qq[i] += w[i] * q * q;
            }
        }
        let (xq, qq) = (total(xq), total(qq));
        // With d = xq / qq the error is Σ w x² − xq² / qq.
        if qq > 0.0 && xq * xq > best_gain * qq {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    best
}

/// `(d, m)` for `x ≈ d·q − m` with `q` in `0..=max`, minimising `Σ w (x − d·q + m)²` over the candidates; `m ≥ 0` unless
/// `SIGN` allows any sign.
pub(super) fn affine<const N: usize, const SIGN: bool>(x: &[f32; N], w: &[f32; N], max: f32) -> (f32, f32) {
    const { assert!(N.is_multiple_of(LANES)) };
    let start = if SIGN { x[0] } else { 0.0 };
    let lo = x.iter().fold(start, |a, &v| a.min(v));
    let hi = x.iter().fold(lo, |a, &v| a.max(v));
    if hi - lo < TINY {
        return (0.0, -lo);
    }
    let xs = x.as_chunks::<LANES>().0;
    let ws = w.as_chunks::<LANES>().0;
    let (sum_w, sum_x) = x.iter().zip(w).fold((0.0, 0.0), |(sw, sx), (&x, &w)| (sw + w, sx + w * x));
    let (mut best_error, mut best) = (f32::INFINITY, ((hi - lo) / max, -lo));
    for step in -10..=10 {
        let inverse = (max + 0.1 * step as f32) / (hi - lo);
        let code = |x: f32| nearest(inverse * (x - lo)).clamp(0.0, max);
        let (mut q, mut xq, mut qq) = (Sums::default(), Sums::default(), Sums::default());
        for (x, w) in xs.iter().zip(ws) {
            for i in 0..LANES {
                let c = code(x[i]);
                q[i] += w[i] * c;
                xq[i] += w[i] * x[i] * c;
                qq[i] += w[i] * c * c;
            }
        }
        let (q, xq, qq) = (total(q), total(xq), total(qq));
        // The normal equations of d and −m.
        let determinant = sum_w * qq - q * q;
        if determinant <= 0.0 {
            continue;
        }
        let mut d = (sum_w * xq - sum_x * q) / determinant;
        let mut m = (q * xq - qq * sum_x) / determinant;
        if m < 0.0 && !SIGN {
            (d, m) = (xq / qq, 0.0);
        }
        let mut error = Sums::default();
        for (x, w) in xs.iter().zip(ws) {
            for i in 0..LANES {
                let off = x[i] - d * code(x[i]) + m;
                error[i] += w[i] * off * off;
            }
        }
        let error = total(error);
        if error < best_error {
            best_error = error;
            best = (d, m);
        }
    }
    best
}

fn total(sums: Sums) -> f32 {
    sums.iter().sum()
}
