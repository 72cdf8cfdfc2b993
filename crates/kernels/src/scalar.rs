//! The portable instruction set: plain arrays that the compiler may vectorise. It runs everywhere and is the readable
//! definition of each [`Simd`] method.
//!
//! The larger operations are functions and not inlined: copies of them would be half of the code that this crate compiles to,
//! for CPUs that hardly exist.

use crate::simd::{LANES, Op, Simd};
use half::{bf16, f16};

/// Plain Rust, available on every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

impl Scalar {
    /// Always succeeds: every CPU can run it.
    pub fn detect() -> Option<Self> {
        Some(Self)
    }
}

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> F {
    std::array::from_fn(f)
}

#[inline(always)]
fn imap(f: impl Fn(usize) -> i32) -> I {
    std::array::from_fn(f)
}

/// `acc + Σ w·a` over the four bytes of a lane: `w` unsigned, `a` signed.
#[inline(always)]
fn dot4(acc: i32, w: i32, a: i32) -> i32 {
    let (w, a) = (w.to_le_bytes(), a.to_le_bytes());
    (0..4).fold(acc, |sum, j| sum + i32::from(w[j]) * i32::from(a[j] as i8))
}

#[inline(never)]
fn run<O: Op>(op: O) -> O::Out {
    op.run(Scalar)
}

// SAFETY: no CPU feature is used.
unsafe impl Simd for Scalar {
    type F = F;
    type I = I;
    type Dots = I;
    const TILE: usize = 2;
    const QUERIES: usize = 2;
    const BF16_DOT: bool = false;

    type Floats = Self;
    type Bytes = Self;

    #[inline(always)]
    fn floats(self) -> Self {
        self
    }
    #[inline(always)]
    fn bytes(self) -> Self {
        self
    }

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        run(op)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller vouches for 16 values.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller vouches for 16 values.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(never)]
    unsafe fn load_f16(self, p: *const f16) -> F {
        // SAFETY: the caller vouches for 16 values.
        let v = unsafe { p.cast::<[f16; LANES]>().read_unaligned() };
        map(|i| v[i].to_f32())
    }
    #[inline(never)]
    unsafe fn store_f16(self, p: *mut f16, v: F) {
        // SAFETY: the caller vouches for 16 values.
        unsafe { p.cast::<[f16; LANES]>().write_unaligned(std::array::from_fn(|i| f16::from_f32(v[i]))) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller vouches for 16 values.
        let v = unsafe { p.cast::<[i8; LANES]>().read_unaligned() };
        map(|i| f32::from(v[i]))
    }
    #[inline(never)]
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> F {
        // SAFETY: the caller vouches for 16 bytes.
        let v = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        map(|i| f32::from(table[usize::from(if HIGH { v[i] >> 4 } else { v[i] & 15 })]))
    }
    #[inline(always)]
    unsafe fn load_e8m0(self, p: *const u8) -> F {
        // SAFETY: the caller vouches for 16 values.
        let v = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        map(|i| f32::from_bits(u32::from(v[i]) << 23))
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> F {
        // SAFETY: the caller vouches for 16 values.
        let v = unsafe { p.cast::<[i8; LANES]>().read_unaligned() };
        // The bits of e4m3 are those of an f16 whose exponent is 8 too small: the sign on top, the rest 7 bits higher.
        map(|i| f16::from_bits((i16::from(v[i]) << 7) as u16 & !0x407f).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> F {
        // SAFETY: the caller vouches for 16 values.
        let v = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        map(|i| f32::from(v[i]))
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        map(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        map(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        map(|i| a[i] * b[i])
    }
    #[inline(never)]
    fn div(self, a: F, b: F) -> F {
        map(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        map(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        map(|i| a[i].min(b[i]))
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        map(|i| a[i].abs())
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // Not `mul_add`, which is a library call without an FMA instruction.
        map(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        map(|i| c[i] - a[i] * b[i])
    }
    #[inline(never)]
    fn sum(self, v: F) -> f32 {
        v.iter().sum()
    }
    #[inline(never)]
    fn max_lane(self, v: F) -> f32 {
        v.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for 64 bytes.
        let v = unsafe { p.cast::<I>().read_unaligned() };
        imap(|i| i32::from_le(v[i]))
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        imap(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        imap(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shl<const N: u32>(self, v: I) -> I {
        imap(|i| v[i] << N)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, v: I) -> I {
        imap(|i| ((v[i] as u32) >> N) as i32)
    }
    #[inline(never)]
    fn entries(self, table: &[u8; LANES], codes: I) -> I {
        imap(|i| i32::from_le_bytes(codes[i].to_le_bytes().map(|code| table[usize::from(code & 15)])))
    }
    #[inline(always)]
    fn open(self, acc: I) -> I {
        acc
    }
    #[inline(never)]
    fn dot(self, dots: I, w: I, a: I) -> I {
        imap(|i| dot4(dots[i], w[i], a[i]))
    }
    #[inline(always)]
    fn close(self, _acc: I, dots: I) -> I {
        dots
    }
    #[inline(never)]
    fn dot8(self, acc: I, w: I, a: I) -> I {
        imap(|i| dot4(acc[i], w[i], a[i]))
    }
    #[inline(always)]
    fn to_f(self, v: I) -> F {
        map(|i| v[i] as f32)
    }
    #[inline(never)]
    fn round(self, v: F) -> I {
        imap(|i| v[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn pow2(self, v: I) -> F {
        map(|i| f32::from_bits(((v[i] + 127) as u32) << 23))
    }
    #[inline(never)]
    unsafe fn store_i8(self, p: *mut i8, v: I) {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            p.cast::<[i8; LANES]>().write_unaligned(std::array::from_fn(|i| v[i].clamp(-128, 127) as i8))
        }
    }
    #[inline(always)]
    fn bf16_low(self, v: I) -> F {
        map(|i| bf16::from_bits(v[i] as u16).to_f32())
    }
    #[inline(always)]
    fn bf16_high(self, v: I) -> F {
        map(|i| bf16::from_bits((v[i] >> 16) as u16).to_f32())
    }
    #[inline(never)]
    fn dot_bf16(self, acc: F, w: I, a: I) -> F {
        let s = self;
        let acc = s.fma(s.bf16_low(w), s.bf16_low(a), acc);
        s.fma(s.bf16_high(w), s.bf16_high(a), acc)
    }
}
