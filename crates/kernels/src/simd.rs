//! The one vocabulary that kernels are written in: vectors of 16 lanes, whatever the machine's width.
//!
//! A kernel is an [`Op`]: a struct of its arguments with one generic body. [`crate::Isa::run`] compiles that body once per
//! instruction set, inside a function that enables the set, so that everything inlines into straight vector code.
//! Sixteen lanes are one AVX-512 register, two of AVX2, four of NEON; the panels of [`crate::pack`] are 16 rows for the
//! same reason.

use half::f16;

/// Lanes of every vector.
pub const LANES: usize = 16;

/// How many times in a row [`Simd::dot`] is exact with codes of so many bits: two products each fit 16 bits.
pub const fn dots_between(bits: usize) -> usize {
    32767 / (2 * 127 * ((1 << bits) - 1))
}

/// A kernel: its arguments, and its body over any instruction set.
pub trait Op {
    /// What the kernel returns.
    type Out;
    /// The body. Implementations are `#[inline(always)]`, so that they take on the caller's instruction set.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// One instruction set. A value of such a type exists only where the CPU has the set, so the methods that take no
/// pointers are safe.
///
/// # Safety
/// Implementors guarantee that a value exists only after the CPU was asked for every feature that the methods use. Callers of
/// pointer methods guarantee readable (writable) memory of the stated length; no alignment is needed.
#[allow(clippy::missing_safety_doc)] // the trait's own section holds for pointer methods
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// 16 `f32`.
    type F: Copy;
    /// 16 `i32`, or the 64 bytes they are made of.
    type I: Copy;
    /// 16 sums of products of bytes on their way to an [`Simd::I`]: the same where one instruction dots four bytes, halves of
    /// 16 bits where one doesn't and widening each product would cost more than the product.
    type Dots: Copy;

    /// Most tokens in a register tile of quantised weights (tokens × panels of 16 rows); at most [`crate::activations::TILE`].
    const TILE: usize;
    /// As [`Simd::TILE`], of float weights, whose sums take half the registers.
    const FLOAT_TILE: usize = Self::TILE;
    /// Panels in a register tile: a broadcast activation serves all of them.
    const PANELS: usize = 1;
    /// Panels that a single token's product reads side by side: several streams hide the memory's latency.
    const STREAMS: usize = 1;
    /// [`Simd::dot8`] takes 128 off every `w`, since this set multiplies signed bytes with signed ones: a zero point that
    /// costs nothing.
    const DOT8_CENTRES: bool = false;
    /// Most queries in a tile of attention.
    const QUERIES: usize;
    /// [`Simd::dot_bf16`] is one instruction here.
    const BF16_DOT: bool;

    /// The smallest set that computes with `f32` and converts as this one does: kernels without dot products are compiled for
    /// it only.
    type Floats: Simd;
    /// The smallest set that has the byte dot products of this one.
    type Bytes: Simd;

    /// This CPU's [`Simd::Floats`].
    fn floats(self) -> Self::Floats;
    /// This CPU's [`Simd::Bytes`].
    fn bytes(self) -> Self::Bytes;

    /// Runs `op` in a function that has this instruction set enabled. The function is never inlined, so that a kernel can be
    /// cut into parts that compile by themselves.
    fn vectorize<O: Op>(self, op: O) -> O::Out;

