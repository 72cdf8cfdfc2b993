//! Attention over a paged KV cache with an online softmax (FlashAttention, arXiv 2205.14135): scores of one page at a
//! time, running maximum, sum and weighted values per query.
//!
//! A page holds [`PAGE`] positions of one KV head: keys transposed, `[head_dim, PAGE]`, so that 16 positions' scores are
//! one vector; values `[PAGE, head_dim]`. Pages are visited in order of position and each query's arithmetic is
//! independent of the others', so results do not depend on how a prompt was cut into batches.

use crate::simd::{LANES, Op, Simd};
use half::f16;
use std::ops::Range;

/// Positions in a KV page.
pub const PAGE: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Two bytes a value.
    F16,
    /// Four bytes a value.
    F32,
}

impl KvType {
    /// Bytes a value.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }

    /// The name, as the command line takes it.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        }
    }

    /// Bytes of one page of one KV head: keys, then values.
    pub const fn page_bytes(self, head_dim: usize) -> usize {
        2 * PAGE * head_dim * self.bytes()
    }
}

/// Writes one position's key and value, `[head_dim]` each, into a page.
#[derive(Debug)]
pub struct StoreKv<'a> {
    /// The page of one KV head, `[2, PAGE · head_dim]` values.
    pub page: &'a mut [u8],
    /// How the page stores them.
    pub kv: KvType,
    /// The position within the page.
    pub at: usize,
    /// The key, RoPE applied.
    pub key: &'a [f32],
    /// The value.
    pub value: &'a [f32],
}

impl StoreKv<'_> {
    /// Writes them.
    ///
    /// # Panics
    /// If the page isn't one of this head size, or `at` is beyond it.
    pub fn run(self) {
        let head_dim = self.key.len();
        assert!(self.at < PAGE && self.value.len() == head_dim);
        assert_eq!(self.page.len(), self.kv.page_bytes(head_dim));
        match self.kv {
            KvType::F16 => {
                let (keys, values) =
                    bytemuck::cast_slice_mut::<u8, f16>(self.page).split_at_mut(PAGE * head_dim);
                for (column, &k) in keys.chunks_exact_mut(PAGE).zip(self.key) {
                    column[self.at] = f16::from_f32(k);
                }
                for (v, &x) in values[self.at * head_dim..].iter_mut().zip(self.value) {
                    *v = f16::from_f32(x);
                }
            }
            KvType::F32 => {
                let (keys, values) =
                    bytemuck::cast_slice_mut::<u8, f32>(self.page).split_at_mut(PAGE * head_dim);
                for (column, &k) in keys.chunks_exact_mut(PAGE).zip(self.key) {
                    column[self.at] = k;
                }
                values[self.at * head_dim..][..head_dim].copy_from_slice(self.value);
            }
        }
    }
}

/// One query of [`Attend`]: a head of a token.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// `[head_dim]`, RoPE applied.
    pub q: *const f32,
    /// `[head_dim]`, written.
    pub out: *mut f32,
    /// First position it sees.
    pub from: usize,
    /// One past the last position it sees; more than `from`.
    pub to: usize,
}

/// Working memory of [`Attend`]; reused, grows to `queries · (head_dim + 2)` and one page of `f32`.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Unnormalised outputs `[queries, head_dim]`
    acc: Vec<f32>,
    /// Running maximum and sum, `[queries]`
    state: Vec<(f32, f32)>,
    /// A page widened to `f32`.
    page: Vec<f32>,
}

/// Attention of some queries that share one KV head (of one sequence).
#[derive(Debug)]
pub struct Attend<'a, P> {
    /// The queries; those of the same token and of later ones together.
    pub queries: &'a [Query],
    /// Values in a head.
    pub head_dim: usize,
    /// Multiplies the scores: `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How the pages store keys and values.
    pub kv: KvType,
    /// The bytes of the page that holds position `i · PAGE`, for this KV head.
    pub page: P,
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

/// Queries that walk over a page together, so that a key or value is loaded once for all.
const TILE: usize = 4;
/// From so many queries on a page is widened to `f32` once; fewer convert as they load.
const WIDEN_FROM: usize = 3 * TILE;

impl<'p, P: Fn(usize) -> &'p [u8]> Op for Attend<'_, P> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attend { queries, head_dim, scale, kv, page, scratch } = self;
        let Scratch { acc, state, page: widened } = scratch;
        let Some(first) = queries.iter().map(|q| q.from).min() else { return };
        let last = queries.iter().map(|q| q.to).max().unwrap_or(0);
        acc.clear();
        acc.resize(queries.len() * head_dim, 0.0);
        state.clear();
        state.resize(queries.len(), (f32::NEG_INFINITY, 0.0));
        let pages = first / PAGE..last.div_ceil(PAGE);
        for index in pages.clone() {
            let bytes = page(index);
            assert_eq!(bytes.len(), kv.page_bytes(head_dim));
            if index + 1 < pages.end {
                for line in page(index + 1).chunks(64) {
                    s.prefetch(line.as_ptr());
                }
            }
            let walk = Walk { queries, acc, state, head_dim, scale, index };
            match kv {
                KvType::F32 => walk.run(s, bytemuck::cast_slice::<u8, f32>(bytes)),
                KvType::F16 if queries.len() < WIDEN_FROM => {
                    walk.run(s, bytemuck::cast_slice::<u8, f16>(bytes))
                }
                KvType::F16 => {
                    widen(s, bytemuck::cast_slice(bytes), widened);
                    walk.run(s, widened);
                }
            }
        }
        for (i, query) in queries.iter().enumerate() {
            let sum = state[i].1;
            for (j, &a) in acc[i * head_dim..][..head_dim].iter().enumerate() {
                // SAFETY: `out` is writable for `head_dim` values.
                unsafe { *query.out.add(j) = a / sum };
            }
        }
    }
}

/// What a page's values are stored as.
trait Element: Copy {
    /// Reads 16 values.
    ///
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller's word.
        unsafe { s.load(p) }
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
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// `f16` to `f32`, exactly.
#[inline(always)]
fn widen<S: Simd>(s: S, from: &[f16], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
        // SAFETY: both chunks are 16 long; a page is a multiple of 16 values.
        unsafe { s.store(to.as_mut_ptr(), s.load_f16(from.as_ptr())) }
    }
}

/// All queries' way over one page.
struct Walk<'a> {
    queries: &'a [Query],
    acc: &'a mut [f32],
    state: &'a mut [(f32, f32)],
    head_dim: usize,
    scale: f32,
    /// The page's number: it holds positions from `index · PAGE` on.
    index: usize,
}

impl Walk<'_> {
    #[inline(always)]
    fn run<S: Simd, E: Element>(self, s: S, page: &[E]) {
        let tiles = self.queries.chunks(TILE).zip(self.acc.chunks_mut(TILE * self.head_dim));
        for ((queries, acc), state) in tiles.zip(self.state.chunks_mut(TILE)) {
            let tile = Tile { queries, head_dim: self.head_dim, scale: self.scale, index: self.index };
            match queries.len() {
                1 => tile.fold::<S, E, 1>(s, page, acc, state),
                2 => tile.fold::<S, E, 2>(s, page, acc, state),
                3 => tile.fold::<S, E, 3>(s, page, acc, state),
                _ => tile.fold::<S, E, TILE>(s, page, acc, state),
            }
        }
    }
}

/// Up to [`TILE`] queries on one page.
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
