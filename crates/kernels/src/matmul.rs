//! Matrix multiplication: packed weights × activations, for one token or many.
//!
//! A register tile is some tokens × one panel (16 rows). For a quantised type the inner step is, per 32 values: load code
//! lines, dot them against each token's broadcast bytes into exact `i32` accumulators (started at −zero·Σa), convert once,
//! scale by the rows' and the token's scale. GEMV is the same tile with one token.
//!
//! The arithmetic of one token and row is the same whatever the tile, the batch or the thread count: results
//! do not depend on what else is in a batch.

use crate::acts::{ActKind, Acts, GROUP};
use crate::format::{Format, with_format};
use crate::pack::{Packed, quant_panel_bytes};
use crate::pool::Pool;
use crate::simd::{LANES, Op, Simd};
use crate::{DType, Isa};
use half::f16;
use std::ops::Range;

/// Tokens whose activations are kept in the L2 cache while panels stream past.
const TOKEN_BLOCK: usize = 64;

/// One product of a [`matmul`]: `out[t, r] = Σ_k acts[t, k] · weights[r, k]`.
#[derive(Debug)]
pub struct Job<'a> {
    /// The weights, `[rows, cols]`.
    pub weights: &'a Packed,
    /// `[tokens, stride]`, of which each row's first `weights.rows()` are written.
    pub out: &'a mut [f32],
    /// Values from one token's row of `out` to the next.
    pub stride: usize,
    /// Adds to `out` instead of overwriting it: the residual.
    pub add: bool,
}

/// The form of activations that weights of this type want.
pub fn act_kind(isa: Isa, dtype: DType) -> ActKind {
    match dtype {
        DType::F32 | DType::F16 => ActKind::F32,
        DType::BF16 if isa.bf16_dot() => ActKind::Bf16,
        DType::BF16 => ActKind::F32,
        _ => ActKind::Quant,
    }
}

/// Runs several products of the same activations as one parallel loop (Q, K and V; gate and up).
///
/// # Panics
/// If shapes don't fit: `weights.cols() == acts.cols()`, and `out` holds `tokens` rows.
pub fn matmul(isa: Isa, pool: &Pool, acts: &Acts, jobs: &mut [Job<'_>]) {
    let tokens = acts.tokens();
    if tokens == 0 {
        return;
    }
    let total: usize = jobs.iter().map(|j| j.weights.panels()).sum();
    // enough chunks that a slow core doesn't stall the step, large enough to stream
    let chunk = total.div_ceil(pool.threads() * 8).clamp(1, if tokens == 1 { 64 } else { 8 });
    let mut parts: Vec<Part<'_>> = Vec::with_capacity(jobs.len());
    let mut items = 0;
    for job in jobs {
        let Job { weights, out, stride, add } = job;
        assert_eq!(weights.cols(), acts.cols(), "columns of weights and activations");
        assert!(
            *stride >= weights.rows() && out.len() >= (tokens - 1) * *stride + weights.rows(),
            "room for the product"
        );
        let first = items;
        items += weights.panels().div_ceil(chunk);
        parts.push(Part { weights, out: out.as_mut_ptr(), stride: *stride, add: *add, first });
    }
    pool.for_each(items, &|item| {
        let part = parts.iter().rev().find(|p| p.first <= item).expect("item 0 is in the first part");
        let start = (item - part.first) * chunk;
        part.run(isa, acts, start..(start + chunk).min(part.weights.panels()));
    });
}

/// A job with its output as an address: threads write disjoint columns of it.
struct Part<'a> {
    weights: &'a Packed,
    out: *mut f32,
    stride: usize,
    add: bool,
    /// The number of this part's first item.
    first: usize,
}

// SAFETY: `out` is written only in the columns of the panels an item owns, and every item is run once.
unsafe impl Sync for Part<'_> {}

impl Part<'_> {
    fn run(&self, isa: Isa, acts: &Acts, panels: Range<usize>) {
        match self.weights.dtype() {
            DType::F32 => isa.run(Panels::<F32Tile>::new(self, acts, panels)),
            DType::F16 => isa.run(Panels::<F16Tile>::new(self, acts, panels)),
            DType::BF16 if isa.bf16_dot() => isa.run(Panels::<Bf16DotTile>::new(self, acts, panels)),
            DType::BF16 => isa.run(Panels::<Bf16Tile>::new(self, acts, panels)),
            quantized => {
                with_format!(quantized, F => isa.run(Panels::<QuantTile<F>>::new(self, acts, panels)))
            }
        }
    }
}

