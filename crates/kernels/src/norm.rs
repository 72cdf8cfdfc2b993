//! RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x²) + eps) · weight`; and LayerNorm (arXiv 1607.06450) without a bias, which
//! is the RMSNorm of `x − mean(x)`.

use crate::Isa;
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
    /// The result.
    pub out: &'a mut [f32],
}

/// As [`RmsNorm`], but overwrites the row.
#[derive(Debug)]
pub struct RmsNormInPlace<'a> {
    /// The row, `[n]`.
    pub x: &'a mut [f32],
    /// The learned gain, `[n]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        assert!(self.weight.len() == n && self.out.len() == n, "one gain and one result per value");
        // SAFETY: all three slices are `n` long.
        unsafe { normalise(s, self.x.as_ptr(), self.weight.as_ptr(), self.eps, self.out.as_mut_ptr(), n) }
    }
}

impl RmsNormInPlace<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for RmsNormInPlace<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        assert!(self.weight.len() == n, "one gain per value");
        let x = self.x.as_mut_ptr();
        // SAFETY: both slices are `n` long; each value is read before it is overwritten.
        unsafe { normalise(s, x, self.weight.as_ptr(), self.eps, x, n) }
    }
}

/// One row's LayerNorm without a bias; `out` may not overlap `x`. All three are `[n]`.
#[derive(Debug)]
pub struct LayerNorm<'a> {
    /// The row.
    pub x: &'a [f32],
    /// The learned gain.
    pub weight: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Where the result goes.
    pub out: &'a mut [f32],
}

impl LayerNorm<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for LayerNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        assert!(self.weight.len() == n && self.out.len() == n, "one gain and one result per value");
        let whole = n - n % LANES;
        let out = self.out.as_mut_ptr();
        // SAFETY: all accesses stay below `n`, the length of all three slices; `normalise` reads each value of `out`, written
        // before, ahead of overwriting it.
        unsafe {
            let mut sums = s.splat(0.0);
            for i in (0..whole).step_by(LANES) {
                sums = s.add(sums, s.load(self.x.as_ptr().add(i)));
            }
            let mean = (s.sum(sums) + self.x[whole..].iter().sum::<f32>()) / n as f32;
            for i in (0..whole).step_by(LANES) {
                s.store(out.add(i), s.sub(s.load(self.x.as_ptr().add(i)), s.splat(mean)));
            }
            for i in whole..n {
                *out.add(i) = self.x[i] - mean;
            }
            normalise(s, out, self.weight.as_ptr(), self.eps, out, n);
        }
    }
}

/// # Safety
/// `x` and `weight` are readable and `out` is writable for `n` values; `out` is `x` or does not overlap it.
#[inline(always)]
unsafe fn normalise<S: Simd>(s: S, x: *const f32, weight: *const f32, eps: f32, out: *mut f32, n: usize) {
    let whole = n - n % LANES;
    // SAFETY: all accesses stay below `n`.
    unsafe {
        let mut squares = s.splat(0.0);
        for i in (0..whole).step_by(LANES) {
            let v = s.load(x.add(i));
            squares = s.fma(v, v, squares);
        }
        let mut sum = s.sum(squares);
        for i in whole..n {
            sum += *x.add(i) * *x.add(i);
        }
        let scale = 1.0 / (sum / n as f32 + eps).sqrt();
        for i in (0..whole).step_by(LANES) {
            let v = s.mul(s.load(x.add(i)), s.splat(scale));
            s.store(out.add(i), s.mul(v, s.load(weight.add(i))));
        }
        for i in whole..n {
            *out.add(i) = *x.add(i) * scale * *weight.add(i);
        }
    }
}
