//! Activations in the forms that matmuls read: `f32`, `bf16` pairs, or signed bytes with a scale per group.
//!
//! The quantised form takes one scale per [`GROUP`] values. Larger groups cost a multiply less but lose too much to outliers:
//! SmolLM2's perplexity is 0.1% above llama.cpp's with groups of 32, 0.3% with 64, 0.4% with 128, and from 64 on its greedy
//! texts part. Sums of each 16 and 32 codes go with it, so that zero points and mins cost one operation a block.
//!
//! Blocks of [`TILE`] tokens are interleaved, with their scales and sums beside them: a register tile reads one stream from
//! front to back, at offsets that are constants, instead of four arrays times its tokens.

use crate::simd::{LANES, Op, Simd};

/// Values that share an activation scale.
pub const GROUP: usize = 32;
/// Tokens whose quantised blocks lie side by side: as many as the widest register tile takes.
pub const TILE: usize = 6;

/// What form of activations a weight type is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActKind {
    /// `f32` rows.
    F32,
    /// `bf16` rows, zero-padded to an even length.
    Bf16,
    /// Signed bytes with scales and sums.
    Quant,
}

/// A matrix of activations, `[tokens, cols]`, in the forms asked for. Buffers only grow.
#[derive(Debug, Default)]
pub struct Acts {
    tokens: usize,
    cols: usize,
    /// `[tokens, cols]`
    pub(crate) f32: Vec<f32>,
    /// `[tokens, cols / 2 rounded up]`, two `bf16` each
    pub(crate) bf16: Vec<u32>,
    /// `[tokens / TILE rounded up, cols / 32]`
    pub(crate) blocks: Vec<ActBlock>,
}

/// 32 quantised values of each of [`TILE`] tokens: `value = scale · code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActBlock {
    /// −127..=127
    pub codes: [[i8; 32]; TILE],
    /// NaN where the group held NaN or infinity, so that it shows in every result
    pub scales: [f32; TILE],
    /// Negated sums of the 32 codes
    pub neg32: [i32; TILE],
    /// Negated sums of the first and the last 16 codes
    pub neg16: [[i32; TILE]; 2],
}

impl Acts {
    /// No activations yet.
    pub fn new() -> Acts {
        Acts::default()
    }

    /// Sets the shape and makes room in the forms that `kinds` names; rows are then filled by [`Acts::rows`].
    pub fn reset(&mut self, tokens: usize, cols: usize, kinds: &[ActKind]) {
        (self.tokens, self.cols) = (tokens, cols);
        grow(&mut self.f32, tokens * cols);
        if kinds.contains(&ActKind::Bf16) {
            grow(&mut self.bf16, tokens * cols.div_ceil(2));
        }
        if kinds.contains(&ActKind::Quant) {
            assert!(cols.is_multiple_of(32), "quantised activations come in blocks of 32, not {cols}");
            grow(&mut self.blocks, tokens.div_ceil(TILE) * (cols / GROUP));
        }
    }

    /// Tokens: rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The `f32` rows, `[tokens * cols]`.
    pub fn f32(&self) -> &[f32] {
        &self.f32[..self.tokens * self.cols]
    }

    /// Access to single rows from several threads at once, to fill them.
    pub fn rows(&mut self) -> ActRows {
        ActRows {
            cols: self.cols,
            tokens: self.tokens,
            f32: self.f32.as_mut_ptr(),
            bf16: self.bf16.as_mut_ptr(),
            blocks: self.blocks.as_mut_ptr(),
        }
    }

    /// The first block of the tile that token `t` belongs to.
    pub(crate) fn tile(&self, t: usize) -> *const ActBlock {
        self.blocks[t / TILE * (self.cols / GROUP)..].as_ptr()
    }
}

fn grow<T: Clone + Default>(v: &mut Vec<T>, len: usize) {
    if v.len() < len {
        v.resize(len, T::default());
    }
}

