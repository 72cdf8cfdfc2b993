//! Matrix multiplication: packed weights × activations, for one token or many, spread over the pool.
//!
//! Several products of the same activations run as one parallel loop over all their panels. A thread takes a range of panels;
//! for each block of tokens that fits its L2 cache it streams these panels, a few at a time, through register tiles (`tile/`).
//!
//! The arithmetic of one token and row does not depend on the tile, the batch or the number of threads, so results do not
//! depend on the rest of the batch.

use crate::activations::{self, ActivationKind, Activations};
use crate::format::with_format;
use crate::memory::SharedPtr;
use crate::pack::{GROUP, Packed};
use crate::pool::Pool;
use crate::simd::{LANES, Op, Simd};
use crate::tile::{Bf16, Bf16Dot, F8E4M3, F16, F32, Panels, Quant, Tile};
use crate::{DType, Isa};
use std::marker::PhantomData;
use std::ops::Range;

/// Tokens whose activations stay in the L2 cache while panels are streamed: whole tiles.
const TOKEN_BLOCK: usize = 10 * activations::TILE;
/// Maximum number of products in one loop.
const MAX_JOBS: usize = 4;

/// One product of a [`matmul`]: `out[t, r] = Σ_k activations[t, k] · weights[r, k]`.
#[derive(Debug)]
pub struct Job<'a> {
    /// The weights, `[rows, cols]`.
    pub weights: &'a Packed,
    /// `[tokens, stride]`; the first `weights.rows()` values of each row are written.
    pub out: &'a mut [f32],
    /// Values between the starts of two tokens' rows of `out`.
    pub stride: usize,
    /// Adds to `out` instead of overwriting it, for the residual.
    pub add: bool,
}

/// A product for each head of a model, whose weights and activations are its own.
#[derive(Debug)]
pub struct HeadJobs<'a> {
    /// The weights of each head, all `[rows, cols]` and of one type.
    pub weights: &'a [Packed],
    /// Tokens.
    pub tokens: usize,
    /// `[tokens, stride]`; the first `rows` values from `h · step` on of each row are written for head `h`.
    pub out: &'a mut [f32],
    /// Values between the starts of two tokens' rows of `out`.
    pub stride: usize,
    /// Values between the starts of two heads' columns of `out`.
    pub step: usize,
}

/// Rows of activations from one head's first token to the next head's, for [`matmul_heads`]: whole tiles.
pub fn rows_of_head(tokens: usize) -> usize {
    tokens.next_multiple_of(activations::TILE)
}

/// The form of activations for weights of this type.
pub fn activation_kind(isa: Isa, dtype: DType) -> ActivationKind {
    match dtype {
        DType::F32 | DType::F16 | DType::F8_E4M3 => ActivationKind::F32,
        DType::BF16 if isa.bf16_dot() => ActivationKind::Bf16,
        DType::BF16 => ActivationKind::F32,
        _ => ActivationKind::Quant,
    }
}

