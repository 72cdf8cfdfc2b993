//! The tile of quantised weights × quantised activations.
//!
//! Per 32 values: codes are extracted from their planes and multiplied, four per lane, with each token's broadcast bytes into
//! exact `i32` sums, which start at −zero·Σa to remove the zero point. Each sum is converted once and multiplied by the scales
//! of row and token; a row's scale that more than 32 values share, once for all of them.

use super::{AHEAD, Panels, Tile};
use crate::activations::{ActivationBlock, Activations, TILE};
use crate::format::{Format, Scale};
use crate::pack::{self, chunk_bytes};
use crate::simd::{Simd, dots_between};
use half::f16;
use std::marker::PhantomData;

/// `$v` with each `i32` lane shifted left by the constant `$by`, or right if it is negative.
macro_rules! shifted {
    ($s:ident, $v:ident, $by:expr) => {
        match const { $by } {
            7 => $s.shl::<7>($v),
            6 => $s.shl::<6>($v),
            5 => $s.shl::<5>($v),
            4 => $s.shl::<4>($v),
            3 => $s.shl::<3>($v),
            2 => $s.shl::<2>($v),
            1 => $s.shl::<1>($v),
            0 => $v,
            -1 => $s.shr::<1>($v),
            -2 => $s.shr::<2>($v),
            -3 => $s.shr::<3>($v),
            -4 => $s.shr::<4>($v),
            -5 => $s.shr::<5>($v),
            -6 => $s.shr::<6>($v),
            _ => $s.shr::<7>($v),
        }
    };
}

/// Weights of format `F`.
pub(crate) struct Quant<F>(PhantomData<F>);

impl<F: Format> Tile for Quant<F> {
    #[inline(always)]
    fn most_tokens<S: Simd>() -> usize {
        S::TILE
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: Panels<P>,
        activations: &Activations,
        t: usize,
    ) -> [[S::F; P]; T] {
        let (chunks, lane) = (activations.cols() / F::BLOCK, t % TILE);
        let mut sums = [[s.splat(0.0); P]; T];
        // Of scales shared by more than 32 values: the sums since the last one, still to be multiplied by it.
        let mut unscaled = [[s.splat(0.0); P]; T];
        // SAFETY: the caller guarantees panels and tokens; offsets stay within a group's chunks ([`crate::pack`]) and
        // within one tile's blocks.
        unsafe {
            let tile = activations.tile(t);
            for b in 0..chunks * F::BLOCK / 32 {
                let (chunk, b_in) = (b / (F::BLOCK / 32), b % (F::BLOCK / 32));
                let chunk = panels.group.add(chunk * chunk_bytes::<F>());
                let headers = chunk.add(panels.first * F::HEADER_BYTES);
                let codes = chunk.add(pack::GROUP * F::HEADER_BYTES);
                let codes = codes.add((b_in * pack::GROUP + panels.first) * F::CODE_BYTES);
                if panels.cold {
                    ask_ahead::<S, F, P>(s, chunk, panels.first, b_in);
                }
                let block = Block::<F, T, P> { codes, activations: &*tile.add(b), lane, format: PhantomData };
                let header = |p: usize| headers.add(p * F::HEADER_BYTES);
                if F::SUB >= 32 {
                    // Both values of a nibble pair, one after the other.
                    let mut open = block.open(s, &block.activations.neg32);
                    block.dot::<S, 0>(s, &mut open);
                    block.dot::<S, 4>(s, &mut open);
                    block.fold::<S, 2>(s, &mut open);
                    block.dot::<S, 1>(s, &mut open);
                    block.dot::<S, 5>(s, &mut open);
                    block.fold::<S, 4>(s, &mut open);
                    block.dot::<S, 2>(s, &mut open);
                    block.dot::<S, 6>(s, &mut open);
                    block.fold::<S, 2>(s, &mut open);
                    block.dot::<S, 3>(s, &mut open);
                    block.dot::<S, 7>(s, &mut open);
                    let dots = block.close(s, open);
                    if F::SUB > 32 {
                        block.add_unscaled(s, &dots, &mut unscaled);
                        if (32 * (b_in + 1)).is_multiple_of(F::SUB) {
                            for p in 0..P {
                                let (scale, _) = scales::<S, F>(s, header(p), b_in, 0);
                                for i in 0..T {
                                    sums[i][p] = s.fma(unscaled[i][p], scale, sums[i][p]);
                                    unscaled[i][p] = s.splat(0.0);
                                }
                            }
                        }
                        continue;
                    }
                    for p in 0..P {
                        let scales = scales::<S, F>(s, header(p), b_in, 0);
                        block.scale(s, p, scales, &block.activations.neg32, &dots, &mut sums);
                    }
                } else {
                    let mut open = block.open(s, &block.activations.neg16[0]);
                    block.dot::<S, 0>(s, &mut open);
                    block.dot::<S, 1>(s, &mut open);
                    block.fold::<S, 2>(s, &mut open);
                    block.dot::<S, 2>(s, &mut open);
                    block.dot::<S, 3>(s, &mut open);
                    let dots = block.close(s, open);
                    for p in 0..P {
                        let scales = scales::<S, F>(s, header(p), b_in, 0);
                        block.scale(s, p, scales, &block.activations.neg16[0], &dots, &mut sums);
                    }
                    let mut open = block.open(s, &block.activations.neg16[1]);
                    block.dot::<S, 4>(s, &mut open);
                    block.dot::<S, 5>(s, &mut open);
                    block.fold::<S, 2>(s, &mut open);
                    block.dot::<S, 6>(s, &mut open);
                    block.dot::<S, 7>(s, &mut open);
                    let dots = block.close(s, open);
                    for p in 0..P {
                        let scales = scales::<S, F>(s, header(p), b_in, 1);
                        block.scale(s, p, scales, &block.activations.neg16[1], &dots, &mut sums);
                    }
                }
            }
        }
        sums
    }
}

