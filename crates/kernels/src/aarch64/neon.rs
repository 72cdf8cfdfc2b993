//! NEON: four 128-bit registers make one vector. A CPU's extensions are a constant parameter: see [`Neon`].

use super::dots;
use crate::simd::{LANES, Op, Simd};
use half::f16;
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

/// Plain NEON: byte dot products use widening multiplies.
pub const PLAIN: u8 = 0;
/// With `sdot`.
pub const DOTPROD: u8 = 1;
/// With `sdot`, `usdot` and `bfdot`; Armv8.6 introduced the last two together.
pub const I8MM: u8 = 2;

/// Proof that the CPU has the instructions of `LEVEL`: [`PLAIN`], [`DOTPROD`] or [`I8MM`].
#[derive(Clone, Copy, Debug)]
pub struct Neon<const LEVEL: u8>(());

impl<const LEVEL: u8> Neon<LEVEL> {
    /// Detects the set on this CPU.
    pub fn detect() -> Option<Self> {
        const { assert!(LEVEL <= I8MM, "no such level") };
        (is_aarch64_feature_detected!("neon")
            && (LEVEL < DOTPROD || is_aarch64_feature_detected!("dotprod"))
            && (LEVEL < I8MM
                || (is_aarch64_feature_detected!("i8mm") && is_aarch64_feature_detected!("bf16"))))
        .then_some(Self(()))
    }
}

#[target_feature(enable = "neon")]
#[inline(never)]
fn run_plain<const LEVEL: u8, O: Op>(s: Neon<LEVEL>, op: O) -> O::Out {
    op.run(s)
}

#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
fn run_dotprod<const LEVEL: u8, O: Op>(s: Neon<LEVEL>, op: O) -> O::Out {
    op.run(s)
}

#[target_feature(enable = "neon,dotprod,i8mm,bf16")]
#[inline(never)]
fn run_i8mm<const LEVEL: u8, O: Op>(s: Neon<LEVEL>, op: O) -> O::Out {
    op.run(s)
}

/// Applies an intrinsic to each register of some vectors.
macro_rules! four {
    ($f:expr, $($v:ident),+) => {
        // SAFETY: a `Neon` value is the proof that the CPU has these instructions.
        unsafe { [$f($($v[0]),+), $f($($v[1]),+), $f($($v[2]),+), $f($($v[3]),+)] }
    };
}

/// `acc + Σ (w − 128)·a`, or with `usdot` `acc + Σ w·a`. No two products exceed 128·127·2 < 2^15.
#[inline(always)]
unsafe fn dot8<const LEVEL: u8>(acc: int32x4_t, w: int32x4_t, a: int32x4_t) -> int32x4_t {
    // SAFETY: only methods of a `Neon<LEVEL>` value call this, and such a value proves that the CPU has these instructions.
    unsafe {
        let a = vreinterpretq_s8_s32(a);
        if LEVEL >= I8MM {
            return dots::usdot(acc, vreinterpretq_s8_s32(w), a);
        }
        let w = vreinterpretq_s8_s32(veorq_s32(w, vdupq_n_s32(0x8080_8080_u32 as i32)));
        if LEVEL >= DOTPROD {
            return dots::sdot(acc, w, a);
        }
        dots::add_fours(acc, vmull_s8(vget_low_s8(w), vget_low_s8(a)), vmull_high_s8(w, a))
    }
}

