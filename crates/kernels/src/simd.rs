//! The vector interface of all kernels: vectors of 16 lanes on every machine.
//!
//! A kernel is an [`Op`]: a struct of its arguments with one generic body. [`crate::Isa::run`] compiles that body once per
//! instruction set, in a function that enables the set, so everything is inlined into vector code.
//! Sixteen lanes are one AVX-512 register, two of AVX2, four of NEON; the panels of [`crate::pack`] are 16 rows for the
//! same reason.

use half::f16;

/// Lanes of every vector.
pub const LANES: usize = 16;

/// How many consecutive calls of [`Simd::dot`] are exact with codes of this many bits: pairs of products are summed in 16 bits.
pub const fn dots_between(bits: usize) -> usize {
    32767 / (2 * 127 * ((1 << bits) - 1))
}

/// A kernel: its arguments, and its body over any instruction set.
pub trait Op {
    /// What the kernel returns.
    type Out;
    /// The body. Implementations are `#[inline(always)]`, so that they are compiled for the caller's instruction set.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// One instruction set. A value of such a type exists only if the CPU has the set, so methods without pointers are safe.
///
/// # Safety
/// Implementors guarantee that a value exists only after detecting every CPU feature that the methods use. Callers of pointer
/// methods guarantee readable (writable) memory of the stated length; no alignment is needed.
#[allow(clippy::missing_safety_doc)] // the trait's own section holds for pointer methods
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// 16 `f32`.
    type F: Copy;
    /// 16 `i32`, or their 64 bytes.
    type I: Copy;
    /// 16 partial sums of byte products before they become an [`Simd::I`]: the same type if one instruction dots four bytes,
    /// otherwise sums in 16 bits, because widening each product would cost more than the product.
    type Dots: Copy;

    /// Maximum tokens in a register tile of quantised weights (tokens × panels of 16 rows), up to [`crate::activations::TILE`].
    const TILE: usize;
    /// As [`Simd::TILE`] for float weights, whose sums take half the registers.
    const FLOAT_TILE: usize = Self::TILE;
    /// Panels in a register tile, which share each broadcast activation.
    const PANELS: usize = 1;
    /// Panels that the product with a single token reads side by side: several streams hide the memory's latency.
    const STREAMS: usize = 1;
    /// Whether [`Simd::dot8`] subtracts 128 from every `w`, because this set multiplies signed bytes: a zero point at no cost.
    const DOT8_CENTRES: bool = false;
    /// Maximum queries in a tile of attention.
    const QUERIES: usize;
    /// Whether [`Simd::dot_bf16`] is one instruction.
    const BF16_DOT: bool;

    /// The smallest set with the same `f32` arithmetic and conversions: kernels without dot products are compiled only for it.
    type Floats: Simd;
    /// The smallest set with the same byte dot products.
    type Bytes: Simd;

    /// This CPU's [`Simd::Floats`].
    fn floats(self) -> Self::Floats;
    /// This CPU's [`Simd::Bytes`].
    fn bytes(self) -> Self::Bytes;

    /// Runs `op` in a function with this instruction set enabled. The function is never inlined, so a kernel can be split into
    /// parts that compile separately.
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
    /// The entries of `table` for the low (`HIGH`: high) halves of 16 bytes.
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> Self::F;
    /// Reads 16 bytes `e` as `2^(e − 127)`; 0 for 0, infinity for 255.
    unsafe fn load_e8m0(self, p: *const u8) -> Self::F;
    /// Reads 16 bytes as e4m3 ([`crate::float8`]) times 2^−8, exactly; the codes of NaN as ±480 · 2^−8.
    unsafe fn load_e4m3(self, p: *const u8) -> Self::F;
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
    /// `a * b + c`, fused if the set supports it.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, fused if the set supports it.
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
    /// Each `i32` lane shifted right by `N`, filled with zeros.
    fn shr<const N: u32>(self, v: Self::I) -> Self::I;
    /// The entries of `table` for 64 bytes below 16.
    fn entries(self, table: &[u8; LANES], codes: Self::I) -> Self::I;
    /// Starts dot products at `acc`; [`Simd::close`] must get the same `acc`.
    fn open(self, acc: Self::I) -> Self::Dots;
    /// `dots[i] + Σ_{j<4} w[4i+j] · a[4i+j]` with unsigned bytes `w` and signed bytes `a` other than −128. Exact if there are at
    /// most [`dots_between`] calls for the largest `w` between [`Simd::open`] and [`Simd::close`].
    fn dot(self, dots: Self::Dots, w: Self::I, a: Self::I) -> Self::Dots;
    /// `acc`, as given to [`Simd::open`], and all products added since.
    fn close(self, acc: Self::I, dots: Self::Dots) -> Self::I;
    /// `acc` plus one [`Simd::dot`] with `w` at most 127. Exact.
    #[inline(always)]
    fn dot7(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        self.close(acc, self.dot(self.open(acc), w, a))
    }
    /// As [`Simd::dot7`] with any unsigned byte `w`; see [`Simd::DOT8_CENTRES`]. Exact.
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
    /// `acc[i] + w.low · a.low + w.high · a.high` over `bf16` pairs, with the hardware's rounding.
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
