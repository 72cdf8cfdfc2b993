//! AVX-512 with VNNI, and BF16 if present (`Avx512<true>`): one 512-bit register is one vector.

use crate::simd::{LANES, Op, Simd};
use half::f16;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI (and BF16, if `BF16`).
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// Detects the set on this CPU.
    pub fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        (base && (!BF16 || is_x86_feature_detected!("avx512bf16"))).then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
unsafe fn run_base<const BF16: bool, O: Op>(s: Avx512<BF16>, op: O) -> O::Out {
    op.run(s)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
unsafe fn run_bf16<const BF16: bool, O: Op>(s: Avx512<BF16>, op: O) -> O::Out {
    op.run(s)
}

// SAFETY: for the whole impl: a value exists only if `detect` found every feature used here; callers of pointer methods
// guarantee 16 lanes of readable or writable memory.
unsafe impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type I = __m512i;
    type Dots = __m512i;
    // 6 × 2 sums as integers and as floats, four lines of codes and a broadcast take nearly all 32 registers.
    const TILE: usize = 6;
    const PANELS: usize = 2;
    const STREAMS: usize = 4;
    const QUERIES: usize = 6;
    const BF16_DOT: bool = BF16;

    type Floats = Avx512<false>;
    type Bytes = Avx512<false>;

    #[inline(always)]
    fn floats(self) -> Avx512<false> {
        // A CPU with BF16 has passed the checks of the set without it.
        Avx512(())
    }
    #[inline(always)]
    fn bytes(self) -> Avx512<false> {
        Avx512(())
    }

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { if BF16 { run_bf16(self, op) } else { run_base(self, op) } }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> __m512 {
        // SAFETY: see the impl. The permutation looks at an index's low four bits.
        unsafe {
            let table = self.load_i8(table.as_ptr());
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let codes = if HIGH { _mm512_srli_epi32::<4>(codes) } else { codes };
            _mm512_permutexvar_ps(codes, table)
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(self, p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(v))
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            // The bits of e4m3 are those of an f16 whose exponent is 8 too small: the sign on top, the rest 7 bits higher.
            let v = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
            _mm512_cvtph_ps(_mm256_and_si256(v, _mm256_set1_epi16(!0x407f)))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, v: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_slli_epi32::<N>(v) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, v: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_srli_epi32::<N>(v) }
    }
    #[inline(always)]
    fn entries(self, table: &[u8; LANES], codes: __m512i) -> __m512i {
        // SAFETY: see the impl; the table is 16 bytes.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, codes)
        }
    }
    #[inline(always)]
    fn open(self, acc: __m512i) -> __m512i {
        acc
    }
    #[inline(always)]
    fn dot(self, dots: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(dots, w, a) }
    }
    #[inline(always)]
    fn close(self, _acc: __m512i, dots: __m512i) -> __m512i {
        dots
    }
    #[inline(always)]
    fn dot8(self, acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(acc, w, a) }
    }
    #[inline(always)]
    fn to_f(self, v: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512i {
        // SAFETY: see the impl. The default rounding mode is to nearest even.
        unsafe { _mm512_cvtps_epi32(v) }
    }
    #[inline(always)]
    fn pow2(self, v: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(v, _mm512_set1_epi32(127)))) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(v)) }
    }
    #[inline(always)]
    fn bf16_low(self, v: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)) }
    }
    #[inline(always)]
    fn bf16_high(self, v: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000_u32 as i32))) }
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, w: __m512i, a: __m512i) -> __m512 {
        if BF16 {
            // SAFETY: see the impl; both types are 512 bits of the same data.
            unsafe {
                _mm512_dpbf16_ps(
                    acc,
                    std::mem::transmute::<__m512i, __m512bh>(w),
                    std::mem::transmute::<__m512i, __m512bh>(a),
                )
            }
        } else {
            let acc = self.fma(self.bf16_low(w), self.bf16_low(a), acc);
            self.fma(self.bf16_high(w), self.bf16_high(a), acc)
        }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize, fill: f32) -> __m512 {
        let mask = ((1u32 << n.min(LANES)) - 1) as __mmask16;
        // SAFETY: masked-out lanes are not read; the caller vouches for the others.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        let mask = ((1u32 << n.min(LANES)) - 1) as __mmask16;
        // SAFETY: masked-out lanes are not written; the caller vouches for the others.
        unsafe { _mm512_mask_storeu_ps(p, mask, v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