/// 32 columns of a tile.
struct Block<'a, F, const T: usize, const P: usize> {
    /// The first panel's planes, followed by those of the other panels.
    codes: *const u8,
    activations: &'a ActivationBlock,
    /// The tile's first token within the block.
    lane: usize,
    format: PhantomData<F>,
}

/// A block's dot products in progress: see [`Simd::Dots`].
struct Open<S: Simd, const T: usize, const P: usize> {
    sums: [[S::I; P]; T],
    dots: [[S::Dots; P]; T],
}

impl<F: Format, const T: usize, const P: usize> Block<'_, F, T, P> {
    /// The initial value of the dot products: −zero·Σa.
    #[inline(always)]
    fn open<S: Simd>(&self, s: S, negs: &[i32; TILE]) -> Open<S, T, P> {
        let mut sums = [[s.isplat(0); P]; T];
        if F::ZERO > 0 && !(F::BITS == 8 && S::DOT8_CENTRES) {
            for i in 0..T {
                let neg = s.isplat(negs[self.lane + i]);
                let neg = shifted!(s, neg, F::ZERO.trailing_zeros() as isize);
                sums[i] = [neg; P];
            }
        }
        let mut dots = [[s.open(s.isplat(0)); P]; T];
        for i in 0..T {
            for p in 0..P {
                dots[i][p] = s.open(sums[i][p]);
            }
        }
        Open { sums, dots }
    }

    /// Adds the products of values `4 · FOUR ..` of 16 rows.
    ///
    /// # Safety
    /// `codes` are blocks in format `F`.
    #[inline(always)]
    unsafe fn dot<S: Simd, const FOUR: usize>(&self, s: S, open: &mut Open<S, T, P>) {
        // SAFETY: the caller guarantees blocks in format `F`; four codes at a multiple of 4 are within a block.
        unsafe {
            let mut w = [s.isplat(0); P];
            for p in 0..P {
                w[p] = codes::<S, F, FOUR>(s, self.codes.add(p * F::CODE_BYTES));
            }
            for i in 0..T {
                let bytes = self.activations.codes[self.lane + i].as_ptr().add(4 * FOUR);
                let x = s.isplat(bytes.cast::<i32>().read_unaligned());
                for p in 0..P {
                    if F::BITS == 8 {
                        open.sums[i][p] = s.dot8(open.sums[i][p], w[p], x);
                    } else {
                        open.dots[i][p] = s.dot(open.dots[i][p], w[p], x);
                    }
                }
            }
        }
    }

    /// Widens `dots` after `N` products if another `N` would overflow.
    #[inline(always)]
    fn fold<S: Simd, const N: usize>(&self, s: S, open: &mut Open<S, T, P>) {
        if F::BITS < 8 && dots_between(F::BITS) < 2 * N {
            for i in 0..T {
                for p in 0..P {
                    open.sums[i][p] = s.close(open.sums[i][p], open.dots[i][p]);
                    open.dots[i][p] = s.open(open.sums[i][p]);
                }
            }
        }
    }

    /// The finished dot products.
    #[inline(always)]
    fn close<S: Simd>(&self, s: S, open: Open<S, T, P>) -> [[S::I; P]; T] {
        let mut sums = open.sums;
        if F::BITS < 8 {
            for i in 0..T {
                for p in 0..P {
                    sums[i][p] = s.close(sums[i][p], open.dots[i][p]);
                }
            }
        }
        sums
    }

    /// Adds dot products times the activations' scales.
    #[inline(always)]
    fn add_unscaled<S: Simd>(&self, s: S, dots: &[[S::I; P]; T], sums: &mut [[S::F; P]; T]) {
        for i in 0..T {
            let scale = s.splat(self.activations.scales[self.lane + i]);
            for p in 0..P {
                sums[i][p] = s.fma(s.to_f(dots[i][p]), scale, sums[i][p]);
            }
        }
    }

    /// Adds panel `p`'s scaled dot products and the contribution of the mins to its sums.
    #[inline(always)]
    fn scale<S: Simd>(
        &self,
        s: S,
        p: usize,
        (scale, min): (S::F, S::F),
        negs: &[i32; TILE],
        dots: &[[S::I; P]; T],
        sums: &mut [[S::F; P]; T],
    ) {
        for i in 0..T {
            let mut product = s.mul(s.to_f(dots[i][p]), scale);
            if F::HAS_MIN {
                let neg = s.to_f(s.isplat(negs[self.lane + i]));
                product =
                    if F::MIN_SIGN > 0.0 { s.fnma(min, neg, product) } else { s.fma(min, neg, product) };
            }
            sums[i][p] = s.fma(product, s.splat(self.activations.scales[self.lane + i]), sums[i][p]);
        }
    }
}

