//! Tiles of float weights: `f32`, `f16` and `bf16`, with `f32` activations or `bf16` pairs.

use super::{AHEAD, Panels, Tile};
use crate::activations::Activations;
use crate::pack::GROUP;
use crate::simd::Simd;
use half::f16;

/// `f32` weights and activations.
pub(crate) struct F32;
/// `f16` weights, `f32` activations.
pub(crate) struct F16;
/// `bf16` weights, `f32` activations, on sets without a `bf16` dot product.
pub(crate) struct Bf16;
/// `bf16` weights and activations.
pub(crate) struct Bf16Dot;

/// A weight type whose lines of 16 values become `f32` vectors.
trait Line {
    /// Columns that share a line.
    const COLUMNS: usize;
    /// Bytes of a line.
    const BYTES: usize;
    /// Column `K` of a line, of 16 rows.
    ///
    /// # Safety
    /// `line` is readable for a line's bytes.
    unsafe fn column<S: Simd, const K: usize>(s: S, line: *const u8) -> S::F;
}

impl Line for F32 {
    const COLUMNS: usize = 1;
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn column<S: Simd, const K: usize>(s: S, line: *const u8) -> S::F {
        // SAFETY: a line is 16 values.
        unsafe { s.load(line.cast()) }
    }
}

impl Line for F16 {
    const COLUMNS: usize = 1;
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn column<S: Simd, const K: usize>(s: S, line: *const u8) -> S::F {
        // SAFETY: a line is 16 values.
        unsafe { s.load_f16(line.cast::<f16>()) }
    }
}

impl Line for Bf16 {
    const COLUMNS: usize = 2;
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn column<S: Simd, const K: usize>(s: S, line: *const u8) -> S::F {
        // SAFETY: a line is 16 pairs.
        let pair = unsafe { s.load_bytes(line) };
        if K == 0 { s.bf16_low(pair) } else { s.bf16_high(pair) }
    }
}

impl<L: Line> Tile for L {
    #[inline(always)]
    fn most_tokens<S: Simd>() -> usize {
        S::FLOAT_TILE
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: Panels<P>,
        activations: &Activations,
        t: usize,
    ) -> [[S::F; P]; T] {
        let cols = activations.cols();
        let mut sums = [[s.splat(0.0); P]; T];
        // SAFETY: the caller guarantees panels and tokens; `k` stays below `cols`.
        unsafe {
            let rows: [*const f32; T] = std::array::from_fn(|i| activations.f32.as_ptr().add((t + i) * cols));
            let first = panels.group.add(panels.first * L::BYTES);
            let mut k = 0;
            while k < cols {
                let lines = first.add(k / L::COLUMNS * GROUP * L::BYTES);
                if panels.cold {
                    ask_ahead::<S>(s, lines, P * L::BYTES);
                }
                add_column::<S, L, T, P, 0>(s, lines, rows, k, &mut sums);
                if L::COLUMNS == 2 && k + 1 < cols {
                    add_column::<S, L, T, P, 1>(s, lines, rows, k + 1, &mut sums);
                }
                k += L::COLUMNS;
            }
        }
        sums
    }
}

/// Adds column `K` of the panels' lines times column `k` of the tokens.
///
/// # Safety
/// `P` lines and `T` rows of more than `k` values are readable.
#[inline(always)]
unsafe fn add_column<S: Simd, L: Line, const T: usize, const P: usize, const K: usize>(
    s: S,
    lines: *const u8,
    rows: [*const f32; T],
    k: usize,
    sums: &mut [[S::F; P]; T],
) {
    // SAFETY: the caller guarantees readable lines and rows.
    unsafe {
        let mut w = [s.splat(0.0); P];
        for p in 0..P {
            w[p] = L::column::<S, K>(s, lines.add(p * L::BYTES));
        }
        for i in 0..T {
            let x = s.splat(*rows[i].add(k));
            for p in 0..P {
                sums[i][p] = s.fma(w[p], x, sums[i][p]);
            }
        }
    }
}

impl Tile for Bf16Dot {
    const BF16_DOT: bool = true;

    #[inline(always)]
    fn most_tokens<S: Simd>() -> usize {
        S::FLOAT_TILE
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: Panels<P>,
        activations: &Activations,
        t: usize,
    ) -> [[S::F; P]; T] {
        let pairs = activations.cols().div_ceil(2);
        let mut sums = [[s.splat(0.0); P]; T];
        // SAFETY: the caller guarantees panels and tokens; both have `pairs` pairs.
        unsafe {
            let rows: [*const u32; T] =
                std::array::from_fn(|i| activations.bf16.as_ptr().add((t + i) * pairs));
            let first = panels.group.add(panels.first * 64);
            for k in 0..pairs {
                let lines = first.add(k * GROUP * 64);
                if panels.cold {
                    ask_ahead::<S>(s, lines, P * 64);
                }
                let mut w = [s.isplat(0); P];
                for p in 0..P {
                    w[p] = s.load_bytes(lines.add(p * 64));
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

/// Prefetches the lines that are [`AHEAD`] bytes ahead of these.
#[inline(always)]
fn ask_ahead<S: Simd>(s: S, lines: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        s.prefetch(lines.wrapping_add(AHEAD + at));
    }
}