/// A range of panels times all tokens.
struct Panels<'a, K> {
    part: &'a Part<'a>,
    acts: &'a Acts,
    panels: Range<usize>,
    tile: std::marker::PhantomData<K>,
}

impl<'a, K> Panels<'a, K> {
    fn new(part: &'a Part<'a>, acts: &'a Acts, panels: Range<usize>) -> Self {
        Panels { part, acts, panels, tile: std::marker::PhantomData }
    }
}

/// A register tile of one weight type.
trait Tile {
    /// `T` tokens from `t` on × one panel: 16 sums for each token.
    ///
    /// # Safety
    /// `panel` is a panel of this tile's type with `acts.cols()` columns, and `t + T ≤ acts.tokens()`, in the form
    /// that [`act_kind`] names.
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T];
}

impl<K: Tile> Op for Panels<'_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tokens = self.acts.tokens();
        let mut block = 0;
        while block < tokens {
            let end = (block + TOKEN_BLOCK).min(tokens);
            for panel in self.panels.clone() {
                let mut t = block;
                while t < end {
                    let left = end - t;
                    // SAFETY: the tokens are within the batch; this item owns the panel's columns of `out`.
                    t += unsafe {
                        if S::TILE >= 8 && left >= 8 {
                            self.tile::<S, 8>(s, panel, t)
                        } else if S::TILE >= 4 && left >= 4 {
                            self.tile::<S, 4>(s, panel, t)
                        } else if S::TILE >= 2 && left >= 2 {
                            self.tile::<S, 2>(s, panel, t)
                        } else {
                            self.tile::<S, 1>(s, panel, t)
                        }
                    };
                }
            }
            block = end;
        }
    }
}

impl<K: Tile> Panels<'_, K> {
    /// Computes one tile and writes it out; returns `T`.
    ///
    /// # Safety
    /// `t + T` tokens exist, and no one else writes this panel's columns.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(&self, s: S, panel: usize, t: usize) -> usize {
        let part = self.part;
        let row = panel * LANES;
        let rows = (part.weights.rows() - row).min(LANES);
        // SAFETY: the panel is one of these weights; `matmul` checked the columns and that `out` has room.
        unsafe {
            let sums = K::tile::<S, T>(s, part.weights.panel(panel), self.acts, t);
            for (i, &sum) in sums.iter().enumerate() {
                let out = part.out.add((t + i) * part.stride + row);
                if rows == LANES {
                    let sum = if part.add { s.add(s.load(out), sum) } else { sum };
                    s.store(out, sum);
                } else {
                    let sum = if part.add { s.add(s.load_partial(out, rows, 0.0), sum) } else { sum };
                    s.store_partial(out, rows, sum);
                }
            }
        }
        T
    }
}

/// Quantised weights × quantised activations.
struct QuantTile<F>(std::marker::PhantomData<F>);

impl<F: Format> Tile for QuantTile<F> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T] {
        let cols = acts.cols();
        let (code_bytes, _) = quant_panel_bytes::<F>(cols);
        // SAFETY: the caller vouches for panel and tokens; all offsets stay within a panel's codes and header
        // ([`crate::pack`]) and within one token's rows of `QuantActs`.
        unsafe {
            let header = panel.add(code_bytes);
            let token = TokenRows::<T>::new::<F>(acts, t);
            let mut sums = [s.splat(0.0); T];
            for b in 0..cols / 32 {
                let lines = panel.add(b * F::CODE_BYTES);
                for half in 0..32 / F::SUB {
                    let sub = 32 / F::SUB * b + half;
                    let (scale, min) = block_scale::<S, F>(s, header, b, half);
                    let mut dots = start::<S, F, T>(s, &token, sub);
                    if F::SUB == 32 {
                        for line in 0..F::CODE_BYTES / 64 {
                            line_dots::<S, F, T>(s, lines.add(64 * line), &token, b, line, &mut dots, BOTH);
                        }
                    } else {
                        for l in 0..4 {
                            // 4-bit: each line holds both halves; 8-bit: lines 0–3 are the first half, 4–7 the second
                            let (line, part) = if F::BITS == 4 { (l, half) } else { (4 * half + l, BOTH) };
                            line_dots::<S, F, T>(s, lines.add(64 * line), &token, b, line, &mut dots, part);
                        }
                    }
                    for i in 0..T {
                        let product = s.mul(s.to_f(dots[i]), scale);
                        sums[i] = s.fma(product, s.splat(*token.scales[i].add(b)), sums[i]);
                        if F::HAS_MIN {
                            let sum = s.splat(*token.sums[i].add(sub));
                            sums[i] = if F::MIN_SIGN > 0.0 {
                                s.fma(min, sum, sums[i])
                            } else {
                                s.fnma(min, sum, sums[i])
                            };
                        }
                    }
                }
            }
            sums
        }
    }
}

