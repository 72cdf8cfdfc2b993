//! How a page stores keys and values: as floats of one width, or as signed bytes or half bytes with a scale per 32 values.
//!
//! ```text
//! floats  keys [head_dim, PAGE], values [PAGE, head_dim]
//! bytes   the same, then scales as f16: of keys [blocks, PAGE], of values [blocks, PAGE]; a block is 32 values of a head
//! halves  keys [head_dim, 16]: low halves are positions 0..16, high halves 16..32; values [blocks, PAGE, 16]: low halves are
//!         the block's first 16 values, high halves the second 16; scales as for bytes
//! ```
//!
//! A page of keys alone ends with them and their scales; its keys are its values.

use super::codes::TABLE;
use super::kv_type::Holds;
use super::layout::{BLOCK, PAGE, halves_bytes, scale_at};
use crate::simd::{LANES, Op, Simd};
use half::f16;
use std::marker::PhantomData;

/// A stored key or value.
pub(super) trait Entry: Copy {
    /// Entries are multiples of a scale.
    const SCALED: bool;
    /// Reads 16 values.
    ///
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    fn to_f32(self) -> f32;
}

/// An entry that is a float.
pub(super) trait Element: Entry + bytemuck::Pod {
    /// Writes 16 values.
    ///
    /// # Safety
    /// `p` is writable for 16 values.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F);
}

impl Entry for f32 {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller guarantees 16 readable values at `p`.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: the caller guarantees room for 16 values at `p`.
        unsafe { s.store(p, v) }
    }
}

impl Entry for f16 {
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::F {
        // SAFETY: the caller guarantees 16 readable values at `p`.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f16, v: S::F) {
        // SAFETY: the caller guarantees room for 16 values at `p`.
        unsafe { s.store_f16(p, v) }
    }
}

