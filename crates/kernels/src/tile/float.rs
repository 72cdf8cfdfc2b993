//! Tiles of float weights: `f32`, `f16` and `bf16`, with `f32` activations or `bf16` pairs.

use super::{AHEAD, Tile};
use crate::acts::Acts;
use crate::simd::{LANES, Simd};
use half::f16;

/// `f32` weights and activations.
pub(crate) struct F32;
/// `f16` weights, `f32` activations.
pub(crate) struct F16;
/// `bf16` weights, `f32` activations, where there is no `bf16` dot product.
pub(crate) struct Bf16;
/// `bf16` weights and activations.
pub(crate) struct Bf16Dot;

/// A weight type whose lines of 16 values become `f32` vectors.
trait Line {
    /// Bytes of a panel per column.
    const BYTES: usize;
    /// Column `k` of 16 rows.
    ///
    /// # Safety
    /// The panel has that column.
    unsafe fn line<S: Simd>(s: S, panel: *const u8, k: usize) -> S::F;
}

impl Line for F32 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn line<S: Simd>(s: S, panel: *const u8, k: usize) -> S::F {
        // SAFETY: line k of the panel is 16 values.
        unsafe { s.load(panel.cast::<f32>().add(k * LANES)) }
    }
}

impl Line for F16 {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn line<S: Simd>(s: S, panel: *const u8, k: usize) -> S::F {
        // SAFETY: line k of the panel is 16 values.
        unsafe { s.load_f16(panel.cast::<f16>().add(k * LANES)) }
    }
}

impl Line for Bf16 {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn line<S: Simd>(s: S, panel: *const u8, k: usize) -> S::F {
        // SAFETY: line k/2 of the panel holds values k and k + 1 of 16 rows.
        let pair = unsafe { s.load_bytes(panel.add(k / 2 * 64)) };
        if k.is_multiple_of(2) { s.bf16_low(pair) } else { s.bf16_high(pair) }
    }
}

impl<L: Line> Tile for L {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: [*const u8; P],
        acts: &Acts,
        t: usize,
        first: bool,
    ) -> [[S::F; P]; T] {
        let cols = acts.cols();
        let mut sums = [[s.splat(0.0); P]; T];
        // SAFETY: the caller vouches for panels and tokens; `k` stays below `cols`.
        unsafe {
            let rows: [*const f32; T] = std::array::from_fn(|i| acts.f32.as_ptr().add((t + i) * cols));
            // two columns a turn: a pair of `bf16` is loaded once
            let mut k = 0;
            while k < cols {
                for k in k..(k + 2).min(cols) {
                    let mut w = [s.splat(0.0); P];
                    for p in 0..P {
                        if first {
                            s.prefetch(panels[p].wrapping_add(k * L::BYTES + AHEAD));
                        }
                        w[p] = L::line(s, panels[p], k);
                    }
                    for i in 0..T {
                        let x = s.splat(*rows[i].add(k));
                        for p in 0..P {
                            sums[i][p] = s.fma(w[p], x, sums[i][p]);
                        }
                    }
                }
                k += 2;
            }
        }
        sums
    }
}

impl Tile for Bf16Dot {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: [*const u8; P],
        acts: &Acts,
        t: usize,
        first: bool,
    ) -> [[S::F; P]; T] {
        let pairs = acts.cols().div_ceil(2);
        let mut sums = [[s.splat(0.0); P]; T];
        // SAFETY: the caller vouches for panels and tokens; both hold `pairs` pairs.
        unsafe {
            let rows: [*const u32; T] = std::array::from_fn(|i| acts.bf16.as_ptr().add((t + i) * pairs));
            for k in 0..pairs {
                let mut w = [s.isplat(0); P];
                for p in 0..P {
                    if first {
                        s.prefetch(panels[p].wrapping_add(k * 64 + AHEAD));
                    }
                    w[p] = s.load_bytes(panels[p].add(k * 64));
                }
                for i in 0..T {
                    let x = s.isplat(*rows[i].add(k) as i32);
                    for p in 0..P {
                        sums[i][p] = s.dot_bf16(sums[i][p], w[p], x);
                    }
                }
            }
        }
        sums
    }
}