/// Take both nibbles of a 4-bit line (0: only the low ones, 1: only the high ones).
const BOTH: usize = 2;

/// Where the quantised activations of a tile's tokens begin.
struct TokenRows<const T: usize> {
    /// `[cols]` codes
    codes: [*const i8; T],
    /// `[cols / 32]` scales
    scales: [*const f32; T],
    /// `[cols / SUB]` negated sums of codes
    negs: [*const i32; T],
    /// `[cols / SUB]` sums of values
    sums: [*const f32; T],
}

impl<const T: usize> TokenRows<T> {
    /// # Safety
    /// `t + T` tokens exist in quantised form.
    #[inline(always)]
    unsafe fn new<F: Format>(acts: &Acts, t: usize) -> Self {
        let (q, cols) = (&acts.quant, acts.cols());
        let (negs, sums) = if F::SUB == 16 { (&q.neg16, &q.sum16) } else { (&q.neg32, &q.sum32) };
        // SAFETY: the caller's word; each token has `cols` codes, a scale per GROUP and a sum per SUB.
        unsafe {
            TokenRows {
                codes: std::array::from_fn(|i| q.codes.as_ptr().add((t + i) * cols)),
                scales: std::array::from_fn(|i| q.scales.as_ptr().add((t + i) * (cols / GROUP))),
                negs: std::array::from_fn(|i| negs.as_ptr().add((t + i) * (cols / F::SUB))),
                sums: std::array::from_fn(|i| sums.as_ptr().add((t + i) * (cols / F::SUB))),
            }
        }
    }
}

/// The dot products' start: −zero·Σa.
#[inline(always)]
unsafe fn start<S: Simd, F: Format, const T: usize>(s: S, token: &TokenRows<T>, sub: usize) -> [S::I; T] {
    std::array::from_fn(|i| {
        if F::ZERO_LOG2 == 0 {
            return s.isplat(0);
        }
        // SAFETY: `sub` is one of the row's sums.
        let neg = s.isplat(unsafe { *token.negs[i].add(sub) });
        match F::ZERO_LOG2 {
            2 => s.shl::<2>(neg),
            3 => s.shl::<3>(neg),
            4 => s.shl::<4>(neg),
            5 => s.shl::<5>(neg),
            _ => s.shl::<7>(neg),
        }
    })
}

/// One 64-byte line of codes against four (or, for 4-bit codes, twice four) values of block `b` of each token.
#[inline(always)]
unsafe fn line_dots<S: Simd, F: Format, const T: usize>(
    s: S,
    line_at: *const u8,
    token: &TokenRows<T>,
    b: usize,
    line: usize,
    dots: &mut [S::I; T],
    part: usize,
) {
    // SAFETY: the caller's line and block; four codes at a multiple of 4 within a row.
    unsafe {
        let four =
            |i: usize, at: usize| s.isplat(token.codes[i].add(32 * b + at).cast::<i32>().read_unaligned());
        let w = s.load_bytes(line_at);
        if F::BITS == 4 {
            if part != 1 {
                let low = s.low_nibbles(w);
                for i in 0..T {
                    dots[i] = s.dot7(dots[i], low, four(i, 4 * line));
                }
            }
            if part != 0 {
                let high = s.high_nibbles(w);
                for i in 0..T {
                    dots[i] = s.dot7(dots[i], high, four(i, 16 + 4 * line));
                }
            }
        } else {
            for i in 0..T {
                let a = four(i, 4 * line);
                dots[i] = if F::ZERO_LOG2 == 7 { s.dot8(dots[i], w, a) } else { s.dot7(dots[i], w, a) };
            }
        }
    }
}

