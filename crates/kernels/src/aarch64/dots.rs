//! Dot products and `f16` conversions of one 128-bit register.
//!
//! Stable Rust has no intrinsics for `sdot` (before 1.98), `usdot`, `bfdot` and `f16` (before 1.94). They are written here as
//! single instructions that read and write only the named registers, so the compiler can place, reorder and drop them like
//! intrinsics. Each function's `target_feature` names the CPU feature it needs.

use std::arch::aarch64::*;
use std::arch::asm;

/// One instruction as an expression: `inst!("sdot …", acc)` updates `acc`, `inst!("fcvtl …", -> T)` makes a `T`.
macro_rules! inst {
    ($text:literal, $acc:ident, w = $w:expr, a = $a:expr) => {{
        let mut acc = $acc;
        // SAFETY: registers only; the function's `target_feature` guarantees the instruction.
        unsafe {
            asm!($text, acc = inout(vreg) acc, w = in(vreg) $w, a = in(vreg) $a,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }};
    ($text:literal, v = $v:expr) => {{
        let out;
        // SAFETY: registers only; every function here enables NEON, which has the instruction.
        unsafe {
            asm!($text, out = lateout(vreg) out, v = in(vreg) $v,
                options(pure, nomem, nostack, preserves_flags));
        }
        out
    }};
}

/// `acc` plus the products of the low eight bytes. Not an intrinsic, because the compiler would turn a chain of additions
/// into a tree, which needs too many registers.
#[inline]
#[target_feature(enable = "neon")]
pub fn add_low(acc: int16x8_t, w: int8x16_t, a: int8x16_t) -> int16x8_t {
    inst!("smlal {acc:v}.8h, {w:v}.8b, {a:v}.8b", acc, w = w, a = a)
}

/// As [`add_low`] for the high eight bytes.
#[inline]
#[target_feature(enable = "neon")]
pub fn add_high(acc: int16x8_t, w: int8x16_t, a: int8x16_t) -> int16x8_t {
    inst!("smlal2 {acc:v}.8h, {w:v}.16b, {a:v}.16b", acc, w = w, a = a)
}

/// `acc` plus the sums of every four neighbours of `low` and `high`. The sum of two of them fits an `i16`.
#[inline]
#[target_feature(enable = "neon")]
pub fn add_fours(acc: int32x4_t, low: int16x8_t, high: int16x8_t) -> int32x4_t {
    vpadalq_s16(acc, vpaddq_s16(low, high))
}

/// `acc[i] + Σ_{j<4} w[4i+j] · a[4i+j]` over signed bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn sdot(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    inst!("sdot {acc:v}.4s, {w:v}.16b, {a:v}.16b", acc, w = w, a = a)
}

/// As [`sdot`], with `w` unsigned.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub fn usdot(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    inst!("usdot {acc:v}.4s, {w:v}.16b, {a:v}.16b", acc, w = w, a = a)
}

/// `acc[i] + w[2i] · a[2i] + w[2i+1] · a[2i+1]` over `bf16`.
#[inline]
#[target_feature(enable = "neon,bf16")]
pub fn bfdot(acc: float32x4_t, w: int32x4_t, a: int32x4_t) -> float32x4_t {
    inst!("bfdot {acc:v}.4s, {w:v}.8h, {a:v}.8h", acc, w = w, a = a)
}

/// Eight `i16` to `f32`.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen_i16(v: int16x8_t) -> (float32x4_t, float32x4_t) {
    (vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v)))
}

/// Sixteen `i8` to `f32`.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen_i8(v: int8x16_t) -> [float32x4_t; 4] {
    let (a, b) = widen_i16(vmovl_s8(vget_low_s8(v)));
    let (c, d) = widen_i16(vmovl_high_s8(v));
    [a, b, c, d]
}

/// Eight `f16` to `f32`, exactly.
#[inline]
#[target_feature(enable = "neon")]
pub fn widen_f16(v: uint16x8_t) -> (float32x4_t, float32x4_t) {
    (inst!("fcvtl {out:v}.4s, {v:v}.4h", v = v), inst!("fcvtl2 {out:v}.4s, {v:v}.8h", v = v))
}

/// Four `f32` to `f16`, rounded to nearest even.
#[inline]
#[target_feature(enable = "neon")]
pub fn narrow_f16(v: float32x4_t) -> uint16x4_t {
    inst!("fcvtn {out:v}.4h, {v:v}.4s", v = v)
}
