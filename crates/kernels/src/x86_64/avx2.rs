//! AVX2 with FMA and F16C: two 256-bit registers are one vector.

use crate::simd::{Op, Simd};
use half::f16;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// Asks the CPU.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<O: Op>(s: Avx2, op: O) -> O::Out {
    op.run(s)
}

/// `acc + Σ w·a` over each lane's four bytes, for products whose pairwise sums fit an `i16`.
#[inline(always)]
unsafe fn dot(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: called only with an `Avx2` at hand.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1))) }
}

/// As [`dot`] for any `w`: its top bit is split off, so that no pairwise sum exceeds 128·127·2 < 2^15.
#[inline(always)]
unsafe fn dot_wide(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: called only with an `Avx2` at hand.
    unsafe {
        let top = _mm256_set1_epi8(-128);
        dot(dot(acc, _mm256_andnot_si256(top, w), a), _mm256_and_si256(top, w), a)
    }
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $($v:ident),+) => {
        // SAFETY: an `Avx2` value is the proof that the CPU has these instructions.
        unsafe { ($f($($v.0),+), $f($($v.1),+)) }
    };
}

// SAFETY: for the whole impl: a value exists only if `detect` found every feature used here; the pointer methods'
// callers vouch for 16 lanes of readable or writable memory.
unsafe impl Simd for Avx2 {
    type F = (__m256, __m256);
    type I = (__m256i, __m256i);
    const TILE: usize = 3;
    const BF16_DOT: bool = false;

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` is the proof.
        unsafe { run(self, op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see the impl.
        let v = unsafe { _mm256_set1_ps(x) };
        (v, v)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: see the impl.
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: Self::F) {
        // SAFETY: see the impl.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (lo, hi) = (_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v)));
            (_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (lo, hi) = (_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v)));
            (_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi))
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = self.splat(-0.0);
        both!(_mm256_andnot_ps, sign, a)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fnmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm256_add_ps(v.0, v.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn max_lane(self, v: Self::F) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm256_max_ps(v.0, v.1);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        // SAFETY: see the impl.
        let v = unsafe { _mm256_set1_epi32(x) };
        (v, v)
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::I {
        // SAFETY: see the impl.
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, v: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            (_mm256_sll_epi32(v.0, n), _mm256_sll_epi32(v.1, n))
        }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, v: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            (_mm256_srl_epi32(v.0, n), _mm256_srl_epi32(v.1, n))
        }
    }
    #[inline(always)]
    fn dot7(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        both!(dot, acc, w, a)
    }
    #[inline(always)]
    fn dot8(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        both!(dot_wide, acc, w, a)
    }
    #[inline(always)]
    fn to_f(self, v: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, v)
    }
    #[inline(always)]
    fn round(self, v: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32, v)
    }
    #[inline(always)]
    fn pow2(self, v: Self::I) -> Self::F {
        let bias = self.isplat(127);
        let v = self.shl::<23>(both!(_mm256_add_epi32, v, bias));
        both!(_mm256_castsi256_ps, v)
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
        // SAFETY: see the impl. Packing works per 128-bit half; the permutation restores the order.
        unsafe {
            let v16 = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(v.0, v.1));
            let v8 = _mm_packs_epi16(_mm256_castsi256_si128(v16), _mm256_extracti128_si256::<1>(v16));
            _mm_storeu_si128(p.cast(), v8);
        }
    }
    #[inline(always)]
    fn bf16_low(self, v: Self::I) -> Self::F {
        let v = self.shl::<16>(v);
        both!(_mm256_castsi256_ps, v)
    }
    #[inline(always)]
    fn bf16_high(self, v: Self::I) -> Self::F {
        let mask = self.isplat(0xffff_0000_u32 as i32);
        let v = both!(_mm256_and_si256, v, mask);
        both!(_mm256_castsi256_ps, v)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::I, a: Self::I) -> Self::F {
        let acc = self.fma(self.bf16_low(w), self.bf16_low(a), acc);
        self.fma(self.bf16_high(w), self.bf16_high(a), acc)
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