impl Entry for i8 {
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const i8) -> S::F {
        // SAFETY: the caller guarantees 16 readable values at `p`.
        unsafe { s.load_i8(p) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// An unscaled code as `f32`: the result of [`Widen`] for bytes and halves.
#[derive(Clone, Copy)]
pub(super) struct Code(f32);

impl Entry for Code {
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Code) -> S::F {
        // SAFETY: the caller guarantees 16 readable values at `p`.
        unsafe { s.load(p.cast()) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.0
    }
}

/// A way to store a page.
pub(super) trait Form {
    /// Keys and values are multiples of a scale per [`BLOCK`]; the functions below do not apply it.
    const SCALED: bool;

    /// Byte offset of value `d` of the keys in a page.
    fn key_at(d: usize) -> usize;

    /// Byte offset of value `d` of the value at position `t` in a page; for half bytes, the offset of its line.
    fn value_at(head_dim: usize, t: usize, d: usize) -> usize;

    /// Value `d` of the keys at the 16 positions from `at` on.
    ///
    /// # Safety
    /// `page` is a page of this form; `d` and the positions are within it.
    unsafe fn key<S: Simd>(s: S, page: *const u8, d: usize, at: usize) -> S::F;

    /// Values `d .. d + 16` of the value at position `t`.
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`, with all 16 in the head.
    unsafe fn value<S: Simd>(s: S, page: *const u8, head_dim: usize, t: usize, d: usize) -> S::F;

    /// Value `d` of the value at position `t`.
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`.
    unsafe fn one(page: *const u8, head_dim: usize, t: usize, d: usize) -> f32;

    /// Bytes of a page's codes; any scales follow them.
    fn code_bytes(head_dim: usize) -> usize;

    /// Bytes of a page.
    fn page_bytes(head_dim: usize) -> usize {
        let codes = Self::code_bytes(head_dim);
        if Self::SCALED { scale_at(codes, head_dim, 2, 0, 0) } else { codes }
    }

    /// Bytes of a page of keys alone.
    fn key_page_bytes(head_dim: usize) -> usize {
        let codes = Self::value_at(head_dim, 0, 0);
        if Self::SCALED { scale_at(codes, head_dim, 1, 0, 0) } else { codes }
    }

    /// The scales of block `block` at the 16 positions from `at` on, for keys (0) or values (1); 1 for forms without scales.
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`.
    #[inline(always)]
    unsafe fn scale<S: Simd>(
        s: S,
        page: *const u8,
        head_dim: usize,
        of: usize,
        block: usize,
        at: usize,
    ) -> S::F {
        if !Self::SCALED {
            return s.splat(1.0);
        }
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        unsafe { s.load_f16(page.add(scale_at(Self::code_bytes(head_dim), head_dim, of, block, at)).cast()) }
    }
}

/// One entry per value, followed by the scales if the form has any.
pub(super) struct Whole<E>(PhantomData<E>);

impl<E: Entry> Form for Whole<E> {
    const SCALED: bool = E::SCALED;

    #[inline(always)]
    fn key_at(d: usize) -> usize {
        d * PAGE * size_of::<E>()
    }

    #[inline(always)]
    fn value_at(head_dim: usize, t: usize, d: usize) -> usize {
        ((PAGE + t) * head_dim + d) * size_of::<E>()
    }

    #[inline(always)]
    unsafe fn key<S: Simd>(s: S, page: *const u8, d: usize, at: usize) -> S::F {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        unsafe { E::load(s, page.add(Self::key_at(d)).cast::<E>().add(at)) }
    }

    #[inline(always)]
    unsafe fn value<S: Simd>(s: S, page: *const u8, head_dim: usize, t: usize, d: usize) -> S::F {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        unsafe { E::load(s, page.add(Self::value_at(head_dim, t, d)).cast()) }
    }

    #[inline(always)]
    unsafe fn one(page: *const u8, head_dim: usize, t: usize, d: usize) -> f32 {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        unsafe { page.add(Self::value_at(head_dim, t, d)).cast::<E>().read_unaligned().to_f32() }
    }

    #[inline(always)]
    fn code_bytes(head_dim: usize) -> usize {
        2 * PAGE * head_dim * size_of::<E>()
    }
}

/// Half a byte for each value, an index of [`TABLE`].
pub(super) struct Halves;

impl Form for Halves {
    const SCALED: bool = true;

    #[inline(always)]
    fn key_at(d: usize) -> usize {
        d * LANES
    }

    #[inline(always)]
    fn value_at(head_dim: usize, t: usize, d: usize) -> usize {
        (head_dim + d / BLOCK * PAGE + t) * LANES
    }

    #[inline(always)]
    unsafe fn key<S: Simd>(s: S, page: *const u8, d: usize, at: usize) -> S::F {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        unsafe {
            let line = page.add(Self::key_at(d));
            if at == 0 { s.look_up::<false>(&TABLE, line) } else { s.look_up::<true>(&TABLE, line) }
        }
    }

    #[inline(always)]
    unsafe fn value<S: Simd>(s: S, page: *const u8, head_dim: usize, t: usize, d: usize) -> S::F {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it. A line holds a whole block,
        // even if the head ends within it.
        unsafe {
            let line = page.add(Self::value_at(head_dim, t, d));
            if d.is_multiple_of(BLOCK) {
                s.look_up::<false>(&TABLE, line)
            } else {
                s.look_up::<true>(&TABLE, line)
            }
        }
    }

    #[inline(always)]
    unsafe fn one(page: *const u8, head_dim: usize, t: usize, d: usize) -> f32 {
        // SAFETY: the caller guarantees a page of this form and head size, and places within it.
        let byte = unsafe { *page.add(Self::value_at(head_dim, t, d) + d % LANES) };
        f32::from(TABLE[usize::from(byte >> (d % BLOCK / LANES * 4) & 15)])
    }

    #[inline(always)]
    fn code_bytes(head_dim: usize) -> usize {
        halves_bytes(head_dim)
    }
}

/// Widens a page to entries of four bytes in the layout of [`Whole`], with keys and values, and copies the scales unchanged. Results computed from
/// it have the same bits as those computed from the page.
pub(super) struct Widen<'a, F> {
    page: &'a [u8],
    holds: Holds,
    head_dim: usize,
    to: &'a mut Vec<f32>,
    form: PhantomData<F>,
}

impl<'a, F: Form> Widen<'a, F> {
    /// # Panics
    /// If the length of the page does not fit the form.
    pub fn new(page: &'a [u8], holds: Holds, head_dim: usize, to: &'a mut Vec<f32>) -> Widen<'a, F> {
        let bytes = if holds == Holds::Both { F::page_bytes(head_dim) } else { F::key_page_bytes(head_dim) };
        assert_eq!(page.len(), bytes);
        Widen { page, holds, head_dim, to, form: PhantomData }
    }
}

impl<F: Form> Op for Widen<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Widen { page, holds, head_dim, to, .. } = self;
        let codes = 2 * PAGE * head_dim;
        let scales = F::page_bytes(head_dim) - F::code_bytes(head_dim);
        to.resize(codes + scales / size_of::<f32>(), 0.0);
        let both: &mut [u8] = bytemuck::cast_slice_mut(&mut to[codes..]);
        match holds {
            Holds::Both => both.copy_from_slice(&page[page.len() - scales..]),
            // those of the values are those of the keys
            Holds::Keys => {
                let (keys, values) = both.split_at_mut(scales / 2);
                keys.copy_from_slice(&page[page.len() - scales / 2..]);
                values.copy_from_slice(&page[page.len() - scales / 2..]);
            }
        }
        let (page, to) = (page.as_ptr(), to.as_mut_ptr());
        // SAFETY: `new` checked that the page is one of this form; positions and values are within it, and within the
        // `codes` values of `to`.
        unsafe {
            for d in 0..head_dim {
                s.store(to.add(d * PAGE), F::key(s, page, d, 0));
                s.store(to.add(d * PAGE + LANES), F::key(s, page, d, LANES));
            }
            if holds == Holds::Keys {
                transpose(to, head_dim);
                return;
            }
            for t in 0..PAGE {
                let value = to.add((PAGE + t) * head_dim);
                let mut d = 0;
                while d + LANES <= head_dim {
                    s.store(value.add(d), F::value(s, page, head_dim, t, d));
                    d += LANES;
                }
                while d < head_dim {
                    value.add(d).write(F::one(page, head_dim, t, d));
                    d += 1;
                }
            }
        }
    }
}

/// Writes the transposed keys, `[head_dim, PAGE]`, behind them as values, `[PAGE, head_dim]`.
///
/// # Safety
/// `page` is valid for both, and the keys are written.
#[inline(always)]
unsafe fn transpose(page: *mut f32, head_dim: usize) {
    // 16 keys of each position at a time: their lines stay in the L1 cache
    for from in (0..head_dim).step_by(LANES) {
        let to = (from + LANES).min(head_dim);
        for t in 0..PAGE {
            for d in from..to {
                // SAFETY: the caller guarantees the places; `d` is below `head_dim` and `t` below PAGE.
                unsafe { page.add((PAGE + t) * head_dim + d).write(*page.add(d * PAGE + t)) };
            }
        }
    }
}
