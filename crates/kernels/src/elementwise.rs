//! The feed-forward layer's activation: `silu(gate) · up`, with `silu(x) = x / (1 + e^−x)`; and plain addition.

use crate::Isa;
use crate::simd::{LANES, Op, Simd};

/// `out = silu(gate) · up`, all `[n]`.
#[derive(Debug)]
pub struct SiluMul<'a> {
    /// The gate projection.
    pub gate: &'a [f32],
    /// The up projection.
    pub up: &'a [f32],
    /// Where the result goes.
    pub out: &'a mut [f32],
}

impl SiluMul<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for SiluMul<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.out.len();
        assert!(self.gate.len() == n && self.up.len() == n, "gate and up of one length");
        let one = s.splat(1.0);
        for i in (0..n).step_by(LANES) {
            let left = n - i;
            // SAFETY: all three have `left` values.
            unsafe {
                let (gate, up, out) =
                    (self.gate.as_ptr().add(i), self.up.as_ptr().add(i), self.out.as_mut_ptr().add(i));
                let whole = left >= LANES;
                let (g, u) = if whole {
                    (s.load(gate), s.load(up))
                } else {
                    (s.load_partial(gate, left, 0.0), s.load_partial(up, left, 0.0))
                };
                let sigmoid = s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), g))));
                let y = s.mul(s.mul(g, sigmoid), u);
                if whole { s.store(out, y) } else { s.store_partial(out, left, y) }
            }
        }
    }
}

/// `x += scale · y`, both `[n]`: biases, expert outputs.
#[derive(Debug)]
pub struct AddScaled<'a> {
    /// The sum.
    pub x: &'a mut [f32],
    /// The values to add.
    pub y: &'a [f32],
    /// Their factor.
    pub scale: f32,
}

impl AddScaled<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for AddScaled<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.x.len(), self.y.len());
        let n = self.x.len();
        let whole = n - n % LANES;
        // SAFETY: all accesses stay below `n`.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let x = self.x.as_mut_ptr().add(i);
                s.store(x, s.fma(s.load(self.y.as_ptr().add(i)), s.splat(self.scale), s.load(x)));
            }
        }
        for i in whole..n {
            self.x[i] += self.scale * self.y[i];
        }
    }
}