/// The rows of an [`Acts`], for threads that each fill different ones. Must not outlive it or be used after
/// [`Acts::reset`].
#[derive(Clone, Copy, Debug)]
pub struct ActRows {
    cols: usize,
    tokens: usize,
    f32: *mut f32,
    bf16: *mut u32,
    blocks: *mut ActBlock,
}

// SAFETY: only addresses; `row` and `convert` demand of their callers that threads keep to different rows.
unsafe impl Send for ActRows {}
// SAFETY: as above.
unsafe impl Sync for ActRows {}

impl ActRows {
    /// One row's `f32` values, `[cols]`.
    ///
    /// # Safety
    /// The [`Acts`] still lives unchanged, `t` is one of its tokens, and no other thread touches that row.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn row<'a>(&self, t: usize) -> &'a mut [f32] {
        debug_assert!(t < self.tokens);
        // SAFETY: the caller's word; `reset` made room for every row.
        unsafe { std::slice::from_raw_parts_mut(self.f32.add(t * self.cols), self.cols) }
    }

    /// Makes row `t`'s other forms out of its `f32` values, by the rules of `kinds` as given to [`Acts::reset`].
    ///
    /// # Safety
    /// As for [`ActRows::row`].
    pub unsafe fn convert(&self, isa: crate::Isa, t: usize, kinds: &[ActKind]) {
        let cols = self.cols;
        for kind in kinds {
            // SAFETY: the caller's word that the row is ours; the offsets are those `reset` made room for.
            unsafe {
                match kind {
                    ActKind::F32 => {}
                    ActKind::Bf16 => {
                        let row: &[f32] = self.row(t);
                        let half = cols.div_ceil(2);
                        let out = std::slice::from_raw_parts_mut(self.bf16.add(t * half), half);
                        for (o, pair) in out.iter_mut().zip(row.chunks(2)) {
                            let bits =
                                |i: usize| pair.get(i).map_or(0, |&v| half::bf16::from_f32(v).to_bits());
                            *o = u32::from(bits(0)) | (u32::from(bits(1)) << 16);
                        }
                    }
                    ActKind::Quant => isa.run(QuantizeRow {
                        src: self.row(t),
                        blocks: self.blocks.add(t / TILE * (cols / GROUP)),
                        lane: t % TILE,
                    }),
                }
            }
        }
    }
}

/// Quantises one row: per group the largest magnitude becomes ±127.
struct QuantizeRow<'a> {
    /// `[cols]`
    src: &'a [f32],
    /// `[cols / 32]`
    blocks: *mut ActBlock,
    /// Which of a block's tokens the row is.
    lane: usize,
}

impl Op for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (g, group) in self.src.chunks_exact(GROUP).enumerate() {
            // SAFETY: the row is a multiple of GROUP = 32 = 2 · LANES long (`Acts::reset`) and has a block for each; the
            // lane of each block is this row's alone.
            unsafe {
                let block = self.blocks.add(g);
                let (a, b) = (s.load(group.as_ptr()), s.load(group.as_ptr().add(LANES)));
                let amax = s.max_lane(s.max(s.abs(a), s.abs(b)));
                // a NaN may hide from max, never from a sum
                let finite = s.sum(s.add(s.abs(a), s.abs(b))).is_finite();
                (&raw mut (*block).scales[self.lane]).write(if finite { amax / 127.0 } else { f32::NAN });
                let inverse = s.splat(if finite && amax > 0.0 { 127.0 / amax } else { 0.0 });
                let codes = (&raw mut (*block).codes[self.lane]).cast::<i8>();
                let mut whole = 0;
                for (half, v) in [a, b].into_iter().enumerate() {
                    // codes of a group that isn't finite mean nothing: its NaN scale says it all
                    let v = if finite { v } else { s.splat(0.0) };
                    let rounded = s.round(s.mul(v, inverse));
                    s.store_i8(codes.add(half * LANES), rounded);
                    let sum = s.sum(s.to_f(rounded)) as i32;
                    (&raw mut (*block).neg16[half][self.lane]).write(-sum);
                    whole += sum;
                }
                (&raw mut (*block).neg32[self.lane]).write(-whole);
            }
        }
    }
}