// SAFETY: for the whole impl: a value exists only if `detect` found every feature used here; callers of pointer methods
// guarantee 16 lanes of readable or writable memory.
unsafe impl<const LEVEL: u8> Simd for Neon<LEVEL> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    /// With `sdot` the sums, in the first four registers; otherwise eight `i16` in each: products of the low bytes of four
    /// registers, then of their high bytes.
    type Dots = [int32x4_t; 8];
    // 3 × 4 sums as integers and as floats, four registers of codes and a broadcast take nearly all 32 registers. Sums of 16
    // bits take twice as many.
    const TILE: usize = if LEVEL >= DOTPROD { 3 } else { 2 };
    const FLOAT_TILE: usize = 6;
    const STREAMS: usize = 4;
    const DOT8_CENTRES: bool = LEVEL < I8MM;
    const QUERIES: usize = 3;
    const BF16_DOT: bool = LEVEL >= I8MM;

    type Floats = Neon<PLAIN>;
    type Bytes = Self;

    #[inline(always)]
    fn floats(self) -> Neon<PLAIN> {
        // A CPU with a higher level has passed the checks of the plain one.
        Neon(())
    }
    #[inline(always)]
    fn bytes(self) -> Self {
        self
    }

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe {
            match LEVEL {
                PLAIN => run_plain(self, op),
                DOTPROD => run_dotprod(self, op),
                _ => run_i8mm(self, op),
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see the impl.
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: see the impl.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: see the impl.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let (a, b) = dots::widen_f16(vld1q_u16(p.cast()));
            let (c, d) = dots::widen_f16(vld1q_u16(p.add(8).cast()));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: Self::F) {
        let half = four!(dots::narrow_f16, v);
        // SAFETY: see the impl.
        unsafe {
            vst1q_u16(p.cast(), vcombine_u16(half[0], half[1]));
            vst1q_u16(p.add(8).cast(), vcombine_u16(half[2], half[3]));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        // SAFETY: see the impl.
        unsafe { dots::widen_i8(vld1q_s8(p)) }
    }
    #[inline(always)]
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let codes = vld1q_u8(p);
            let codes = if HIGH { vshrq_n_u8::<4>(codes) } else { vandq_u8(codes, vdupq_n_u8(15)) };
            dots::widen_i8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), codes))
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        let v = unsafe {
            let v = vld1q_u8(p);
            let (low, high) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
            [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ]
        };
        let v = four!(vshlq_n_u32::<23>, v);
        four!(vreinterpretq_f32_u32, v)
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            // The bits of e4m3 are those of an f16 whose exponent is 8 too small: the sign on top, the rest 7 bits higher.
            let (v, mask) = (vld1q_s8(p.cast()), vdupq_n_u16(!0x407f));
            let low = vreinterpretq_u16_s16(vshlq_n_s16::<7>(vmovl_s8(vget_low_s8(v))));
            let high = vreinterpretq_u16_s16(vshlq_n_s16::<7>(vmovl_high_s8(v)));
            let (a, b) = dots::widen_f16(vandq_u16(low, mask));
            let (c, d) = dots::widen_f16(vandq_u16(high, mask));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let v = vld1q_u8(p);
            let (a, b) = dots::widen_i16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))));
            let (c, d) = dots::widen_i16(vreinterpretq_s16_u16(vmovl_high_u8(v)));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vmaxq_f32, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        four!(vminq_f32, a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        four!(vabsq_f32, a)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        four!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        four!(vfmsq_f32, c, a, b)
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: see the impl.
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(v[0], v[1]), vaddq_f32(v[2], v[3]))) }
    }
    #[inline(always)]
    fn max_lane(self, v: Self::F) -> f32 {
        // SAFETY: see the impl.
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3]))) }
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        // SAFETY: see the impl.
        [unsafe { vdupq_n_s32(x) }; 4]
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::I {
        // SAFETY: see the impl.
        let v = unsafe { [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))] };
        four!(vreinterpretq_s32_u8, v)
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        four!(vandq_s32, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        four!(vorrq_s32, a, b)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, v: Self::I) -> Self::I {
        let n = self.isplat(N as i32);
        four!(vshlq_s32, v, n)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, v: Self::I) -> Self::I {
        let n = self.isplat(-(N as i32));
        let v = four!(vreinterpretq_u32_s32, v);
        let v = four!(vshlq_u32, v, n);
        four!(vreinterpretq_s32_u32, v)
    }
    #[inline(always)]
    fn entries(self, table: &[u8; LANES], codes: Self::I) -> Self::I {
        // SAFETY: see the impl; the table is 16 bytes.
        let table = [unsafe { vld1q_u8(table.as_ptr()) }; 4];
        let codes = four!(vreinterpretq_u8_s32, codes);
        let found = four!(vqtbl1q_u8, table, codes);
        four!(vreinterpretq_s32_u8, found)
    }
    #[inline(always)]
    fn open(self, acc: Self::I) -> Self::Dots {
        let [zero, ..] = self.isplat(0);
        if LEVEL >= DOTPROD {
            let [a, b, c, d] = acc;
            [a, b, c, d, zero, zero, zero, zero]
        } else {
            [zero; 8]
        }
    }
    #[inline(always)]
    fn dot(self, mut dots: Self::Dots, w: Self::I, a: Self::I) -> Self::Dots {
        for i in 0..4 {
            // SAFETY: see the impl.
            unsafe {
                let (w, a) = (vreinterpretq_s8_s32(w[i]), vreinterpretq_s8_s32(a[i]));
                if LEVEL >= DOTPROD {
                    dots[i] = dots::sdot(dots[i], w, a);
                } else {
                    let (low, high) = (vreinterpretq_s16_s32(dots[i]), vreinterpretq_s16_s32(dots[i + 4]));
                    dots[i] = vreinterpretq_s32_s16(dots::add_low(low, w, a));
                    dots[i + 4] = vreinterpretq_s32_s16(dots::add_high(high, w, a));
                }
            }
        }
        dots
    }
    #[inline(always)]
    fn close(self, mut acc: Self::I, dots: Self::Dots) -> Self::I {
        if LEVEL >= DOTPROD {
            let [a, b, c, d, ..] = dots;
            return [a, b, c, d];
        }
        for i in 0..4 {
            // SAFETY: see the impl.
            unsafe {
                let (low, high) = (vreinterpretq_s16_s32(dots[i]), vreinterpretq_s16_s32(dots[i + 4]));
                acc[i] = dots::add_fours(acc[i], low, high);
            }
        }
        acc
    }
    #[inline(always)]
    fn dot8(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        four!(dot8::<LEVEL>, acc, w, a)
    }
    #[inline(always)]
    fn to_f(self, v: Self::I) -> Self::F {
        four!(vcvtq_f32_s32, v)
    }
    #[inline(always)]
    fn round(self, v: Self::F) -> Self::I {
        four!(vcvtnq_s32_f32, v)
    }
    #[inline(always)]
    fn pow2(self, v: Self::I) -> Self::F {
        let bias = self.isplat(127);
        let v = self.shl::<23>(four!(vaddq_s32, v, bias));
        four!(vreinterpretq_f32_s32, v)
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
        // SAFETY: see the impl.
        unsafe {
            let low = vqmovn_high_s32(vqmovn_s32(v[0]), v[1]);
            let high = vqmovn_high_s32(vqmovn_s32(v[2]), v[3]);
            vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(low), high));
        }
    }
    #[inline(always)]
    fn bf16_low(self, v: Self::I) -> Self::F {
        let v = self.shl::<16>(v);
        four!(vreinterpretq_f32_s32, v)
    }
    #[inline(always)]
    fn bf16_high(self, v: Self::I) -> Self::F {
        let mask = self.isplat(0xffff_0000_u32 as i32);
        let v = four!(vandq_s32, v, mask);
        four!(vreinterpretq_f32_s32, v)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::I, a: Self::I) -> Self::F {
        if Self::BF16_DOT {
            four!(dots::bfdot, acc, w, a)
        } else {
            let acc = self.fma(self.bf16_low(w), self.bf16_low(a), acc);
            self.fma(self.bf16_high(w), self.bf16_high(a), acc)
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults and changes nothing.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}
