//! [`Attend`]: the online softmax of some queries over the pages of one KV head, split by split, and [`Merge`] of splits.

use super::form::{Code, Halves, Whole, Widen};
use super::kv_type::KvType;
use super::layout::{PAGE, SPLIT};
use super::page::Walk;
use super::query::Query;
use crate::Isa;
use crate::simd::{LANES, Op, Simd};
use half::f16;

/// Working memory of [`Attend`]; reused, grows to `2 · queries · (head_dim + 2)` and one page of `f32`.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Of the splits so far.
    total: Sums,
    /// Of one split.
    part: Sums,
    /// A page widened to `f32`, with its scales.
    page: Vec<f32>,
}

/// Softmaxes in progress.
#[derive(Debug, Default)]
struct Sums {
    /// Unnormalised outputs `[queries, head_dim]`
    acc: Vec<f32>,
    /// Running maximum and sum, `[queries]`
    state: Vec<(f32, f32)>,
}

/// The state of a query before its first position.
const EMPTY: (f32, f32) = (f32::NEG_INFINITY, 0.0);

impl Sums {
    fn clear(&mut self, queries: usize, head_dim: usize) {
        self.acc.clear();
        self.acc.resize(queries * head_dim, 0.0);
        self.state.clear();
        self.state.resize(queries, EMPTY);
    }
}

/// Attention of some queries that share one KV head (of one sequence).
pub struct Attend<'a> {
    /// The queries: those of one token are adjacent, and tokens are in order.
    pub queries: &'a [Query],
    /// Values in a head.
    pub head_dim: usize,
    /// Multiplies the scores: `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// If set, scaled scores become `softcap · tanh(score / softcap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// How the pages store keys and values.
    pub kv: KvType,
    /// The bytes of the page that holds position `i · PAGE`, for this KV head.
    pub page: &'a dyn Fn(usize) -> &'a [u8],
    /// Working memory.
    pub scratch: &'a mut Scratch,
    /// `None`: everything that the queries see. Otherwise only the positions from `split · SPLIT` on: every query's unnormalised
    /// output, maximum and sum, `[head_dim + 2]`, for [`Merge`]. Queries that see none of the split get an empty result.
    pub split: Option<usize>,
}

/// Merges the results of [`Attend`] for one query, split by split, into its output.
#[derive(Debug)]
pub struct Merge<'a> {
    /// `[splits, stride]`, in order of position; the first `head_dim + 2` values of each row are read.
    pub parts: &'a [f32],
    /// Values from one split's row to the next.
    pub stride: usize,
    /// `[head_dim]`, written.
    pub out: &'a mut [f32],
    /// The query's attention sink: see [`Query::with_sink`].
    pub sink: Option<f32>,
}

/// From this number of query tiles on, a page is widened to `f32` once; with fewer, values are converted as they are loaded.
const WIDEN_FROM: usize = 3;

impl Attend<'_> {
    /// Runs the kernel on an instruction set.
    ///
    /// # Panics
    /// If the length of a query or an output does not fit `head_dim`, or that of a page does not fit its type, or if the
    /// softcap is not positive.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for Attend<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (queries, head_dim) = (self.queries, self.head_dim);
        let lens = (head_dim, if self.split.is_some() { head_dim + 2 } else { head_dim });
        assert!(queries.iter().all(|q| q.lens == lens), "queries and outputs of one head");
        assert!(self.softcap.is_none_or(|cap| cap > 0.0), "a softcap above zero");
        let Some(first) = queries.iter().map(|q| q.from).min() else { return };
        let last = queries.iter().map(|q| q.to).max().unwrap_or(0);
        self.scratch.total.clear(queries.len(), head_dim);
        let splits = self.split.map_or(first / SPLIT..last.div_ceil(SPLIT), |split| split..split + 1);
        for split in splits {
            self.split(s, split, first, last);
            let Scratch { total, part, .. } = &mut *self.scratch;
            for (i, &state) in part.state.iter().enumerate() {
                let own = i * head_dim..(i + 1) * head_dim;
                merge(s, &mut total.acc[own.clone()], &mut total.state[i], &part.acc[own], state);
            }
        }
        let Sums { acc, state } = &self.scratch.total;
        for (i, query) in queries.iter().enumerate() {
            let acc = &acc[i * head_dim..][..head_dim];
            // SAFETY: the length of `out` was checked; the query's creator guarantees that it is valid and exclusively ours.
            unsafe {
                if self.split.is_some() {
                    let out = std::slice::from_raw_parts_mut(query.out, head_dim + 2);
                    out[..head_dim].copy_from_slice(acc);
                    (out[head_dim], out[head_dim + 1]) = state[i];
                } else {
                    normalise(
                        acc,
                        total(state[i], query.sink),
                        std::slice::from_raw_parts_mut(query.out, head_dim),
                    );
                }
            }
        }
    }
}