/// Runs several products of the same activations as one parallel loop (Q, K and V; gate and up).
///
/// # Panics
/// If there are more than four products, if shapes don't fit (`weights.cols() == activations.cols()`, and `out` holds `tokens`
/// rows), or if the activations lack the form that the weights read ([`activation_kind`]).
pub fn matmul(isa: Isa, pool: &Pool, activations: &Activations, jobs: &mut [Job<'_>]) {
    let tokens = activations.tokens();
    if tokens == 0 {
        return;
    }
    assert!(jobs.len() <= MAX_JOBS, "at most {MAX_JOBS} products at once");
    let mut parts = [const { None }; MAX_JOBS];
    let mut panels = 0;
    for (part, job) in parts.iter_mut().zip(jobs) {
        let Job { weights, out, stride, add } = job;
        assert_eq!(weights.cols(), activations.cols(), "columns of weights and activations");
        let kind = activation_kind(isa, weights.dtype());
        assert!(activations.holds(kind), "activations in the form {kind:?}, which {} reads", weights.dtype());
        let needed = (tokens - 1).checked_mul(*stride).and_then(|before| before.checked_add(weights.rows()));
        let room = needed.is_some_and(|needed| needed <= out.len());
        assert!(*stride >= weights.rows() && room, "room for the product");
        let first = panels;
        panels += weights.panels();
        let out = out.as_mut_ptr();
        *part = Some(Part { weights, out, stride: *stride, add: *add, first, rows: 0..tokens });
    }
    // Near the end of the loop, threads take the smallest ranges that still run at full speed, so that they finish together.
    let grain = if tokens == 1 { GROUP } else { GROUP / 2 };
    pool.split(panels, grain, &|range| {
        for part in parts.iter().flatten() {
            let end = part.first + part.weights.panels();
            let (from, to) = (range.start.max(part.first), range.end.min(end));
            if from < to {
                part.run(isa, activations, from - part.first..to - part.first);
            }
        }
    });
}

/// Runs the product of every head as one parallel loop: `out[t, h · step + r] = Σ_k activations[h · n + t, k] · weights[h][r, k]`,
/// where `n` is [`rows_of_head`] of the tokens. Other rows of the activations are not read.
///
/// # Panics
/// If shapes don't fit, or if the activations lack the form that the weights read ([`activation_kind`]).
pub fn matmul_heads(isa: Isa, pool: &Pool, activations: &Activations, jobs: HeadJobs<'_>) {
    let HeadJobs { weights, tokens, out, stride, step } = jobs;
    let (Some(first), true) = (weights.first(), tokens > 0) else { return };
    let (rows, of_head, heads) = (first.rows(), rows_of_head(tokens), weights.len());
    for one in weights {
        let alike = one.rows() == rows && one.cols() == activations.cols() && one.dtype() == first.dtype();
        assert!(alike, "weights of one shape and type, with the columns of the activations");
    }
    let kind = activation_kind(isa, first.dtype());
    assert!(activations.holds(kind), "activations in the form {kind:?}, which {} reads", first.dtype());
    assert_eq!(Some(activations.tokens()), heads.checked_mul(of_head), "rows of activations for every head");
    let columns = (heads - 1).checked_mul(step).and_then(|before| before.checked_add(rows));
    let columns = columns.filter(|&columns| columns <= stride && (rows <= step || heads == 1));
    let needed = columns.and_then(|columns| (tokens - 1).checked_mul(stride)?.checked_add(columns));
    assert!(needed.is_some_and(|needed| needed <= out.len()), "room for the products");
    let (panels, out) = (first.panels(), SharedPtr::new(out));
    pool.split(panels * heads, GROUP, &|range| {
        for h in range.start / panels..range.end.div_ceil(panels) {
            let (from, to) = (range.start.max(h * panels), range.end.min((h + 1) * panels));
            let rows = h * of_head..h * of_head + tokens;
            // SAFETY: the head's columns begin within `out`, as was checked, and `out` is borrowed.
            let out = unsafe { out.at(h * step) };
            let part = Part { weights: &weights[h], out, stride, add: false, first: 0, rows };
            part.run(isa, activations, from - h * panels..to - h * panels);
        }
    });
}

/// A job with its output as an address; threads write disjoint columns of it.
struct Part<'a> {
    weights: &'a Packed,
    out: *mut f32,
    stride: usize,
    add: bool,
    /// The number of this part's first panel, counted over all parts.
    first: usize,
    /// Its rows of the activations, the first of which is the first row of `out`.
    rows: Range<usize>,
}

// SAFETY: `out` is written only in the columns of a range's panels, and ranges are disjoint.
unsafe impl Sync for Part<'_> {}

impl Part<'_> {
    fn run(&self, isa: Isa, activations: &Activations, panels: Range<usize>) {
        match self.weights.dtype() {
            DType::F32 => isa.run_floats(Columns::<F32>::new(self, activations, panels)),
            DType::F16 => isa.run_floats(Columns::<F16>::new(self, activations, panels)),
            DType::F8_E4M3 => isa.run_floats(Columns::<F8E4M3>::new(self, activations, panels)),
            DType::BF16 if isa.bf16_dot() => isa.run(Columns::<Bf16Dot>::new(self, activations, panels)),
            DType::BF16 => isa.run_floats(Columns::<Bf16>::new(self, activations, panels)),
            quantized => {
                with_format!(quantized, F => isa.run_bytes(Columns::<Quant<F>>::new(self, activations, panels)))
            }
        }
    }
}

