//! Writing keys and values into pages.

use super::codes::encode;
use super::form::{Element, Form, Halves};
use super::kv_type::{Holds, KvType};
use super::layout::{BLOCK, PAGE, halves_bytes, scale_at};
use crate::Isa;
use crate::simd::{LANES, Op, Simd};
use half::f16;

/// Writes one position's key and value, `[head_dim]` each, into a page, or the key alone.
#[derive(Debug)]
pub struct StoreKv<'a> {
    /// The page of one KV head, `[2, PAGE · head_dim]` values, or `[PAGE · head_dim]` of keys alone.
    pub page: &'a mut [u8],
    /// How the page stores them.
    pub kv: KvType,
    /// The position within the page.
    pub at: usize,
    /// The key, RoPE applied.
    pub key: &'a [f32],
    /// The value; empty if the page holds keys alone.
    pub value: &'a [f32],
}

impl StoreKv<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for StoreKv<'_> {
    type Out = ();

    /// # Panics
    /// If the page isn't one of this head size, or `at` is beyond it.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.key.len();
        let holds = if self.value.is_empty() { Holds::Keys } else { Holds::Both };
        assert!(self.at < PAGE && (holds == Holds::Keys || self.value.len() == head_dim));
        assert_eq!(self.page.len(), self.kv.page_bytes_of(holds, head_dim));
        match self.kv {
            KvType::F16 => self.store(s, f16::ZERO),
            KvType::F32 => self.store(s, 0.0),
            KvType::Q8_0 => self.quantize(s),
            KvType::Q4_0 => self.encode(s),
        }
    }
}

impl StoreKv<'_> {
    #[inline(always)]
    fn store<S: Simd, E: Element>(self, s: S, zero: E) {
        let (keys, values) = bytemuck::cast_slice_mut::<u8, E>(self.page).split_at_mut(PAGE * self.key.len());
        let mut lanes = [zero; LANES];
        // A key fills a column: 16 values are converted at once, then stored one by one.
        for (columns, key) in keys.chunks_mut(LANES * PAGE).zip(self.key.chunks(LANES)) {
            convert(s, key, &mut lanes);
            for (column, &k) in columns.chunks_exact_mut(PAGE).zip(&lanes) {
                column[self.at] = k;
            }
        }
        if self.value.is_empty() {
            return;
        }
        let row = &mut values[self.at * self.value.len()..][..self.value.len()];
        for (to, value) in row.chunks_mut(LANES).zip(self.value.chunks(LANES)) {
            convert(s, value, &mut lanes);
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }
}

impl StoreKv<'_> {
    /// Bytes with a scale per block, whose largest magnitude becomes ±127. A non-finite block becomes NaN.
    #[inline(always)]
    fn quantize<S: Simd>(self, s: S) {
        let head_dim = self.key.len();
        let all = PAGE * (head_dim + self.value.len());
        for (of, values) in [self.key, self.value].into_iter().enumerate() {
            for (b, block) in values.chunks(BLOCK).enumerate() {
                let mut codes = [0i8; BLOCK];
                let scale = quantize(s, block, &mut codes);
                let at = scale_at(all, head_dim, of, b, self.at);
                self.page[at..][..size_of::<f16>()].copy_from_slice(&scale.to_ne_bytes());
                for (d, &code) in (b * BLOCK..head_dim).zip(&codes) {
                    // Keys are transposed.
                    let at = if of == 0 { d * PAGE + self.at } else { (PAGE + self.at) * head_dim + d };
                    self.page[at] = code as u8;
                }
            }
        }
    }
}

impl StoreKv<'_> {
    /// Half bytes with a scale per block.
    #[inline(always)]
    fn encode<S: Simd>(self, s: S) {
        let head_dim = self.key.len();
        let all = match self.value {
            [] => self.kv.key_bytes(head_dim),
            _ => halves_bytes(head_dim),
        };
        for (of, values) in [self.key, self.value].into_iter().enumerate() {
            for (b, block) in values.chunks(BLOCK).enumerate() {
                let mut codes = [0; BLOCK];
                let scale = encode(s, block, &mut codes);
                let at = scale_at(all, head_dim, of, b, self.at);
                self.page[at..][..size_of::<f16>()].copy_from_slice(&scale.to_ne_bytes());
                if of == 0 {
                    // The halves of a position form a column, which they share with those of the position 16 away.
                    let (keep, shift) = if self.at < LANES { (0xf0, 0) } else { (0x0f, 4) };
                    for (d, &code) in (b * BLOCK..head_dim).zip(&codes) {
                        let byte = &mut self.page[Halves::key_at(d) + self.at % LANES];
                        *byte = *byte & keep | code << shift;
                    }
                } else {
                    let line = &mut self.page[Halves::value_at(head_dim, self.at, b * BLOCK)..][..LANES];
                    for (i, byte) in line.iter_mut().enumerate() {
                        *byte = codes[i] | codes[LANES + i] << 4;
                    }
                }
            }
        }
    }
}

/// Encodes up to 32 values as bytes; returns their scale.
#[inline(always)]
fn quantize<S: Simd>(s: S, block: &[f32], codes: &mut [i8; BLOCK]) -> f16 {
    let mut padded = [0.0; BLOCK];
    padded[..block.len()].copy_from_slice(block);
    // SAFETY: both arrays are 2 · LANES long.
    unsafe {
        let (a, b) = (s.load(padded.as_ptr()), s.load(padded.as_ptr().add(LANES)));
        let amax = s.max_lane(s.max(s.abs(a), s.abs(b)));
        // `max` may drop a NaN; a sum can't.
        if !s.sum(s.add(s.abs(a), s.abs(b))).is_finite() {
            return f16::NAN;
        }
        let inverse = s.splat(if amax > 0.0 { 127.0 / amax } else { 0.0 });
        s.store_i8(codes.as_mut_ptr(), s.round(s.mul(a, inverse)));
        s.store_i8(codes.as_mut_ptr().add(LANES), s.round(s.mul(b, inverse)));
        f16::from_f32(amax / 127.0)
    }
}

/// Converts up to 16 values to their stored form.
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
