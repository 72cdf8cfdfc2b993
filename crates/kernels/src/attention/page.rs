//! The inner loops: a tile of queries against one page of keys and values.

use super::form::Form;
use super::layout::{BLOCK, PAGE};
use super::query::Query;
use crate::elementwise::capped;
use crate::simd::{LANES, Op, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// All queries against one page, a tile of queries at a time: each key or value is loaded once per tile.
pub(super) struct Walk<'a> {
    pub queries: &'a [Query],
    /// `[queries, head_dim]`
    pub acc: &'a mut [f32],
    /// `[queries]`
    pub state: &'a mut [(f32, f32)],
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// The page's number: it holds positions from `index · PAGE` on.
    pub index: usize,
    /// The next page: each of its lines is prefetched while the same line of this page is read. This page if there is no next
    /// one.
    pub ahead: *const u8,
}

impl Walk<'_> {
    /// # Safety
    /// `page` is a page of form `F` and this head size. The queries are `[head_dim]`, and their creator keeps them valid.
    #[inline(always)]
    pub unsafe fn run<S: Simd, F: Form>(self, s: S, page: *const u8) {
        let tiles = self.queries.chunks(S::QUERIES).zip(self.acc.chunks_mut(S::QUERIES * self.head_dim));
        let mut ahead = self.ahead;
        for ((queries, acc), state) in tiles.zip(self.state.chunks_mut(S::QUERIES)) {
            let Walk { head_dim, scale, softcap, index, .. } = self;
            let tile = Tile { queries, head_dim, scale, softcap, index, ahead };
            ahead = page;
            // Each tile size is a separate function, so that they compile independently.
            if S::QUERIES >= 6 && queries.len() == 6 {
                s.vectorize(Fold::<F, 6> { tile, page, acc, state, form: PhantomData });
            } else if S::QUERIES >= 5 && queries.len() == 5 {
                s.vectorize(Fold::<F, 5> { tile, page, acc, state, form: PhantomData });
            } else if S::QUERIES >= 4 && queries.len() == 4 {
                s.vectorize(Fold::<F, 4> { tile, page, acc, state, form: PhantomData });
            } else if S::QUERIES >= 3 && queries.len() == 3 {
                s.vectorize(Fold::<F, 3> { tile, page, acc, state, form: PhantomData });
            } else if S::QUERIES >= 2 && queries.len() == 2 {
                s.vectorize(Fold::<F, 2> { tile, page, acc, state, form: PhantomData });
            } else {
                s.vectorize(Fold::<F, 1> { tile, page, acc, state, form: PhantomData });
            }
        }
    }
}

/// Folds a page into the running softmax of a tile of `N` queries. The creator guarantees the requirements of [`Walk::run`].
struct Fold<'a, F, const N: usize> {
    tile: Tile<'a>,
    page: *const u8,
    /// `[N, head_dim]`
    acc: &'a mut [f32],
    /// `[N]`
    state: &'a mut [(f32, f32)],
    form: PhantomData<F>,
}

impl<F: Form, const N: usize> Op for Fold<'_, F, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the creator of this value guarantees page and queries.
        unsafe { self.tile.fold::<S, F, N>(s, self.page, self.acc, self.state) }
    }
}

/// As many queries as the registers of an instruction set allow, on one page.
struct Tile<'a> {
    queries: &'a [Query],
    head_dim: usize,
    scale: f32,
    softcap: Option<f32>,
    index: usize,
    ahead: *const u8,
}

