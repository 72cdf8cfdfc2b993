//! Activations in the forms that matmuls read: `f32`, `bf16` pairs, or signed bytes with a scale per group.
//!
//! The quantised form takes one scale per [`GROUP`] values. Larger groups cost a multiply less but lose too much to outliers:
//! SmolLM2's perplexity is 0.1% above llama.cpp's with groups of 32, 0.3% with 64, 0.4% with 128, and from 64 on its greedy
//! texts part. Sums of each 16 and 32 codes go with it, so that zero points and mins cost one operation a block.

use crate::simd::{LANES, Op, Simd};

/// Values that share an activation scale.
pub const GROUP: usize = 32;

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
    pub(crate) quant: QuantActs,
}

/// Quantised activations: `value = scale[group] · code`.
#[derive(Debug, Default)]
pub(crate) struct QuantActs {
    /// `[tokens, cols]`, −127..=127
    pub codes: Vec<i8>,
    /// `[tokens, groups]`; NaN where the group held NaN or infinity, so that it shows in every result
    pub scales: Vec<f32>,
    /// Negated sums of 16 codes, `[tokens, cols / 16]`
    pub neg16: Vec<i32>,
    /// Negated sums of 32 codes, `[tokens, cols / 32]`
    pub neg32: Vec<i32>,
    /// Sums of 16 values (scale · codes), `[tokens, cols / 16]`
    pub sum16: Vec<f32>,
    /// Sums of 32 values, `[tokens, cols / 32]`
    pub sum32: Vec<f32>,
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
            grow(&mut self.quant.codes, tokens * cols);
            grow(&mut self.quant.scales, tokens * cols / GROUP);
            grow(&mut self.quant.neg16, tokens * cols / 16);
            grow(&mut self.quant.neg32, tokens * cols / 32);
            grow(&mut self.quant.sum16, tokens * cols / 16);
            grow(&mut self.quant.sum32, tokens * cols / 32);
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
            codes: self.quant.codes.as_mut_ptr(),
            scales: self.quant.scales.as_mut_ptr(),
            neg16: self.quant.neg16.as_mut_ptr(),
            neg32: self.quant.neg32.as_mut_ptr(),
            sum16: self.quant.sum16.as_mut_ptr(),
            sum32: self.quant.sum32.as_mut_ptr(),
        }
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
    codes: *mut i8,
    scales: *mut f32,
    neg16: *mut i32,
    neg32: *mut i32,
    sum16: *mut f32,
    sum32: *mut f32,
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
                        codes: self.codes.add(t * cols),
                        scales: self.scales.add(t * cols / GROUP),
                        neg16: self.neg16.add(t * cols / 16),
                        neg32: self.neg32.add(t * cols / 32),
                        sum16: self.sum16.add(t * cols / 16),
                        sum32: self.sum32.add(t * cols / 32),
                    }),
                }
            }
        }
    }
}

/// Quantises one row: per group the largest magnitude becomes ±127.
struct QuantizeRow<'a> {
    src: &'a [f32],
    codes: *mut i8,
    scales: *mut f32,
    neg16: *mut i32,
    neg32: *mut i32,
    sum16: *mut f32,
    sum32: *mut f32,
}

impl Op for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (g, group) in self.src.chunks_exact(GROUP).enumerate() {
            // SAFETY: the row is a multiple of GROUP = 32 long (`Acts::reset`); the outputs hold the row's
            // codes, scales and sums (`ActRows::convert`).
            unsafe {
                let (mut top, mut total) = (s.splat(0.0), s.splat(0.0));
                for v in group.chunks_exact(LANES) {
                    let v = s.abs(s.load(v.as_ptr()));
                    top = s.max(top, v);
                    total = s.add(total, v);
                }
                let amax = s.max_lane(top);
                // a NaN may hide from max, never from a sum
                let finite = s.sum(total).is_finite();
                let scale = if finite { amax / 127.0 } else { f32::NAN };
                *self.scales.add(g) = scale;
                let inverse = s.splat(if finite && amax > 0.0 { 127.0 / amax } else { 0.0 });
                let mut whole = 0;
                for half in 0..GROUP / LANES {
                    let at = g * GROUP + half * LANES;
                    // codes of a group that isn't finite mean nothing: its NaN scale says it all
                    let v = if finite { s.load(self.src.as_ptr().add(at)) } else { s.splat(0.0) };
                    let codes = s.round(s.mul(v, inverse));
                    s.store_i8(self.codes.add(at), codes);
                    let sum = s.sum(s.to_f(codes)) as i32;
                    *self.neg16.add(at / 16) = -sum;
                    *self.sum16.add(at / 16) = scale * sum as f32;
                    whole += sum;
                }
                *self.neg32.add(g) = -whole;
                *self.sum32.add(g) = scale * whole as f32;
            }
        }
    }
}