/// Prefetches the codes and scales that are about [`AHEAD`] of block `b` of a chunk.
#[inline(always)]
fn ask_ahead<S: Simd, F: Format, const P: usize>(s: S, chunk: *const u8, first: usize, b: usize) {
    let blocks = F::BLOCK / 32;
    if P == pack::GROUP {
        // Covers the whole stream, a block's share at a time.
        let share = chunk_bytes::<F>() / blocks;
        for line in 0..share.div_ceil(64) {
            s.prefetch(chunk.wrapping_add(AHEAD + b * share + 64 * line));
        }
    } else {
        let ahead = chunk.wrapping_add((AHEAD / chunk_bytes::<F>()).max(1) * chunk_bytes::<F>());
        let share = P * F::HEADER_BYTES / blocks;
        for line in 0..share.div_ceil(64) {
            s.prefetch(ahead.wrapping_add(first * F::HEADER_BYTES + b * share + 64 * line));
        }
        let codes = ahead.wrapping_add(pack::GROUP * F::HEADER_BYTES);
        for line in 0..P * F::CODE_BYTES / 64 {
            s.prefetch(codes.wrapping_add((b * pack::GROUP + first) * F::CODE_BYTES + 64 * line));
        }
    }
}

/// Values `4 · FOUR ..` of a block of each of 16 rows, extracted from the block's planes to a byte each and looked up if the format
/// has a table.
///
/// # Safety
/// `planes` is a block's codes in format `F`.
#[inline(always)]
unsafe fn codes<S: Simd, F: Format, const FOUR: usize>(s: S, planes: *const u8) -> S::I {
    // SAFETY: a line of a plane is 64 bytes, and there are LOW + HIGH of them.
    unsafe {
        let low = s.load_bytes(planes.add(64 * (FOUR % F::LOW)));
        if F::LOW == 8 {
            return low;
        }
        let low = shifted!(s, low, F::SHIFT as isize - (F::LOW * (FOUR / F::LOW)) as isize);
        let mut codes = s.and(low, s.isplat(bytes_of((1 << F::LOW) - 1, F::SHIFT)));
        if F::HIGH > 0 {
            // The field goes above the low bits; bits that cross into a neighbouring byte are masked out.
            let high = s.load_bytes(planes.add(64 * (F::LOW + FOUR % high_or_one::<F>())));
            let high = shifted!(
                s,
                high,
                (F::LOW + F::SHIFT) as isize - (high_or_one::<F>() * (FOUR / high_or_one::<F>())) as isize
            );
            codes = s.or(codes, s.and(high, s.isplat(bytes_of((1 << F::HIGH) - 1, F::LOW + F::SHIFT))));
        }
        match const { &F::TABLE } {
            Some(table) => s.entries(table, codes),
            None => codes,
        }
    }
}

/// Four bytes `bits`, each shifted left by `shift`.
const fn bytes_of(bits: i32, shift: usize) -> i32 {
    0x0101_0101 * (bits << shift)
}

/// The high plane's width; 1 without a high plane, so that constants can divide by it.
const fn high_or_one<F: Format>() -> usize {
    if F::HIGH == 0 { 1 } else { F::HIGH }
}

/// The scale and min of 16 rows for block `b` of a stored block (its first or second half if scales are per 16).
///
/// # Safety
/// `header` is the header of one panel's stored block, in the layout of [`crate::pack`].
#[inline(always)]
unsafe fn scales<S: Simd, F: Format>(s: S, header: *const u8, b: usize, half: usize) -> (S::F, S::F) {
    // SAFETY: the caller guarantees a header in format `F`; `b` and `half` are within its stored block.
    unsafe {
        let sub = (32 * b + 16 * half) / F::SUB;
        match F::SCALE {
            Scale::F16 => {}
            Scale::E8M0 => return (s.load_e8m0(header.add(16 * sub)), s.splat(0.0)),
            Scale::E4M3 => return (s.load_e4m3(header.add(16 * sub)), s.splat(0.0)),
        }
        let mut scale = s.load_f16(header.cast::<f16>());
        let mut min = if F::HAS_MIN { s.load_f16(header.add(32).cast::<f16>()) } else { s.splat(0.0) };
        if F::SUPER {
            let sc = header.add(if F::HAS_MIN { 64 } else { 32 } + 16 * sub);
            scale = s.mul(scale, if F::SIGNED { s.load_i8(sc.cast()) } else { s.load_u8(sc) });
            if F::HAS_MIN {
                min = s.mul(min, s.load_u8(sc.add(16 * F::SUBS)));
            }
        }
        (scale, min)
    }
}
