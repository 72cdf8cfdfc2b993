//! Four bits per value: sixteen levels, spaced for a normal distribution, times a scale per block.
//!
//! Lloyd's algorithm gives these levels for normal values in blocks of 32, whose largest magnitude becomes the end with the
//! smaller error. Sixteen equal steps would have a quarter more error. Heads are nearly normal after [`super::Hadamard`] has
//! mixed them.

use super::layout::BLOCK;
use crate::simd::{LANES, Simd};
use half::f16;

/// The levels of the codes.
pub(super) const TABLE: [i8; LANES] =
    [-126, -104, -83, -65, -50, -36, -22, -10, 2, 14, 26, 38, 51, 66, 84, 110];

/// Encodes up to 32 values; returns their scale, NaN if one of them isn't finite. Every set gives the same result.
#[inline(always)]
pub(super) fn encode<S: Simd>(s: S, block: &[f32], codes: &mut [u8; BLOCK]) -> f16 {
    let mut padded = [0.0; BLOCK];
    padded[..block.len()].copy_from_slice(block);
    // SAFETY: the array is 2 · LANES long.
    let (a, b) = unsafe { (s.load(padded.as_ptr()), s.load(padded.as_ptr().add(LANES))) };
    let amax = s.max_lane(s.max(s.abs(a), s.abs(b)));
    // `max` may drop a NaN; a sum can't.
    if !s.sum(s.add(s.abs(a), s.abs(b))).is_finite() {
        return f16::NAN;
    }
    let largest = if s.max_lane(s.max(a, b)) == amax { amax } else { -amax };
    let [low, high] = [TABLE[0], TABLE[LANES - 1]].map(|end| f16::from_f32(largest / f32::from(end)));
    let (mut of_low, mut of_high) = ([0; BLOCK], [0; BLOCK]);
    let low_error = nearest(s, &padded, low.to_f32(), &mut of_low);
    let high_error = nearest(s, &padded, high.to_f32(), &mut of_high);
    let (scale, best) = if low_error <= high_error { (low, of_low) } else { (high, of_high) };
    for (code, best) in codes.iter_mut().zip(best) {
        *code = best as u8;
    }
    scale
}

/// The code of the nearest level for each value, and the sum of the squared errors.
#[inline(always)]
fn nearest<S: Simd>(s: S, values: &[f32; BLOCK], scale: f32, codes: &mut [i32; BLOCK]) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let (mut scaled, mut levels) = ([0.0; BLOCK], [f32::from(TABLE[0]); BLOCK]);
    for (x, v) in scaled.iter_mut().zip(values) {
        *x = v * inverse;
    }
    for pair in TABLE.windows(2) {
        let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
        for ((code, level), &x) in codes.iter_mut().zip(&mut levels).zip(&scaled) {
            let over = x > 0.5 * (below + above);
            *code += i32::from(over);
            *level = if over { above } else { *level };
        }
    }
    let mut squares = [0.0; LANES];
    // SAFETY: the arrays are 2 · LANES and LANES long.
    unsafe {
        let mut of = [s.splat(0.0); 2];
        for (of, at) in of.iter_mut().zip([0, LANES]) {
            let error = s.sub(s.load(scaled.as_ptr().add(at)), s.load(levels.as_ptr().add(at)));
            *of = s.mul(error, error);
        }
        s.store(squares.as_mut_ptr(), s.add(of[0], of[1]));
    }
    // Not `sum`, since its order depends on the set.
    scale * scale * squares.iter().sum::<f32>()
}
