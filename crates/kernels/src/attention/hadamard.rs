//! Mixes the values of a head to remove outliers, which four bits can't represent well.

use crate::Isa;
use crate::simd::{LANES, Op, Simd};

/// Rotates a head in place by a Walsh–Hadamard transform, which is its own inverse: each value becomes a sum of all values with
/// equal weights and varying signs, which spreads a few large ones over all. Rotating both queries and keys does not change
/// their scores. A head whose size is not a power of two is rotated in parts of the largest power of two that divides it.
#[derive(Debug)]
pub struct Hadamard<'a> {
    /// `[head_dim]`
    pub head: &'a mut [f32],
}

/// Signs of the transform of 16 values.
const SIGNS: [[f32; LANES]; LANES] = {
    let mut signs = [[1.0; LANES]; LANES];
    let mut i = 0;
    while i < LANES * LANES {
        if ((i / LANES) & (i % LANES)).count_ones() % 2 == 1 {
            signs[i / LANES][i % LANES] = -1.0;
        }
        i += 1;
    }
    signs
};

impl Hadamard<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for Hadamard<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let part = 1 << self.head.len().trailing_zeros();
        for part in self.head.chunks_exact_mut(part) {
            let scale = 1.0 / (part.len() as f32).sqrt();
            let mut half = 1;
            if part.len() >= LANES {
                for lanes in part.chunks_exact_mut(LANES) {
                    let mut sum = s.splat(0.0);
                    for (x, signs) in lanes.iter().zip(&SIGNS) {
                        // SAFETY: 16 signs.
                        sum = s.fma(unsafe { s.load(signs.as_ptr()) }, s.splat(x * scale), sum);
                    }
                    // SAFETY: 16 values.
                    unsafe { s.store(lanes.as_mut_ptr(), sum) };
                }
                half = LANES;
            } else {
                part.iter_mut().for_each(|x| *x *= scale);
            }
            while half < part.len() {
                for pair in part.chunks_exact_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
        }
    }
}
