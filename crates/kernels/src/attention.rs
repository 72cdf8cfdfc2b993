//! Attention over a paged KV cache with an online softmax (FlashAttention, arXiv 2205.14135): scores of one page at a
//! time, running maximum, sum and weighted values per query.
//!
//! A page holds [`PAGE`] positions of one KV head: keys transposed, `[head_dim, PAGE]`, so that 16 positions' scores are
//! one vector; values `[PAGE, head_dim]`. Pages are visited in order of position and each query's arithmetic is
//! independent of the others', so results do not depend on how a prompt was cut into batches.

use crate::simd::{LANES, Op, Simd};
use half::f16;

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

/// Working memory of [`Attend`]; reused, grows to `queries · (head_dim + 2)` and two pages of `f32`.
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

/// Queries whose scores are computed together, so that a key vector is loaded once for all.
const TILE: usize = 4;

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
        for index in first / PAGE..last.div_ceil(PAGE) {
            let bytes = page(index);
            assert_eq!(bytes.len(), kv.page_bytes(head_dim));
            let floats: &[f32] = match kv {
                KvType::F32 => bytemuck::cast_slice(bytes),
                KvType::F16 => {
                    widen(s, bytemuck::cast_slice(bytes), widened);
                    widened
                }
            };
            let (keys, values) = floats.split_at(PAGE * head_dim);
            let tiles = queries.chunks(TILE).zip(acc.chunks_mut(TILE * head_dim)).zip(state.chunks_mut(TILE));
            for ((queries, acc), state) in tiles {
                // a short last tile repeats its last query for the scores only
                let q: [*const f32; TILE] = std::array::from_fn(|i| queries[i.min(queries.len() - 1)].q);
                // SAFETY: each query points to `head_dim` values; `keys` is `[head_dim, PAGE]`.
                let scores = unsafe { scores(s, &q, keys, scale) };
                for (i, query) in queries.iter().enumerate() {
                    let (from, to) = (query.from.max(index * PAGE), query.to.min((index + 1) * PAGE));
                    if from < to {
                        let seen = from - index * PAGE..to - index * PAGE;
                        add_page(
                            s,
                            &scores[i],
                            seen,
                            values,
                            &mut acc[i * head_dim..][..head_dim],
                            &mut state[i],
                        );
                    }
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

/// `f16` to `f32`, exactly.
#[inline(always)]
fn widen<S: Simd>(s: S, from: &[f16], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
        // SAFETY: both chunks are 16 long; a page is a multiple of 16 values.
        unsafe { s.store(to.as_mut_ptr(), s.load_f16(from.as_ptr())) }
    }
}

/// Scaled scores of four queries against a page's keys, `[TILE, PAGE]`.
///
/// # Safety
/// Each query is readable for `keys.len() / PAGE` values.
#[inline(always)]
unsafe fn scores<S: Simd>(s: S, q: &[*const f32; TILE], keys: &[f32], scale: f32) -> [[f32; PAGE]; TILE] {
    let mut sums = [[s.splat(0.0); PAGE / LANES]; TILE];
    for (d, column) in keys.chunks_exact(PAGE).enumerate() {
        // SAFETY: a column is PAGE long; the caller vouches for the queries.
        unsafe {
            let (k0, k1) = (s.load(column.as_ptr()), s.load(column.as_ptr().add(LANES)));
            for i in 0..TILE {
                let x = s.splat(*q[i].add(d));
                sums[i][0] = s.fma(k0, x, sums[i][0]);
                sums[i][1] = s.fma(k1, x, sums[i][1]);
            }
        }
    }
    let mut out = [[0.0; PAGE]; TILE];
    for (out, sums) in out.iter_mut().zip(sums) {
        for (j, sum) in sums.into_iter().enumerate() {
            // SAFETY: `out` is PAGE long.
            unsafe { s.store(out.as_mut_ptr().add(j * LANES), s.mul(sum, s.splat(scale))) };
        }
    }
    out
}

/// Folds one page into a query's running softmax: `seen` are the positions it may look at.
#[inline(always)]
fn add_page<S: Simd>(
    s: S,
    scores: &[f32; PAGE],
    seen: std::ops::Range<usize>,
    values: &[f32],
    acc: &mut [f32],
    state: &mut (f32, f32),
) {
    let mut masked = [f32::NEG_INFINITY; PAGE];
    masked[seen.clone()].copy_from_slice(&scores[seen.clone()]);
    let head_dim = acc.len();
    let (old_max, old_sum) = *state;
    let mut weights = [0.0; PAGE];
    // SAFETY: `masked` and `weights` are PAGE = 2 · LANES long.
    let (max, sum, shrink) = unsafe {
        let (a, b) = (s.load(masked.as_ptr()), s.load(masked.as_ptr().add(LANES)));
        // a NaN score must not be lost to max: the plain scan keeps it out of `max`, the exponential puts it in `sum`
        let max = old_max.max(s.max_lane(s.max(a, b)));
        let (a, b) = (s.exp(s.sub(a, s.splat(max))), s.exp(s.sub(b, s.splat(max))));
        s.store(weights.as_mut_ptr(), a);
        s.store(weights.as_mut_ptr().add(LANES), b);
        for (i, w) in weights.iter_mut().enumerate() {
            if !seen.contains(&i) {
                *w = 0.0;
            } else if masked[i].is_nan() {
                *w = f32::NAN;
            }
        }
        let sum = s.sum(s.add(s.load(weights.as_ptr()), s.load(weights.as_ptr().add(LANES))));
        let shrink = if old_max == f32::NEG_INFINITY { 0.0 } else { (old_max - max).exp() };
        (max, old_sum * shrink + sum, shrink)
    };
    *state = (max, sum);
    let mut d = 0;
    while d < head_dim {
        let left = head_dim - d;
        // SAFETY: `left` values are there in `acc` and in every row of `values`.
        unsafe {
            let at = acc.as_mut_ptr().add(d);
            let whole = left >= LANES;
            let mut sum =
                s.mul(if whole { s.load(at) } else { s.load_partial(at, left, 0.0) }, s.splat(shrink));
            for t in seen.clone() {
                let row = values.as_ptr().add(t * head_dim + d);
                let v = if whole { s.load(row) } else { s.load_partial(row, left, 0.0) };
                sum = s.fma(v, s.splat(weights[t]), sum);
            }
            if whole { s.store(at, sum) } else { s.store_partial(at, left, sum) }
        }
        d += LANES;
    }
}
