//! The blocks of 32 with one scale: ggml's reference formulas, or the best scale for weighted errors.
//!
//! (MXFP4's scale of a block that is not finite is 255, the only one that is NaN.)

use super::scale::{inverse, scale_or_nan, weights};
use super::search::{affine, nearest, symmetric};
use crate::blocks::*;

/// The value of largest magnitude, the first of equals.
fn extreme(x: &[f32; BLOCK]) -> f32 {
    x.iter().fold(x[0], |best, &v| if v.abs() > best.abs() { v } else { best })
}

/// Smallest and largest value; of zeros of both signs, the first.
fn range(x: &[f32; BLOCK]) -> (f32, f32) {
    x.iter().fold((x[0], x[0]), |(lo, hi), &v| (if v < lo { v } else { lo }, if v > hi { v } else { hi }))
}

/// Two codes per byte: `i` in the low nibble, `i + 16` in the high one.
fn nibbles(codes: &[u8; BLOCK]) -> [u8; 16] {
    std::array::from_fn(|i| (codes[i] & 15) | ((codes[i + 16] & 15) << 4))
}

/// The codes' fifth bits, bit `i` for value `i`.
fn fifth_bits(codes: &[u8; BLOCK]) -> [u8; 4] {
    codes.iter().enumerate().fold(0u32, |bits, (i, &c)| bits | u32::from(c >> 4) << i).to_le_bytes()
}

/// Codes around a zero point of half the range. The extreme value gets code 0, its mirror image is clipped to `2·zero − 1`.
/// With an importance of columns, the scale is the one with the least error.
fn signed_codes(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>, zero: u8) -> (Half, [u8; BLOCK]) {
    let half = f32::from(zero);
    if let Some(importance) = importance {
        let d = Half::from_f32(scale_or_nan(symmetric(x, &weights(x, importance), half), x));
        let id = inverse(d.to_f32());
        return (d, x.map(|v| (nearest(v * id).clamp(-half, half - 1.0) + half) as u8));
    }
    let d = extreme(x) / -half;
    let id = inverse(d);
    // A cast from float to integer truncates towards zero and saturates (NaN gives 0).
    let codes = x.map(|v| ((v * id + half + 0.5) as u8).min(2 * zero - 1));
    (Half::from_f32(scale_or_nan(d, x)), codes)
}

/// Codes `0..=max` from the smallest to the largest value, or with the least error: `(d, m, codes)`.
fn affine_codes(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>, max: u8) -> (Half, Half, [u8; BLOCK]) {
    if let Some(importance) = importance {
        let (d, minus_m) = affine::<BLOCK, true>(x, &weights(x, importance), f32::from(max));
        let (d, m) = (Half::from_f32(scale_or_nan(d, x)), Half::from_f32(-minus_m));
        let (id, lo) = (inverse(d.to_f32()), m.to_f32());
        return (d, m, x.map(|v| nearest((v - lo) * id).clamp(0.0, f32::from(max)) as u8));
    }
    let (lo, hi) = range(x);
    let d = (hi - lo) / f32::from(max);
    let id = inverse(d);
    let codes = x.map(|v| (((v - lo) * id + 0.5) as u8).min(max));
    (Half::from_f32(scale_or_nan(d, x)), Half::from_f32(lo), codes)
}

pub(super) fn q4_0(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>) -> BlockQ4_0 {
    let (d, codes) = signed_codes(x, importance, 8);
    BlockQ4_0 { d, qs: nibbles(&codes) }
}

pub(super) fn q4_1(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>) -> BlockQ4_1 {
    let (d, m, codes) = affine_codes(x, importance, 15);
    BlockQ4_1 { d, m, qs: nibbles(&codes) }
}

pub(super) fn q5_0(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>) -> BlockQ5_0 {
    let (d, codes) = signed_codes(x, importance, 16);
    BlockQ5_0 { d, qh: fifth_bits(&codes), qs: nibbles(&codes) }
}

pub(super) fn q5_1(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>) -> BlockQ5_1 {
    let (d, m, codes) = affine_codes(x, importance, 31);
    BlockQ5_1 { d, m, qh: fifth_bits(&codes), qs: nibbles(&codes) }
}

pub(super) fn q8_0(x: &[f32; BLOCK]) -> BlockQ8_0 {
    let d = extreme(x).abs() / 127.0;
    let id = inverse(d);
    let qs = x.map(|v| {
        // Rounds half away from zero. The fraction is exact: magnitudes stay under 128.
        let v = v * id;
        let whole = v as i8;
        let fraction = v - f32::from(whole);
        whole.saturating_add((fraction >= 0.5) as i8 - (fraction <= -0.5) as i8)
    });
    BlockQ8_0 { d: Half::from_f32(scale_or_nan(d, x)), qs }
}

/// The power of two under the largest magnitude, which becomes 4 to 7.99 and is limited to 6; with an importance of columns, that
/// or a neighbour, whichever has the least error.
pub(super) fn mxfp4(x: &[f32; BLOCK], importance: Option<&[f32; BLOCK]>) -> BlockMXFP4 {
    if x.iter().any(|v| !v.is_finite()) {
        return BlockMXFP4 { e: 255, qs: [0; 16] };
    }
    let largest = extreme(x).abs();
    // 0 for zeros, whose logarithm is −∞: a cast saturates
    let e = (largest.log2().floor() - 2.0 + 127.0) as u8;
    let Some(importance) = importance else { return in_e2m1(x, e).0 };
    let weights = weights(x, importance);
    let candidates = [e, e.saturating_sub(1), e.saturating_add(1).min(252)];
    let with = candidates.map(|e| {
        let (block, errors) = in_e2m1(x, e);
        (errors.iter().zip(&weights).map(|(e, w)| w * e * e).sum::<f32>(), block)
    });
    with.into_iter().reduce(|best, other| if other.0 < best.0 { other } else { best }).expect("three").1
}

/// A block with this scale, each code the nearest (the lowest of equals), and the errors.
fn in_e2m1(x: &[f32; BLOCK], e: u8) -> (BlockMXFP4, [f32; BLOCK]) {
    let scale = BlockMXFP4 { e, qs: [0; 16] }.scale();
    let mut errors = [f32::INFINITY; BLOCK];
    let mut codes = [0; BLOCK];
    for ((v, code), error) in x.iter().zip(&mut codes).zip(&mut errors) {
        for (q, &value) in E2M1.iter().enumerate() {
            let off = (scale * f32::from(value) - v).abs();
            if off < *error {
                (*code, *error) = (q as u8, off);
            }
        }
    }
    (BlockMXFP4 { e, qs: nibbles(&codes) }, errors)
}
