//! RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x²) + eps) · weight`.

use crate::simd::{LANES, Op, Simd};

/// One row's RMSNorm; `out` may not overlap `x`. All three are `[n]`.
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// The row.
    pub x: &'a [f32],
    /// The learned gain.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// Where the result goes.
    pub out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        assert!(self.weight.len() == n && self.out.len() == n, "one gain and one result per value");
        let whole = n - n % LANES;
        // SAFETY: all accesses stay below `n`, the length of all three slices.
        unsafe {
            let mut squares = s.splat(0.0);
            for i in (0..whole).step_by(LANES) {
                let x = s.load(self.x.as_ptr().add(i));
                squares = s.fma(x, x, squares);
            }
            let mut sum = s.sum(squares);
            for x in &self.x[whole..] {
                sum += x * x;
            }
            let scale = 1.0 / (sum / n as f32 + self.eps).sqrt();
            for i in (0..whole).step_by(LANES) {
                let x = s.mul(s.load(self.x.as_ptr().add(i)), s.splat(scale));
                s.store(self.out.as_mut_ptr().add(i), s.mul(x, s.load(self.weight.as_ptr().add(i))));
            }
            for i in whole..n {
                self.out[i] = self.x[i] * scale * self.weight[i];
            }
        }
    }
}
