//! The feed-forward layer's activations, addition, scales and softcaps.

use crate::Isa;
use crate::simd::{LANES, Op, Simd};

/// The function of the feed-forward layer's gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x / (1 + e^−x)`
    Silu,
    /// GELU's approximation by tanh (arXiv 1606.08415): `x / (1 + e^−2u)`, `u = √(2/π) · (x + 0.044715 x³)`, which is
    /// `x/2 · (1 + tanh u)`.
    GeluTanh,
    /// gpt-oss's: `g / (1 + e^−(alpha · g))` with `g = min(x, limit)`; and `up` limited to both sides and increased by one.
    Clamped {
        /// What the sigmoid's argument is multiplied by.
        alpha: f32,
        /// The largest gate, and the largest magnitude of `up`.
        limit: f32,
    },
}

/// `out = activation(gate) · up`, all `[n]`.
#[derive(Debug)]
pub struct GatedMul<'a> {
    /// The function of the gate.
    pub activation: Activation,
    /// The gate projection.
    pub gate: &'a [f32],
    /// The up projection.
    pub up: &'a [f32],
    /// Where the result goes.
    pub out: &'a mut [f32],
}

impl GatedMul<'_> {
    /// Runs the kernel on an instruction set.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for GatedMul<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.activation {
            Activation::Silu => gated::<S, SILU>(s, self.gate, self.up, self.out, (1.0, 0.0)),
            Activation::GeluTanh => gated::<S, GELU>(s, self.gate, self.up, self.out, (1.0, 0.0)),
            Activation::Clamped { alpha, limit } => {
                gated::<S, CLAMPED>(s, self.gate, self.up, self.out, (alpha, limit));
            }
        }
    }
}

const SILU: u8 = 0;
const GELU: u8 = 1;
const CLAMPED: u8 = 2;

/// `out = g · sigmoid(t(g)) · up`: SiLU with `t(g) = g`, GELU with `t(g) = 2u`; clamped with `t(g) = alpha · g`. A clamped value
/// that is not finite becomes NaN.
#[inline(always)]
fn gated<S: Simd, const KIND: u8>(
    s: S,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
    (alpha, limit): (f32, f32),
) {
    let n = out.len();
    assert!(gate.len() == n && up.len() == n, "gate and up of one length");
    let one = s.splat(1.0);
    for i in (0..n).step_by(LANES) {
        let left = n - i;
        // SAFETY: `left` values are there in all three.
        unsafe {
            let (gate, up, out) = (gate.as_ptr().add(i), up.as_ptr().add(i), out.as_mut_ptr().add(i));
            let whole = left >= LANES;
            let (given, given_up) = if whole {
                (s.load(gate), s.load(up))
            } else {
                (s.load_partial(gate, left, 0.0), s.load_partial(up, left, 0.0))
            };
            let (mut g, mut u) = (given, given_up);
            if KIND == CLAMPED {
                let limit = s.splat(limit);
                g = s.min(g, limit);
                u = s.add(s.max(s.min(u, limit), s.sub(s.splat(0.0), limit)), one);
            }
            let t = if KIND == GELU {
                // 2 √(2/π) and that times 0.044715
                let cubic = s.fma(s.mul(g, g), s.splat(0.071_354_814), s.splat(1.595_769));
                s.mul(g, cubic)
            } else if KIND == CLAMPED {
                s.mul(g, s.splat(alpha))
            } else {
                g
            };
            let sigmoid = s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), t))));
            let mut y = s.mul(s.mul(g, sigmoid), u);
            if KIND == CLAMPED {
                // limits may drop a NaN
                let zero = s.splat(0.0);
                y = s.fma(given, zero, s.fma(given_up, zero, y));
            }
            if whole { s.store(out, y) } else { s.store_partial(out, left, y) }
        }
    }
}

/// `x = cap · tanh(x · scale / cap)`, or `x · scale` without a cap, `[n]`: what some models do to their logits. NaN and infinity
/// stay visible: a value that is not finite becomes NaN under a cap.
#[derive(Debug)]
pub struct ScaleAndCap<'a> {
    /// The values.
    pub x: &'a mut [f32],
    /// Multiplies them first.
    pub scale: f32,
    /// What they then stay below.
    pub cap: Option<f32>,
}

impl ScaleAndCap<'_> {
    /// Runs the kernel on an instruction set.
    ///
    /// # Panics
    /// If the cap is not above zero.
    #[inline(never)]
    pub fn on(self, isa: Isa) {
        isa.run_floats(self);
    }
}

impl Op for ScaleAndCap<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.cap.is_none_or(|cap| cap > 0.0), "a cap above zero");
        let n = self.x.len();
        let scale = s.splat(self.scale);
        for i in (0..n).step_by(LANES) {
            let left = n - i;
            // SAFETY: `x` has `left` values.
            unsafe {
                let x = self.x.as_mut_ptr().add(i);
                let whole = left >= LANES;
                let v = if whole { s.load(x) } else { s.load_partial(x, left, 0.0) };
                let v = s.mul(v, scale);
                let v = if let Some(cap) = self.cap { capped(s, v, cap) } else { v };
                if whole { s.store(x, v) } else { s.store_partial(x, left, v) }
            }
        }
    }
}

/// `cap · tanh(x / cap)`; NaN where `x` is not finite. `tanh(y) = 1 − 2 / (e^2y + 1)` is exact to about 2⁻²³ of 1.
#[inline(always)]
pub(crate) fn capped<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    let one = s.splat(1.0);
    let e = s.exp(s.mul(x, s.splat(2.0 / cap)));
    let tanh = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    // `exp` limits its argument, which may drop a NaN
    s.fma(x, s.splat(0.0), s.mul(tanh, s.splat(cap)))
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
