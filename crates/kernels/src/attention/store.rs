//! Writing keys and values into pages.

use super::page::Element;
use super::{KvType, PAGE};
use crate::simd::{LANES, Op, Simd};
use half::f16;

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

impl Op for StoreKv<'_> {
    type Out = ();

    /// # Panics
    /// If the page isn't one of this head size, or `at` is beyond it.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.key.len();
        assert!(self.at < PAGE && self.value.len() == head_dim);
        assert_eq!(self.page.len(), self.kv.page_bytes(head_dim));
        match self.kv {
            KvType::F16 => self.store(s, f16::ZERO),
            KvType::F32 => self.store(s, 0.0),
        }
    }
}

impl StoreKv<'_> {
    #[inline(always)]
    fn store<S: Simd, E: Element>(self, s: S, zero: E) {
        let (keys, values) = bytemuck::cast_slice_mut::<u8, E>(self.page).split_at_mut(PAGE * self.key.len());
        let mut lanes = [zero; LANES];
        // a key goes down a column: 16 values are converted at once, then laid out one by one
        for (columns, key) in keys.chunks_mut(LANES * PAGE).zip(self.key.chunks(LANES)) {
            convert(s, key, &mut lanes);
            for (column, &k) in columns.chunks_exact_mut(PAGE).zip(&lanes) {
                column[self.at] = k;
            }
        }
        let row = &mut values[self.at * self.value.len()..][..self.value.len()];
        for (to, value) in row.chunks_mut(LANES).zip(self.value.chunks(LANES)) {
            convert(s, value, &mut lanes);
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }
}

/// Up to 16 values as they are stored.
#[inline(always)]
fn convert<S: Simd, E: Element>(s: S, from: &[f32], to: &mut [E; LANES]) {
    // SAFETY: `from` is readable for its length, `to` is 16 values.
    unsafe {
        let v = if from.len() >= LANES {
            s.load(from.as_ptr())
        } else {
            s.load_partial(from.as_ptr(), from.len(), 0.0)
        };
        E::store(s, to.as_mut_ptr(), v);
    }
}
