//! Activations in the forms that matmuls read: `f32`, `bf16` pairs, or signed bytes with a scale per group.
//!
//! The quantised form has one scale per [`GROUP`] values. Larger groups save a multiply but lose too much to outliers:
//! SmolLM2's perplexity is 0.1% above llama.cpp's with groups of 32, 0.3% with 64, 0.4% with 128, and from 64 on the greedy
//! texts differ. Each block also has the sums of its 16 and 32 codes, so zero points and mins cost one operation per block.
//!
//! Blocks of [`TILE`] tokens are interleaved, together with their scales and sums: a register tile reads one sequential
//! stream at constant offsets instead of four arrays per token.

use crate::simd::{LANES, Op, Simd};
use std::marker::PhantomData;

/// Values that share an activation scale.
pub const GROUP: usize = 32;
/// Tokens whose quantised blocks are interleaved: as many as the widest register tile takes.
pub const TILE: usize = 6;

/// The form of activations that a weight type is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `f32` rows.
    F32,
    /// `bf16` rows, zero-padded to an even length.
    Bf16,
    /// Signed bytes with scales and sums.
    Quant,
}

/// A matrix of activations, `[tokens, cols]`, in the requested forms. Buffers only grow.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    forms: Forms,
    /// `[tokens, cols]`
    pub(crate) f32: Vec<f32>,
    /// `[tokens, cols / 2 rounded up]`, two `bf16` each
    pub(crate) bf16: Vec<u32>,
    /// `[tokens / TILE rounded up, cols / 32]`
    pub(crate) blocks: Vec<ActivationBlock>,
}

/// The forms that are present besides `f32`, which always is.
#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    bf16: bool,
    quant: bool,
}

impl Forms {
    fn holds(self, kind: ActivationKind) -> bool {
        match kind {
            ActivationKind::F32 => true,
            ActivationKind::Bf16 => self.bf16,
            ActivationKind::Quant => self.quant,
        }
    }
}

/// 32 quantised values of each of [`TILE`] tokens: `value = scale · code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActivationBlock {
    /// −127..=127
    pub codes: [[i8; 32]; TILE],
    /// NaN if the group has NaN or infinity, so that it reaches every result
    pub scales: [f32; TILE],
    /// Negated sums of the 32 codes
    pub neg32: [i32; TILE],
    /// Negated sums of the first and the last 16 codes
    pub neg16: [[i32; TILE]; 2],
}

impl Activations {
    /// No activations yet.
    pub fn new() -> Activations {
        Activations::default()
    }

    /// Sets the shape and the forms: `f32` and those in `kinds`. Rows are then written through [`Activations::rows`]; until
    /// then they hold old values.
    ///
    /// # Panics
    /// If the quantised form is requested and `cols` is not a multiple of 32, or if the size of the matrix overflows.
    pub fn reset(&mut self, tokens: usize, cols: usize, kinds: &[ActivationKind]) {
        let forms = Forms {
            bf16: kinds.contains(&ActivationKind::Bf16),
            quant: kinds.contains(&ActivationKind::Quant),
        };
        assert!(
            !forms.quant || cols.is_multiple_of(GROUP),
            "quantised activations come in blocks of 32, not {cols}"
        );
        // Cleared before the allocation, so that no form without memory remains after a failure.
        (self.tokens, self.cols, self.forms) = (0, 0, Forms::default());
        grow(&mut self.f32, tokens, cols);
        if forms.bf16 {
            grow(&mut self.bf16, tokens, cols.div_ceil(2));
        }
        if forms.quant {
            grow(&mut self.blocks, tokens.div_ceil(TILE), cols / GROUP);
        }
        (self.tokens, self.cols, self.forms) = (tokens, cols, forms);
    }

    /// Whether the last [`Activations::reset`] requested this form.
    pub fn holds(&self, kind: ActivationKind) -> bool {
        self.forms.holds(kind)
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

    /// Access to single rows from several threads at once, to write them.
    pub fn rows(&mut self) -> ActivationRows<'_> {
        ActivationRows {
            cols: self.cols,
            tokens: self.tokens,
            forms: self.forms,
            f32: self.f32.as_mut_ptr(),
            bf16: self.bf16.as_mut_ptr(),
            blocks: self.blocks.as_mut_ptr(),
            borrowed: PhantomData,
        }
    }

    /// The first block of the tile that token `t` belongs to.
    pub(crate) fn tile(&self, t: usize) -> *const ActivationBlock {
        self.blocks[t / TILE * (self.cols / GROUP)..].as_ptr()
    }
}

/// Makes room for `rows · len` values.
fn grow<T: Clone + Default>(v: &mut Vec<T>, rows: usize, len: usize) {
    let len = rows.checked_mul(len).expect("a matrix of activations that an address can reach");
    if v.len() < len {
        v.resize(len, T::default());
    }
}