/// A range of panels times all tokens.
struct Columns<'a, K> {
    part: &'a Part<'a>,
    activations: &'a Activations,
    panels: Range<usize>,
    tile: PhantomData<K>,
}

impl<'a, K> Columns<'a, K> {
    fn new(part: &'a Part<'a>, activations: &'a Activations, panels: Range<usize>) -> Self {
        Columns { part, activations, panels, tile: PhantomData }
    }
}

impl<K: Tile> Op for Columns<'_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if K::BF16_DOT && !S::BF16_DOT {
            unreachable!("chosen only where the set has the instruction");
        }
        let Range { start, end: tokens } = self.part.rows.clone();
        // Panels of the last group may have no rows.
        let end = self.panels.end.min(self.part.weights.rows().div_ceil(LANES));
        let mut block = start;
        while block < tokens {
            let block_end = (block + TOKEN_BLOCK).min(tokens);
            let mut panel = self.panels.start;
            while panel < end {
                // The panels of a tile belong to one group.
                let left = (end - panel).min(GROUP - panel % GROUP);
                // SAFETY: the tokens are within the batch; this range owns the panels' columns of `out`.
                panel += unsafe {
                    if S::STREAMS >= 4 && left >= 4 && block_end - block == 1 {
                        self.tile::<S, 1, 4>(s, panel, block, true);
                        4
                    } else if S::PANELS >= 2 && left >= 2 {
                        self.tokens::<S, 2>(s, panel, block..block_end);
                        2
                    } else {
                        self.tokens::<S, 1>(s, panel, block..block_end);
                        1
                    }
                };
            }
            block = block_end;
        }
    }
}

impl<K: Tile> Columns<'_, K> {
    /// `P` panels times some tokens, in tiles that don't cross a tile boundary of the activations.
    ///
    /// # Safety
    /// The tokens exist, the panels belong to one group, and nothing else writes their columns.
    #[inline(always)]
    unsafe fn tokens<S: Simd, const P: usize>(&self, s: S, panel: usize, tokens: Range<usize>) {
        let mut t = tokens.start;
        while t < tokens.end {
            let cold = t == tokens.start;
            let room = (tokens.end - t).min(activations::TILE - t % activations::TILE);
            // SAFETY: `room` tokens remain in the batch and in their tile; the caller guarantees the rest for all of `tokens`.
            t += unsafe {
                if K::most_tokens::<S>() >= 6 && room >= 6 {
                    self.tile::<S, 6, P>(s, panel, t, cold)
                } else if K::most_tokens::<S>() >= 4 && room >= 4 {
                    self.tile::<S, 4, P>(s, panel, t, cold)
                } else if K::most_tokens::<S>() >= 3 && room >= 3 {
                    self.tile::<S, 3, P>(s, panel, t, cold)
                } else if K::most_tokens::<S>() >= 2 && room >= 2 {
                    self.tile::<S, 2, P>(s, panel, t, cold)
                } else {
                    self.tile::<S, 1, P>(s, panel, t, cold)
                }
            };
        }
    }

    /// Computes one tile and writes it out; returns `T`.
    ///
    /// # Safety
    /// `T` tokens from `t` on exist and are in one tile of the activations; the panels belong to one group, and nothing else
    /// writes their columns.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        &self,
        s: S,
        panel: usize,
        t: usize,
        cold: bool,
    ) -> usize {
        let part = self.part;
        let panels = Panels::<P> { group: part.weights.group(panel / GROUP), first: panel % GROUP, cold };
        // SAFETY: the panels are these weights'; `matmul` checked the columns and that `out` has room.
        unsafe {
            let sums = K::tile::<S, T, P>(s, panels, self.activations, t);
            let factor = s.splat(part.weights.factor());
            for i in 0..T {
                for p in 0..P {
                    let row = (panel + p) * LANES;
                    let out = part.out.add((t + i - part.rows.start) * part.stride + row);
                    let (rows, mut sum) = (part.weights.rows() - row, s.mul(sums[i][p], factor));
                    if rows >= LANES {
                        if part.add {
                            sum = s.add(s.load(out), sum);
                        }
                        s.store(out, sum);
                    } else {
                        if part.add {
                            sum = s.add(s.load_partial(out, rows, 0.0), sum);
                        }
                        s.store_partial(out, rows, sum);
                    }
                }
            }
        }
        T
    }
}
