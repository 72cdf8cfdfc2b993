//! The inner loops: a tile of queries against one page of keys and values.

use super::{PAGE, Query};
use crate::simd::{LANES, Simd};
use half::f16;
use std::ops::Range;

/// What a page's values are stored as.
pub(super) trait Element: bytemuck::Pod {
    /// Reads 16 values.
    ///
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    /// Writes 16 values.
    ///
    /// # Safety
    /// `p` is writable for 16 values.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F);
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller's word.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: the caller's word.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::F {
        // SAFETY: the caller's word.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f16, v: S::F) {
        // SAFETY: the caller's word.
        unsafe { s.store_f16(p, v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// `f16` to `f32`, exactly.
#[inline(always)]
pub(super) fn widen<S: Simd>(s: S, from: &[f16], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
        // SAFETY: both chunks are 16 long; a page is a multiple of 16 values.
        unsafe { s.store(to.as_mut_ptr(), s.load_f16(from.as_ptr())) }
    }
}

/// All queries' way over one page, a tile of queries at a time: a key or value is loaded once for all of a tile.
pub(super) struct Walk<'a> {
    pub queries: &'a [Query],
    /// `[queries, head_dim]`
    pub acc: &'a mut [f32],
    /// `[queries]`
    pub state: &'a mut [(f32, f32)],
    pub head_dim: usize,
    pub scale: f32,
    /// The page's number: it holds positions from `index · PAGE` on.
    pub index: usize,
}

impl Walk<'_> {
    #[inline(always)]
    pub fn run<S: Simd, E: Element>(self, s: S, page: &[E]) {
        let tiles = self.queries.chunks(S::TILE).zip(self.acc.chunks_mut(S::TILE * self.head_dim));
        for ((queries, acc), state) in tiles.zip(self.state.chunks_mut(S::TILE)) {
            let tile = Tile { queries, head_dim: self.head_dim, scale: self.scale, index: self.index };
            if S::TILE >= 6 && queries.len() == 6 {
                tile.fold::<S, E, 6>(s, page, acc, state);
            } else if S::TILE >= 5 && queries.len() == 5 {
                tile.fold::<S, E, 5>(s, page, acc, state);
            } else if S::TILE >= 4 && queries.len() == 4 {
                tile.fold::<S, E, 4>(s, page, acc, state);
            } else if S::TILE >= 3 && queries.len() == 3 {
                tile.fold::<S, E, 3>(s, page, acc, state);
            } else if S::TILE >= 2 && queries.len() == 2 {
                tile.fold::<S, E, 2>(s, page, acc, state);
            } else {
                tile.fold::<S, E, 1>(s, page, acc, state);
            }
        }
    }
}

/// As many queries as an instruction set's registers take, on one page.
struct Tile<'a> {
    queries: &'a [Query],
    head_dim: usize,
    scale: f32,
    index: usize,
}