/// The rows of a borrowed [`Activations`], for threads that each write different rows.
#[derive(Clone, Copy, Debug)]
pub struct ActivationRows<'a> {
    cols: usize,
    tokens: usize,
    forms: Forms,
    f32: *mut f32,
    bf16: *mut u32,
    blocks: *mut ActivationBlock,
    borrowed: PhantomData<&'a mut Activations>,
}

// SAFETY: only addresses; callers of `part`, `row` and `convert` guarantee that threads use different places.
unsafe impl Send for ActivationRows<'_> {}
// SAFETY: shared access gives no more than a copy, which may be sent.
unsafe impl Sync for ActivationRows<'_> {}

impl<'a> ActivationRows<'a> {
    /// One row's `f32` values, `[cols]`.
    ///
    /// # Safety
    /// While the slice is in use, nothing else reads or writes row `t`, neither through another slice nor through
    /// [`ActivationRows::convert`].
    ///
    /// # Panics
    /// If there is no such row.
    pub unsafe fn row(&self, t: usize) -> &'a mut [f32] {
        // SAFETY: this is the whole row, and the caller guarantees that nothing else touches it.
        unsafe { self.part(t, 0, self.cols) }
    }

    /// Columns `from..from + len` of one row's `f32` values.
    ///
    /// # Safety
    /// While the slice is in use, nothing else reads or writes these columns of row `t`.
    ///
    /// # Panics
    /// If there is no such row, or it has no such columns.
    pub unsafe fn part(&self, t: usize, from: usize, len: usize) -> &'a mut [f32] {
        assert!(t < self.tokens && from <= self.cols && len <= self.cols - from, "a part of the activations");
        // SAFETY: `reset` allocated `tokens · cols` values, the part was just checked to be within them, and they stay in
        // place while the activations are borrowed. The caller guarantees that nothing else touches them.
        unsafe { std::slice::from_raw_parts_mut(self.f32.add(t * self.cols + from), len) }
    }

    /// Converts row `t`'s `f32` values to its other forms.
    ///
    /// # Safety
    /// During the call nothing else reads or writes row `t`, in any form.
    ///
    /// # Panics
    /// If there is no such row.
    pub unsafe fn convert(&self, isa: crate::Isa, t: usize) {
        // SAFETY: the caller guarantees that nothing else touches the row.
        let row: &[f32] = unsafe { self.row(t) };
        if self.forms.bf16 {
            let half = self.cols.div_ceil(2);
            // SAFETY: `reset` allocated `tokens` rows of `half` pairs, and `row` checked `t`; the caller guarantees that nothing
            // else touches the row.
            let out = unsafe { std::slice::from_raw_parts_mut(self.bf16.add(t * half), half) };
            for (o, pair) in out.iter_mut().zip(row.chunks(2)) {
                let bits = |i: usize| pair.get(i).map_or(0, |&v| half::bf16::from_f32(v).to_bits());
                *o = u32::from(bits(0)) | (u32::from(bits(1)) << 16);
            }
        }
        if self.forms.quant {
            // SAFETY: `reset` allocated a row of blocks for every tile of tokens, and `row` checked `t`.
            let blocks = unsafe { self.blocks.add(t / TILE * (self.cols / GROUP)) };
            isa.run_floats(QuantizeRow { src: row, blocks, lane: t % TILE });
        }
    }
}

/// Quantises one row: in each group the largest magnitude becomes ±127. The creator guarantees that nothing else touches
/// the row's lane of the blocks.
struct QuantizeRow<'a> {
    /// `[cols]`
    src: &'a [f32],
    /// `[cols / 32]`
    blocks: *mut ActivationBlock,
    /// The row's token within a block.
    lane: usize,
}

impl Op for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (g, group) in self.src.chunks_exact(GROUP).enumerate() {
            // SAFETY: the row's length is a multiple of GROUP = 32 = 2 · LANES (`Activations::reset`), with a block for each
            // group; only this row uses its lane of each block.
            unsafe {
                let block = self.blocks.add(g);
                let (a, b) = (s.load(group.as_ptr()), s.load(group.as_ptr().add(LANES)));
                let amax = s.max_lane(s.max(s.abs(a), s.abs(b)));
                // `max` may drop a NaN; a sum can't.
                let finite = s.sum(s.add(s.abs(a), s.abs(b))).is_finite();
                (&raw mut (*block).scales[self.lane]).write(if finite { amax / 127.0 } else { f32::NAN });
                let inverse = s.splat(if finite && amax > 0.0 { 127.0 / amax } else { 0.0 });
                let codes = (&raw mut (*block).codes[self.lane]).cast::<i8>();
                let mut whole = 0;
                for (half, v) in [a, b].into_iter().enumerate() {
                    // The codes of a non-finite group are meaningless; its scale is NaN.
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
