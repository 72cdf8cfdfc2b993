//! Rotary position embedding (RoPE, arXiv 2104.09864) of one head, pairs `(i, i + head_dim/2)`.
//!
//! Models stored for adjacent pairs have their Q and K rows reordered at load, so that one kernel serves both.

use crate::Isa;
use crate::simd::{LANES, Op, Simd};

/// Rotates one head in place.
#[derive(Debug)]
pub struct Rotate<'a> {
    /// The head, `[head_dim]`.
    pub head: &'a mut [f32],
    /// Cosines of this position's angles, `[head_dim / 2]`.
    pub cos: &'a [f32],
    /// Sines, `[head_dim / 2]`.
    pub sin: &'a [f32],
}

impl Rotate<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.cos.len();
        assert!(self.sin.len() == half && self.head.len() == 2 * half, "one angle per pair");
        let whole = half - half % LANES;
        let (a, b) = self.head.split_at_mut(half);
        // SAFETY: all accesses stay below `half`, the length of all four slices.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let (x, y) = (s.load(a.as_ptr().add(i)), s.load(b.as_ptr().add(i)));
                let (c, n) = (s.load(self.cos.as_ptr().add(i)), s.load(self.sin.as_ptr().add(i)));
                s.store(a.as_mut_ptr().add(i), s.fnma(y, n, s.mul(x, c)));
                s.store(b.as_mut_ptr().add(i), s.fma(x, n, s.mul(y, c)));
            }
        }
        for i in whole..half {
            let (x, y) = (a[i], b[i]);
            a[i] = x * self.cos[i] - y * self.sin[i];
            b[i] = y * self.cos[i] + x * self.sin[i];
        }
    }
}