impl Tile<'_> {
    /// Folds the page into the running softmax of `N` queries: `acc` is `[N, head_dim]`, `state` `[N]`.
    ///
    /// # Safety
    /// `page` is a page of form `F` and this head size. The queries are `[head_dim]`, and their creator keeps them valid.
    #[inline(always)]
    unsafe fn fold<S: Simd, F: Form, const N: usize>(
        &self,
        s: S,
        page: *const u8,
        acc: &mut [f32],
        state: &mut [(f32, f32)],
    ) {
        assert!(self.queries.len() == N && acc.len() == N * self.head_dim && state.len() == N);
        let seen: [Range<usize>; N] = std::array::from_fn(|i| {
            let (start, query) = (self.index * PAGE, &self.queries[i]);
            let from = query.from.clamp(start, start + PAGE) - start;
            from..(query.to.clamp(start, start + PAGE) - start).max(from)
        });
        // The positions that any query of the tile sees; those beyond may never have been written.
        let from = seen.iter().filter(|r| !r.is_empty()).map(|r| r.start).min().unwrap_or(0);
        let to = seen.iter().filter(|r| !r.is_empty()).map(|r| r.end).max().unwrap_or(0);
        if from == to {
            return;
        }
        // SAFETY: the caller guarantees page and queries.
        let mut weights = unsafe { self.scores::<S, F, N>(s, page) };
        // Loops instead of closures: a closure that isn't inlined would lose the instruction set.
        let mut shrink = [0.0; N];
        for i in 0..N {
            shrink[i] = soften(s, &mut weights[i], &seen[i], &mut state[i]);
        }
        let (mut d, mut scaled) = (0, [[0.0; PAGE]; N]);
        // Two vectors of each value (a block) at a time while there are two: each weight is broadcast once for both.
        while d + 2 * LANES <= self.head_dim {
            // SAFETY: the caller guarantees the page; 2 · LANES values from `d` on exist in each query's `acc`, whose length was
            // checked, and in every value.
            unsafe {
                let weights = self.weigh::<S, F, N>(s, page, d / BLOCK, &weights, &mut scaled);
                let (mut low, mut high) = ([s.splat(0.0); N], [s.splat(0.0); N]);
                for i in 0..N {
                    let at = acc.as_ptr().add(i * self.head_dim + d);
                    low[i] = s.mul(s.load(at), s.splat(shrink[i]));
                    high[i] = s.mul(s.load(at.add(LANES)), s.splat(shrink[i]));
                }
                for t in from..to {
                    let v0 = F::value(s, page, self.head_dim, t, d);
                    let v1 = F::value(s, page, self.head_dim, t, d + LANES);
                    s.prefetch(self.ahead.wrapping_add(F::value_at(self.head_dim, t, d)));
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
            // SAFETY: the caller guarantees the page; `left` values exist in each query's `acc`, whose length was checked, and in
            // every value.
            unsafe {
                let weights = self.weigh::<S, F, N>(s, page, d / BLOCK, &weights, &mut scaled);
                let mut sums = [s.splat(0.0); N];
                for i in 0..N {
                    let at = acc.as_ptr().add(i * self.head_dim + d);
                    let old = if left >= LANES { s.load(at) } else { s.load_partial(at, left, 0.0) };
                    sums[i] = s.mul(old, s.splat(shrink[i]));
                }
                for t in from..to {
                    let v = if left >= LANES {
                        F::value(s, page, self.head_dim, t, d)
                    } else {
                        short::<S, F>(s, page, self.head_dim, t, d)
                    };
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

    /// The weights times the scales of the values' block `block`, written to `room` if the form has scales.
    ///
    /// # Safety
    /// As for [`Tile::fold`].
    #[inline(always)]
    unsafe fn weigh<'a, S: Simd, F: Form, const N: usize>(
        &self,
        s: S,
        page: *const u8,
        block: usize,
        weights: &'a [[f32; PAGE]; N],
        room: &'a mut [[f32; PAGE]; N],
    ) -> &'a [[f32; PAGE]; N] {
        if !F::SCALED {
            return weights;
        }
        for at in [0, LANES] {
            // SAFETY: the caller guarantees the page; a row of weights is 2 · LANES long.
            unsafe {
                let scale = F::scale(s, page, self.head_dim, 1, block, at);
                for i in 0..N {
                    s.store(room[i].as_mut_ptr().add(at), s.mul(s.load(weights[i].as_ptr().add(at)), scale));
                }
            }
        }
        room
    }

    /// Scaled (and capped) scores of `N` queries against a page's keys.
    ///
    /// # Safety
    /// As for [`Tile::fold`].
    #[inline(always)]
    unsafe fn scores<S: Simd, F: Form, const N: usize>(&self, s: S, page: *const u8) -> [[f32; PAGE]; N] {
        let q: [*const f32; N] = std::array::from_fn(|i| self.queries[i].q);
        let (mut low, mut high) = ([s.splat(0.0); N], [s.splat(0.0); N]);
        let block = if F::SCALED { BLOCK } else { self.head_dim };
        for first in (0..self.head_dim).step_by(block) {
            let (mut sum, mut sum_high) =
                if F::SCALED { ([s.splat(0.0); N], [s.splat(0.0); N]) } else { (low, high) };
            // SAFETY: the caller guarantees the page, and `head_dim` values of each query.
            unsafe {
                for d in first..(first + block).min(self.head_dim) {
                    let k0 = F::key(s, page, d, 0);
                    let k1 = F::key(s, page, d, LANES);
                    s.prefetch(self.ahead.wrapping_add(F::key_at(d)));
                    for i in 0..N {
                        let x = s.splat(*q[i].add(d));
                        sum[i] = s.fma(k0, x, sum[i]);
                        sum_high[i] = s.fma(k1, x, sum_high[i]);
                    }
                }
                if F::SCALED {
                    let scale = F::scale(s, page, self.head_dim, 0, first / BLOCK, 0);
                    let scale_high = F::scale(s, page, self.head_dim, 0, first / BLOCK, LANES);
                    for i in 0..N {
                        low[i] = s.fma(sum[i], scale, low[i]);
                        high[i] = s.fma(sum_high[i], scale_high, high[i]);
                    }
                } else {
                    (low, high) = (sum, sum_high);
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
        if let Some(cap) = self.softcap {
            for row in &mut out {
                // SAFETY: as above.
                unsafe {
                    let (a, b) = (s.load(row.as_ptr()), s.load(row.as_ptr().add(LANES)));
                    s.store(row.as_mut_ptr(), capped(s, a, cap));
                    s.store(row.as_mut_ptr().add(LANES), capped(s, b, cap));
                }
            }
        }
        out
    }
}

/// The last entries of a value, fewer than 16.
///
/// # Safety
/// As for [`Form::one`].
#[inline(always)]
unsafe fn short<S: Simd, F: Form>(s: S, page: *const u8, head_dim: usize, t: usize, d: usize) -> S::F {
    let mut lanes = [0.0; LANES];
    for (lane, d) in lanes.iter_mut().zip(d..head_dim) {
        // SAFETY: the caller guarantees a page of this form and head size, and positions within it.
        *lane = unsafe { F::one(page, head_dim, t, d) };
    }
    // SAFETY: 16 values.
    unsafe { s.load(lanes.as_ptr()) }
}

/// Turns a query's scores into weights relative to its running maximum; positions outside `seen` get weight 0. Returns the
/// factor that rescales the sums so far. A score that is NaN or infinite makes every weight NaN, so it reaches the output.
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
        // `max` may drop a NaN; a sum can't.
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