    /// Every lane `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Reads 16 `f32`.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Writes 16 `f32`.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Reads 16 `f16`, exactly.
    unsafe fn load_f16(self, p: *const f16) -> Self::F;
    /// Writes 16 `f16`, rounded to nearest even.
    unsafe fn store_f16(self, p: *mut f16, v: Self::F);
    /// Reads 16 signed bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::F;
    /// What the low (`HIGH`: the high) halves of 16 bytes stand for in `table`.
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> Self::F;
    /// Reads 16 unsigned bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::F;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `max(a, b)`; which one is returned for NaN is unspecified.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `min(a, b)`; which one is returned for NaN is unspecified.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `|a|`
    fn abs(self, a: Self::F) -> Self::F;
    /// `a * b + c`, fused where the set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, fused where the set can.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The sum of all lanes, in an order fixed per set.
    fn sum(self, v: Self::F) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::F) -> f32;

    /// Every lane `x`.
    fn isplat(self, x: i32) -> Self::I;
    /// Reads 64 bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::I;
    /// Bitwise `a & b`.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise `a | b`.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each `i32` lane shifted left by `N`.
    fn shl<const N: u32>(self, v: Self::I) -> Self::I;
    /// Each `i32` lane shifted right by `N`; zeros come in.
    fn shr<const N: u32>(self, v: Self::I) -> Self::I;
    /// Dot products that start at `acc`, if [`Simd::close`] gets the same.
    fn open(self, acc: Self::I) -> Self::Dots;
    /// `dots[i] + Σ_{j<4} w[4i+j] · a[4i+j]` with `w` unsigned, `a` signed bytes but not −128. Exact, if no more than
    /// [`dots_between`] of the largest `w` come between [`Simd::open`] and [`Simd::close`].
    fn dot(self, dots: Self::Dots, w: Self::I, a: Self::I) -> Self::Dots;
    /// What was opened with `acc`, and all added since.
    fn close(self, acc: Self::I, dots: Self::Dots) -> Self::I;
    /// `acc` and one [`Simd::dot`], `w` at most 127. Exact.
    #[inline(always)]
    fn dot7(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        self.close(acc, self.dot(self.open(acc), w, a))
    }
    /// As [`Simd::dot7`] with `w` any unsigned byte; see [`Simd::DOT8_CENTRES`]. Exact.
    fn dot8(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// `i32` lanes to `f32`.
    fn to_f(self, v: Self::I) -> Self::F;
    /// To the nearest `i32`, ties to even. Lanes outside `i32` are unspecified.
    fn round(self, v: Self::F) -> Self::I;
    /// `2^v` for `v` in −126..=127.
    fn pow2(self, v: Self::I) -> Self::F;
    /// Writes 16 lanes as signed bytes, saturating.
    unsafe fn store_i8(self, p: *mut i8, v: Self::I);
    /// The `bf16` in each lane's low half.
    fn bf16_low(self, v: Self::I) -> Self::F;
    /// The `bf16` in each lane's high half.
    fn bf16_high(self, v: Self::I) -> Self::F;
    /// `acc[i] + w.low · a.low + w.high · a.high` over `bf16` pairs; rounding as the hardware does it.
    fn dot_bf16(self, acc: Self::F, w: Self::I, a: Self::I) -> Self::F;

    /// Prefetches a cache line; any address is allowed.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// Reads the first `n < 16` `f32`; the other lanes are `fill`.
    ///
    /// # Safety
    /// `p` is readable for `n` values.
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize, fill: f32) -> Self::F {
        let mut lanes = [fill; LANES];
        // SAFETY: the caller guarantees `n` values at `p`; `lanes` holds 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(LANES));
            self.load(lanes.as_ptr())
        }
    }

    /// Writes the first `n < 16` lanes.
    ///
    /// # Safety
    /// `p` is writable for `n` values.
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F) {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller guarantees `n` values at `p`; `lanes` holds 16.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(LANES));
        }
    }

    /// `e^x` to about 2 ulp: `x = n·ln 2 + r`, a degree-6 polynomial in `r`, scaled by `2^n`. Below −87 it is the
    /// smallest normal number, not 0; above 88 it saturates.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let s = self;
        let x = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
        let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
        let nf = s.to_f(n);
        // ln 2 in two parts (Cody & Waite), so that r is exact to the last bits
        let r = s.fnma(nf, s.splat(0.693_359_4), x);
        let r = s.fnma(nf, s.splat(-2.121_944_4e-4), r);
        let mut p = s.splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = s.fma(p, r, s.splat(c));
        }
        s.mul(p, s.pow2(n))
    }
}