impl Tile<'_> {
    /// Folds the page into the running softmax of `N` queries: `acc` is `[N, head_dim]`, `state` `[N]`.
    #[inline(always)]
    fn fold<S: Simd, E: Element, const N: usize>(
        &self,
        s: S,
        page: &[E],
        acc: &mut [f32],
        state: &mut [(f32, f32)],
    ) {
        let (keys, values) = page.split_at(PAGE * self.head_dim);
        let seen: [Range<usize>; N] = std::array::from_fn(|i| {
            let (start, query) = (self.index * PAGE, &self.queries[i]);
            let from = query.from.clamp(start, start + PAGE) - start;
            from..(query.to.clamp(start, start + PAGE) - start).max(from)
        });
        // positions that some query of the tile sees; what lies beyond may never have been written
        let from = seen.iter().filter(|r| !r.is_empty()).map(|r| r.start).min().unwrap_or(0);
        let to = seen.iter().filter(|r| !r.is_empty()).map(|r| r.end).max().unwrap_or(0);
        if from == to {
            return;
        }
        let mut weights = self.scores::<S, E, N>(s, keys);
        // loops, not closures: a closure that isn't inlined would lose the instruction set
        let mut shrink = [0.0; N];
        for i in 0..N {
            shrink[i] = soften(s, &mut weights[i], &seen[i], &mut state[i]);
        }
        let mut d = 0;
        // two vectors of each value at a time where there are two: a weight is broadcast once for both
        while d + 2 * LANES <= self.head_dim {
            // SAFETY: 2 · LANES values from `d` on are there in each query's `acc` and in every row of `values`.
            unsafe {
                let (mut low, mut high) = ([s.splat(0.0); N], [s.splat(0.0); N]);
                for i in 0..N {
                    let at = acc.as_ptr().add(i * self.head_dim + d);
                    low[i] = s.mul(s.load(at), s.splat(shrink[i]));
                    high[i] = s.mul(s.load(at.add(LANES)), s.splat(shrink[i]));
                }
                for t in from..to {
                    let row = values.as_ptr().add(t * self.head_dim + d);
                    let (v0, v1) = (E::load(s, row), E::load(s, row.add(LANES)));
                    for i in 0..N {
                        let weight = s.splat(weights[i][t]);
                        low[i] = s.fma(v0, weight, low[i]);
                        high[i] = s.fma(v1, weight, high[i]);
                    }
                }
                for i in 0..N {
                    let at = acc.as_mut_ptr().add(i * self.head_dim + d);
                    s.store(at, low[i]);
                    s.store(at.add(LANES), high[i]);
                }
            }
            d += 2 * LANES;
        }
        while d < self.head_dim {
            let left = self.head_dim - d;
            // SAFETY: `left` values are there in each query's `acc` and in every row of `values`.
            unsafe {
                let mut sums = [s.splat(0.0); N];
                for i in 0..N {
                    let at = acc.as_ptr().add(i * self.head_dim + d);
                    let old = if left >= LANES { s.load(at) } else { s.load_partial(at, left, 0.0) };
                    sums[i] = s.mul(old, s.splat(shrink[i]));
                }
                for t in from..to {
                    let row = &values[t * self.head_dim + d..(t + 1) * self.head_dim];
                    let v = if left >= LANES { E::load(s, row.as_ptr()) } else { short_row(s, row) };
                    for i in 0..N {
                        sums[i] = s.fma(v, s.splat(weights[i][t]), sums[i]);
                    }
                }
                for i in 0..N {
                    let at = acc.as_mut_ptr().add(i * self.head_dim + d);
                    if left >= LANES { s.store(at, sums[i]) } else { s.store_partial(at, left, sums[i]) }
                }
            }
            d += LANES;
        }
    }

    /// Scaled scores of `N` queries against a page's keys.
    #[inline(always)]
    fn scores<S: Simd, E: Element, const N: usize>(&self, s: S, keys: &[E]) -> [[f32; PAGE]; N] {
        let q: [*const f32; N] = std::array::from_fn(|i| self.queries[i].q);
        let (mut low, mut high) = ([s.splat(0.0); N], [s.splat(0.0); N]);
        for (d, column) in keys.chunks_exact(PAGE).enumerate() {
            // SAFETY: a column is PAGE = 2 · LANES long; each query points to `head_dim` values.
            unsafe {
                let (k0, k1) = (E::load(s, column.as_ptr()), E::load(s, column.as_ptr().add(LANES)));
                for i in 0..N {
                    let x = s.splat(*q[i].add(d));
                    low[i] = s.fma(k0, x, low[i]);
                    high[i] = s.fma(k1, x, high[i]);
                }
            }
        }
        let mut out = [[0.0; PAGE]; N];
        for i in 0..N {
            // SAFETY: each row is 2 · LANES long.
            unsafe {
                s.store(out[i].as_mut_ptr(), s.mul(low[i], s.splat(self.scale)));
                s.store(out[i].as_mut_ptr().add(LANES), s.mul(high[i], s.splat(self.scale)));
            }
        }
        out
    }
}

/// A row's last values, fewer than 16.
#[inline(always)]
fn short_row<S: Simd, E: Element>(s: S, row: &[E]) -> S::F {
    let mut lanes = [0.0; LANES];
    for (lane, v) in lanes.iter_mut().zip(row) {
        *lane = v.to_f32();
    }
    // SAFETY: 16 values.
    unsafe { s.load(lanes.as_ptr()) }
}

/// Turns a query's scores into weights under its running maximum; positions outside `seen` weigh 0. Returns by what the
/// sums so far shrink. A score that is NaN or infinite makes every weight NaN, so that it shows.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [f32; PAGE], seen: &Range<usize>, state: &mut (f32, f32)) -> f32 {
    let whole = *seen == (0..PAGE);
    let mut finite = [0.0; PAGE];
    if whole {
        finite = *scores;
    } else {
        if seen.is_empty() {
            scores.fill(0.0);
            return 1.0;
        }
        finite[seen.clone()].copy_from_slice(&scores[seen.clone()]);
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
    }
    let (old_max, old_sum) = *state;
    // SAFETY: both arrays are 2 · LANES long.
    unsafe {
        let (at, at_high) = (scores.as_mut_ptr(), scores.as_mut_ptr().add(LANES));
        let (a, b) = (s.load(at), s.load(at_high));
        // max may drop a NaN, a sum can't
        let check = s.sum(s.add(s.load(finite.as_ptr()), s.load(finite.as_ptr().add(LANES))));
        let max = if check.is_finite() { old_max.max(s.max_lane(s.max(a, b))) } else { f32::NAN };
        if max.is_nan() {
            scores.fill(f32::NAN);
            *state = (f32::NAN, f32::NAN);
            return f32::NAN;
        }
        s.store(at, s.exp(s.sub(a, s.splat(max))));
        s.store(at_high, s.exp(s.sub(b, s.splat(max))));
        if !whole {
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
        }
        let shrink = if old_max == f32::NEG_INFINITY { 0.0 } else { (old_max - max).exp() };
        *state = (max, old_sum * shrink + s.sum(s.add(s.load(at), s.load(at_high))));
        shrink
    }
}
