//! How a page stores keys and values: as floats of one width, or as signed bytes with a scale per 32.
//!
//! ```text
//! floats  keys [head_dim, PAGE], values [PAGE, head_dim]
//! bytes   the same, then scales as f16: of keys [blocks, PAGE], of values [blocks, PAGE]; a block is 32 of the head's values
//! ```

use super::PAGE;
use crate::simd::{LANES, Simd};
use half::f16;
use std::marker::PhantomData;

/// Values of a head that share a scale where they are bytes, as in GGUF's Q8_0.
pub(super) const BLOCK: usize = 32;

/// What keys and values are stored as.
pub(super) trait Entry: Copy {
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

impl Element for f32 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: the caller's word.
        unsafe { s.store(p, v) }
    }
}

impl Entry for f16 {
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

impl Element for f16 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f16, v: S::F) {
        // SAFETY: the caller's word.
        unsafe { s.store_f16(p, v) }
    }
}

impl Entry for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const i8) -> S::F {
        // SAFETY: the caller's word.
        unsafe { s.load_i8(p) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// A way to store a page.
pub(super) trait Form {
    /// What it holds.
    type Of: Entry;
    /// Keys and values are multiples of a scale per [`BLOCK`], which the functions below leave out.
    const SCALED: bool;
    /// Bytes of a key's or value's entry.
    const ENTRY: usize = size_of::<Self::Of>();

    /// Value `d` of the keys at 16 positions from `at` on.
    ///
    /// # Safety
    /// `page` is a page of this form; `d` and the positions are within it.
    #[inline(always)]
    unsafe fn key<S: Simd>(s: S, page: *const u8, d: usize, at: usize) -> S::F {
        // SAFETY: the caller's word.
        unsafe { Self::Of::load(s, page.cast::<Self::Of>().add(d * PAGE + at)) }
    }

    /// Values `d .. d + 16` of the value at position `t`.
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`, with all 16 in the head.
    #[inline(always)]
    unsafe fn value<S: Simd>(s: S, page: *const u8, head_dim: usize, t: usize, d: usize) -> S::F {
        // SAFETY: the caller's word.
        unsafe { Self::Of::load(s, page.cast::<Self::Of>().add((PAGE + t) * head_dim + d)) }
    }

    /// Value `d` of the value at position `t`.
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`.
    #[inline(always)]
    unsafe fn one(page: *const u8, head_dim: usize, t: usize, d: usize) -> f32 {
        // SAFETY: the caller's word.
        unsafe { page.cast::<Self::Of>().add((PAGE + t) * head_dim + d).read_unaligned().to_f32() }
    }

    /// The scales of block `block` at 16 positions from `at` on, of keys (0) or values (1).
    ///
    /// # Safety
    /// As for [`Form::key`], of this `head_dim`.
    unsafe fn scale<S: Simd>(
        s: S,
        page: *const u8,
        head_dim: usize,
        of: usize,
        block: usize,
        at: usize,
    ) -> S::F;
}

/// Floats.
pub(super) struct Floats<E>(PhantomData<E>);

impl<E: Element> Form for Floats<E> {
    type Of = E;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, _: *const u8, _: usize, _: usize, _: usize, _: usize) -> S::F {
        s.splat(1.0)
    }
}

/// Signed bytes with scales.
pub(super) struct Bytes;

impl Form for Bytes {
    type Of = i8;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn scale<S: Simd>(
        s: S,
        page: *const u8,
        head_dim: usize,
        of: usize,
        block: usize,
        at: usize,
    ) -> S::F {
        // SAFETY: the caller's word.
        unsafe { s.load_f16(page.add(scales_at(head_dim, of)).cast::<f16>().add(block * PAGE + at)) }
    }
}

/// Where in a page of [`Bytes`] the scales of keys (0) or values (1) begin.
pub(super) const fn scales_at(head_dim: usize, of: usize) -> usize {
    2 * PAGE * head_dim + of * head_dim.div_ceil(BLOCK) * PAGE * size_of::<f16>()
}

/// A page as `f32`, keys and values as [`Floats`] lays them out.
#[inline(always)]
pub(super) fn widen<S: Simd, F: Form>(s: S, page: &[u8], head_dim: usize, to: &mut Vec<f32>) {
    to.resize(2 * PAGE * head_dim, 0.0);
    let (page, to) = (page.as_ptr(), to.as_mut_ptr());
    // SAFETY: the page is of this form; positions and values are within it, and within `to`.
    unsafe {
        for d in 0..head_dim {
            for at in [0, LANES] {
                let mut key = F::key(s, page, d, at);
                if F::SCALED {
                    key = s.mul(key, F::scale(s, page, head_dim, 0, d / BLOCK, at));
                }
                s.store(to.add(d * PAGE + at), key);
            }
        }
        let values = to.add(PAGE * head_dim);
        for block in 0..head_dim.div_ceil(BLOCK) {
            let mut scales = [1.0; PAGE];
            if F::SCALED {
                for at in [0, LANES] {
                    s.store(scales.as_mut_ptr().add(at), F::scale(s, page, head_dim, 1, block, at));
                }
            }
            let end = ((block + 1) * BLOCK).min(head_dim);
            for t in 0..PAGE {
                let mut d = block * BLOCK;
                while d + LANES <= end {
                    let value = F::value(s, page, head_dim, t, d);
                    s.store(values.add(t * head_dim + d), s.mul(value, s.splat(scales[t])));
                    d += LANES;
                }
                while d < end {
                    values.add(t * head_dim + d).write(F::one(page, head_dim, t, d) * scales[t]);
                    d += 1;
                }
            }
        }
    }
}