/// The scale and min of 16 rows for block `b` of 32 values (its first or second half where scales are per 16).
#[inline(always)]
unsafe fn block_scale<S: Simd, F: Format>(s: S, header: *const u8, b: usize, half: usize) -> (S::F, S::F) {
    // SAFETY: the header holds every block's scales, laid out as [`crate::pack`] says.
    unsafe {
        let at = header.add(b * 32 / F::BLOCK * F::HEADER_BYTES);
        let mut scale = s.load_f16(at.cast::<f16>());
        let mut min = if F::HAS_MIN { s.load_f16(at.add(32).cast::<f16>()) } else { s.splat(0.0) };
        if F::SUPER {
            let subs = 256 / F::SUB;
            let sub = (b % 8) * (32 / F::SUB) + half;
            let sc = at.add(if F::HAS_MIN { 64 } else { 32 } + 16 * sub);
            scale = s.mul(scale, if F::SIGNED { s.load_i8(sc.cast()) } else { s.load_u8(sc) });
            if F::HAS_MIN {
                min = s.mul(min, s.load_u8(sc.add(16 * subs)));
            }
        }
        (scale, min)
    }
}

/// `f32` weights and activations.
struct F32Tile;

impl Tile for F32Tile {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T] {
        // SAFETY: line k of the panel is 16 values.
        unsafe { float_tile::<S, T>(s, acts, t, |k| s.load(panel.cast::<f32>().add(k * LANES))) }
    }
}

/// `f16` weights, `f32` activations.
struct F16Tile;

impl Tile for F16Tile {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T] {
        // SAFETY: line k of the panel is 16 values.
        unsafe { float_tile::<S, T>(s, acts, t, |k| s.load_f16(panel.cast::<f16>().add(k * LANES))) }
    }
}

/// The float tiles' loop: even and odd values into two accumulators, added at the end.
#[inline(always)]
unsafe fn float_tile<S: Simd, const T: usize>(
    s: S,
    acts: &Acts,
    t: usize,
    line: impl Fn(usize) -> S::F,
) -> [S::F; T] {
    let cols = acts.cols();
    // SAFETY: the caller vouches for the tokens; `k` stays below `cols`.
    unsafe {
        let rows: [*const f32; T] = std::array::from_fn(|i| acts.f32.as_ptr().add((t + i) * cols));
        let (mut even, mut odd) = ([s.splat(0.0); T], [s.splat(0.0); T]);
        let mut k = 0;
        while k + 1 < cols {
            let (w0, w1) = (line(k), line(k + 1));
            for i in 0..T {
                even[i] = s.fma(w0, s.splat(*rows[i].add(k)), even[i]);
                odd[i] = s.fma(w1, s.splat(*rows[i].add(k + 1)), odd[i]);
            }
            k += 2;
        }
        if k < cols {
            let w = line(k);
            for i in 0..T {
                even[i] = s.fma(w, s.splat(*rows[i].add(k)), even[i]);
            }
        }
        std::array::from_fn(|i| s.add(even[i], odd[i]))
    }
}

/// `bf16` weights, `f32` activations, where there is no `bf16` dot product.
struct Bf16Tile;

impl Tile for Bf16Tile {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T] {
        // SAFETY: line k/2 of the panel holds values k and k + 1 of 16 rows.
        unsafe {
            float_tile::<S, T>(s, acts, t, |k| {
                let pair = s.load_bytes(panel.add(k / 2 * 64));
                if k.is_multiple_of(2) { s.bf16_low(pair) } else { s.bf16_high(pair) }
            })
        }
    }
}

/// `bf16` weights and activations.
struct Bf16DotTile;

impl Tile for Bf16DotTile {
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, panel: *const u8, acts: &Acts, t: usize) -> [S::F; T] {
        let pairs = acts.cols().div_ceil(2);
        // SAFETY: the caller vouches for panel and tokens; both hold `pairs` pairs.
        unsafe {
            let rows: [*const u32; T] = std::array::from_fn(|i| acts.bf16.as_ptr().add((t + i) * pairs));
            let (mut even, mut odd) = ([s.splat(0.0); T], [s.splat(0.0); T]);
            let mut k = 0;
            while k + 1 < pairs {
                let (w0, w1) = (s.load_bytes(panel.add(k * 64)), s.load_bytes(panel.add((k + 1) * 64)));
                for i in 0..T {
                    even[i] = s.dot_bf16(even[i], w0, s.isplat(*rows[i].add(k) as i32));
                    odd[i] = s.dot_bf16(odd[i], w1, s.isplat(*rows[i].add(k + 1) as i32));
                }
                k += 2;
            }
            if k < pairs {
                let w = s.load_bytes(panel.add(k * 64));
                for i in 0..T {
                    even[i] = s.dot_bf16(even[i], w, s.isplat(*rows[i].add(k) as i32));
                }
            }
            std::array::from_fn(|i| s.add(even[i], odd[i]))
        }
    }
}
