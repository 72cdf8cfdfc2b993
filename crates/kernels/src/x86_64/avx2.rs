//! AVX2 with FMA and F16C, and the VEX form of VNNI if present (`Avx2<true>`): two 256-bit registers make one vector.

use crate::simd::{LANES, Op, Simd};
use half::f16;
use std::arch::asm;
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C (and AVX-VNNI, if `VNNI`).
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// Detects the set on this CPU.
    pub fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        (base && (!VNNI || is_x86_feature_detected!("avxvnni"))).then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn run_base<const VNNI: bool, O: Op>(s: Avx2<VNNI>, op: O) -> O::Out {
    op.run(s)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
unsafe fn run_vnni<const VNNI: bool, O: Op>(s: Avx2<VNNI>, op: O) -> O::Out {
    op.run(s)
}

/// `v`, forced to exist at this point: otherwise the compiler would turn a chain of additions into a tree and spill the
/// weights that the tree's leaves share.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// `dots + w·a`, with the products of neighbours summed in 16 bits.
#[inline(always)]
unsafe fn dot_pairs(dots: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: only methods of an `Avx2` value call this, and such a value proves that the CPU has these instructions.
    unsafe { in_order(_mm256_add_epi16(dots, _mm256_maddubs_epi16(w, a))) }
}

/// `acc` plus each lane's two 16-bit sums.
#[inline(always)]
unsafe fn add_pairs(acc: __m256i, dots: __m256i) -> __m256i {
    // SAFETY: only methods of an `Avx2` value call this, and such a value proves that the CPU has these instructions.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(dots, _mm256_set1_epi16(1))) }
}

/// `acc + Σ (w − 128)·a`: magnitudes times `a` with their signs applied; the sum of two products is at most 128·127·2 < 2^15.
#[inline(always)]
unsafe fn dot_centred(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    // SAFETY: only methods of an `Avx2` value call this, and such a value proves that the CPU has these instructions.
    unsafe {
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        in_order(add_pairs(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))))
    }
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $($v:ident),+) => {
        // SAFETY: an `Avx2` value is the proof that the CPU has these instructions.
        unsafe { ($f($($v.0),+), $f($($v.1),+)) }
    };
}

// SAFETY: for the whole impl: a value exists only if `detect` found every feature used here; callers of pointer methods
// guarantee 16 lanes of readable or writable memory.
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = (__m256, __m256);
    type I = (__m256i, __m256i);
    /// `i32` with VNNI, otherwise pairs of `i16`.
    type Dots = (__m256i, __m256i);
    // With VNNI, 3 sums as integers and as floats, a line of codes and a broadcast take all 16 registers. Without VNNI,
    // processing a line costs more than spilling sums.
    const TILE: usize = if VNNI { 3 } else { 6 };
    const FLOAT_TILE: usize = 6;
    const STREAMS: usize = 4;
    const DOT8_CENTRES: bool = !VNNI;
    // A key and the sums of three queries take 8 of the 16 registers; six queries would need too many.
    const QUERIES: usize = 3;
    const BF16_DOT: bool = false;

    type Floats = Avx2<false>;
    type Bytes = Self;

    #[inline(always)]
    fn floats(self) -> Avx2<false> {
        // A CPU with VNNI has passed the checks of the set without it.
        Avx2(())
    }
    #[inline(always)]
    fn bytes(self) -> Self {
        self
    }

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { if VNNI { run_vnni(self, op) } else { run_base(self, op) } }
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
    unsafe fn look_up<const HIGH: bool>(self, table: &[i8; LANES], p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let codes = _mm_loadu_si128(p.cast());
            let codes = if HIGH { _mm_srli_epi16::<4>(codes) } else { codes };
            let codes = _mm_and_si128(codes, _mm_set1_epi8(15));
            let v = _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), codes);
            let (lo, hi) = (_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v)));
            (_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi))
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (lo, hi) = (_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v)));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(lo)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(hi)),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> Self::F {
        // SAFETY: see the impl.
        unsafe {
            // The bits of e4m3 are those of an f16 whose exponent is 8 too small: the sign on top, the rest 7 bits higher.
            let v = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
            let v = _mm256_and_si256(v, _mm256_set1_epi16(!0x407f));
            (_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v)))
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
    fn entries(self, table: &[u8; LANES], codes: Self::I) -> Self::I {
        // SAFETY: see the impl; the table is 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            (_mm256_shuffle_epi8(table, codes.0), _mm256_shuffle_epi8(table, codes.1))
        }
    }
    #[inline(always)]
    fn open(self, acc: Self::I) -> Self::Dots {
        if VNNI { acc } else { self.isplat(0) }
    }
    #[inline(always)]
    fn dot(self, dots: Self::Dots, w: Self::I, a: Self::I) -> Self::Dots {
        if VNNI { both!(_mm256_dpbusd_avx_epi32, dots, w, a) } else { both!(dot_pairs, dots, w, a) }
    }
    #[inline(always)]
    fn close(self, acc: Self::I, dots: Self::Dots) -> Self::I {
        if VNNI { dots } else { both!(add_pairs, acc, dots) }
    }
    #[inline(always)]
    fn dot8(self, acc: Self::I, w: Self::I, a: Self::I) -> Self::I {
        if VNNI { both!(_mm256_dpbusd_avx_epi32, acc, w, a) } else { both!(dot_centred, acc, w, a) }
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