impl Merge<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for Merge<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.out.len();
        let mut state = EMPTY;
        self.out.fill(0.0);
        for part in self.parts.chunks(self.stride) {
            merge(s, self.out, &mut state, &part[..head_dim], (part[head_dim], part[head_dim + 1]));
        }
        let total = total(state, self.sink);
        for v in self.out {
            *v /= total;
        }
    }
}

/// Adds a later split's softmax to those before it.
#[inline(always)]
fn merge<S: Simd>(s: S, acc: &mut [f32], state: &mut (f32, f32), part: &[f32], of_part: (f32, f32)) {
    if of_part == EMPTY {
        return;
    }
    if *state == EMPTY {
        acc.copy_from_slice(part);
        *state = of_part;
        return;
    }
    let max = if state.0.is_nan() || of_part.0.is_nan() { f32::NAN } else { state.0.max(of_part.0) };
    let (keep, take) = ((state.0 - max).exp(), (of_part.0 - max).exp());
    for (a, p) in acc.chunks_mut(LANES).zip(part.chunks(LANES)) {
        if a.len() == LANES {
            // SAFETY: both are 16 values.
            unsafe {
                let taken = s.mul(s.load(p.as_ptr()), s.splat(take));
                s.store(a.as_mut_ptr(), s.fma(s.load(a.as_ptr()), s.splat(keep), taken));
            }
        } else {
            for (a, p) in a.iter_mut().zip(p) {
                *a = *a * keep + *p * take;
            }
        }
    }
    *state = (max, state.1 * keep + of_part.1 * take);
}

/// What a softmax's outputs are divided by: its sum, and the share of the sink.
fn total((max, sum): (f32, f32), sink: Option<f32>) -> f32 {
    match sink {
        None => sum,
        Some(sink) => sum + (sink - max).exp(),
    }
}

fn normalise(acc: &[f32], sum: f32, out: &mut [f32]) {
    for (out, a) in out.iter_mut().zip(acc) {
        *out = a / sum;
    }
}

impl Attend<'_> {
    /// The softmax of one split, into `scratch.part`; no query sees positions outside `first..last`.
    #[inline(always)]
    fn split<S: Simd>(&mut self, s: S, split: usize, first: usize, last: usize) {
        let (queries, head_dim) = (self.queries, self.head_dim);
        let Scratch { part, page: widened, .. } = &mut *self.scratch;
        part.clear(queries.len(), head_dim);
        let from = (split * SPLIT).max(first) / PAGE;
        let to = ((split + 1) * SPLIT).min(last).div_ceil(PAGE);
        for index in from..to {
            let bytes = (self.page)(index);
            assert_eq!(bytes.len(), self.kv.page_bytes(head_dim));
            // Also prefetches the next split, which is likely this thread's next work.
            let ahead = (self.page)(if index + 1 < last.div_ceil(PAGE) { index + 1 } else { index }).as_ptr();
            let Sums { acc, state } = &mut *part;
            let walk = Walk {
                queries,
                acc,
                state,
                head_dim,
                scale: self.scale,
                softcap: self.softcap,
                index,
                ahead,
            };
            let wide = queries.len() >= WIDEN_FROM * S::QUERIES;
            // SAFETY: the page was just checked to have the length of this type and head size, and any bytes of that length are a
            // valid page; a widened page is `Whole`. The lengths of the queries were checked, too.
            unsafe {
                match self.kv {
                    KvType::F32 => walk.run::<S, Whole<f32>>(s, bytes.as_ptr()),
                    KvType::F16 if !wide => walk.run::<S, Whole<f16>>(s, bytes.as_ptr()),
                    KvType::Q8_0 if !wide => walk.run::<S, Whole<i8>>(s, bytes.as_ptr()),
                    KvType::Q4_0 if !wide => walk.run::<S, Halves>(s, bytes.as_ptr()),
                    kv => {
                        match kv {
                            KvType::Q4_0 => s.vectorize(Widen::<Halves>::new(bytes, head_dim, widened)),
                            KvType::Q8_0 => s.vectorize(Widen::<Whole<i8>>::new(bytes, head_dim, widened)),
                            _ => s.vectorize(Widen::<Whole<f16>>::new(bytes, head_dim, widened)),
                        }
                        let page = widened.as_ptr().cast();
                        let walk = Walk { ahead: page, ..walk };
                        if kv == KvType::F16 {
                            walk.run::<S, Whole<f32>>(s, page);
                        } else {
                            walk.run::<S, Whole<Code>>(s, page);
                        }
                    }
                }
            }
        }
    }
}
