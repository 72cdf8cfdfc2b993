//! Stored bytes to `f32`: the readable reference for every format, which the kernels' tests compare with.
//!
//! Each function is its type's formula in [`crate::blocks`], with the operations in the order of gguf-py's
//! `gguf.quants.dequantize`, so the results are equal bit for bit. (The one exception is an MXFP4 scale of 255, which is NaN here:
//! [`BlockMXFP4::scale`].) Q2_0 and Q1_0, which gguf-py lacks, are as in llama.cpp.

use crate::DType;
use crate::blocks::*;
use crate::float8;
use crate::grids::*;

/// Dequantises `bytes` (whole blocks of `dtype`) into `out`.
///
/// # Panics
/// If `bytes.len()` differs from the size of `out.len()` values of `dtype` ([`DType::bytes_for`]).
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.bytes_for(out.len()), Some(bytes.len()), "byte count of {dtype}");
    match dtype {
        DType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *o = Half(*b).to_f32();
            }
        }
        DType::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        DType::Q4_0 => each(bytes, out, q4_0),
        DType::Q4_1 => each(bytes, out, q4_1),
        DType::Q5_0 => each(bytes, out, q5_0),
        DType::Q5_1 => each(bytes, out, q5_1),
        DType::Q8_0 => each(bytes, out, q8_0),
        DType::Q2_K => each(bytes, out, q2_k),
        DType::Q3_K => each(bytes, out, q3_k),
        DType::Q4_K => each(bytes, out, q4_k),
        DType::Q5_K => each(bytes, out, q5_k),
        DType::Q6_K => each(bytes, out, q6_k),
        DType::MXFP4 => each(bytes, out, mxfp4),
        DType::IQ4_NL => each(bytes, out, iq4_nl),
        DType::IQ4_XS => each(bytes, out, iq4_xs),
        DType::TQ1_0 => each(bytes, out, tq1_0),
        DType::TQ2_0 => each(bytes, out, tq2_0),
        DType::Q1_0 => each(bytes, out, q1_0),
        DType::Q2_0 => each(bytes, out, q2_0),
        DType::NVFP4 => each(bytes, out, nvfp4),
        DType::IQ2_XXS => each(bytes, out, grid::<BlockIQ2XXS>),
        DType::IQ2_XS => each(bytes, out, grid::<BlockIQ2XS>),
        DType::IQ2_S => each(bytes, out, grid::<BlockIQ2S>),
        DType::IQ3_XXS => each(bytes, out, grid::<BlockIQ3XXS>),
        DType::IQ3_S => each(bytes, out, grid::<BlockIQ3S>),
        DType::IQ1_S => each(bytes, out, grid::<BlockIQ1S>),
        DType::IQ1_M => each(bytes, out, grid::<BlockIQ1M>),
        DType::F8_E4M3 => each(bytes, out, float8::dequantize),
    }
}

/// Runs one block's function over all blocks.
fn each<B: Block, const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn(&B, &mut [f32; N])) {
    const { assert!(B::DTYPE.block_len() == N) };
    for (block, values) in bytemuck::cast_slice::<u8, B>(bytes).iter().zip(out.as_chunks_mut().0) {
        f(block, values);
    }
}

/// Code of value `i` in 16 bytes of nibbles ([`BlockQ4_0::qs`]).
fn nibble(qs: &[u8; 16], i: usize) -> u8 {
    (qs[i % 16] >> (4 * (i / 16))) & 15
}

fn q4_0(b: &BlockQ4_0, out: &mut [f32; BLOCK]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * (nibble(&b.qs, i) as i8 - 8) as f32;
    }
}

fn q4_1(b: &BlockQ4_1, out: &mut [f32; BLOCK]) {
    let (d, m) = (b.d.to_f32(), b.m.to_f32());
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * nibble(&b.qs, i) as f32 + m;
    }
}

/// Code of value `i` with its fifth bit.
fn five_bits(qs: &[u8; 16], qh: [u8; 4], i: usize) -> u8 {
    nibble(qs, i) | ((u32::from_le_bytes(qh) >> i & 1) << 4) as u8
}

fn q5_0(b: &BlockQ5_0, out: &mut [f32; BLOCK]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * (five_bits(&b.qs, b.qh, i) as i8 - 16) as f32;
    }
}

fn q5_1(b: &BlockQ5_1, out: &mut [f32; BLOCK]) {
    let (d, m) = (b.d.to_f32(), b.m.to_f32());
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * five_bits(&b.qs, b.qh, i) as f32 + m;
    }
}

fn q8_0(b: &BlockQ8_0, out: &mut [f32; BLOCK]) {
    let d = b.d.to_f32();
    for (o, q) in out.iter_mut().zip(b.qs) {
        *o = d * q as f32;
    }
}

/// Two bits of value `i` of 256, in runs of 32 bytes for 128 values ([`BlockQ2K::qs`]).
fn two_bits(qs: &[u8; 64], i: usize) -> u8 {
    let (run, k, byte) = (i / 128, i % 128 / 32, i % 32);
    (qs[32 * run + byte] >> (2 * k)) & 3
}

fn q2_k(b: &BlockQ2K, out: &mut [f32; SUPER]) {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    for (i, o) in out.iter_mut().enumerate() {
        let packed = b.scales[i / 16];
        let scale = d * (packed & 15) as f32;
        let min = dmin * (packed >> 4) as f32;
        *o = scale * two_bits(&b.qs, i) as f32 - min;
    }
}

fn q3_k(b: &BlockQ3K, out: &mut [f32; SUPER]) {
    let d = b.d.to_f32();
    let scales = b.scales();
    for (i, o) in out.iter_mut().enumerate() {
        let scale = d * scales[i / 16] as f32;
        let high = b.hmask[i % 32] >> (i / 32) & 1;
        let code = two_bits(&b.qs, i) as i8 - if high == 1 { 0 } else { 4 };
        *o = scale * code as f32;
    }
}

/// Low four bits of value `i` of 256, in runs of 32 bytes for two sub-blocks of 32 ([`BlockQ4K::qs`]).
fn four_bits(qs: &[u8; 128], i: usize) -> u8 {
    let (sub, byte) = (i / 32, i % 32);
    (qs[32 * (sub / 2) + byte] >> (4 * (sub % 2))) & 15
}

fn q4_k(b: &BlockQ4K, out: &mut [f32; SUPER]) {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    let pairs = scales_and_minima(&b.scales).map(|(s, m)| (d * s as f32, dmin * m as f32));
    for (i, o) in out.iter_mut().enumerate() {
        let (scale, min) = pairs[i / 32];
        *o = scale * four_bits(&b.qs, i) as f32 - min;
    }
}

fn q5_k(b: &BlockQ5K, out: &mut [f32; SUPER]) {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    let pairs = scales_and_minima(&b.scales).map(|(s, m)| (d * s as f32, dmin * m as f32));
    for (i, o) in out.iter_mut().enumerate() {
        let (scale, min) = pairs[i / 32];
        let code = four_bits(&b.qs, i) | ((b.qh[i % 32] >> (i / 32) & 1) << 4);
        *o = scale * code as f32 - min;
    }
}

fn q6_k(b: &BlockQ6K, out: &mut [f32; SUPER]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        let (run, rest) = (i / 128, i % 128);
        let low = (b.ql[64 * run + rest % 64] >> (4 * (rest / 64))) & 15;
        let code = (low | (two_bits(&b.qh, i) << 4)) as i8 - 32;
        *o = (d * b.scales[i / 16] as f32) * code as f32;
    }
}

fn mxfp4(b: &BlockMXFP4, out: &mut [f32; BLOCK]) {
    let d = b.scale();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(E2M1[usize::from(nibble(&b.qs, i))]);
    }
}

fn nvfp4(b: &BlockNVFP4, out: &mut [f32; 64]) {
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        let d = b.scale(j);
        for (i, o) in out.iter_mut().enumerate() {
            let code = b.qs[8 * j + i % 8] >> (4 * (i / 8)) & 15;
            *o = d * f32::from(E2M1[usize::from(code)]);
        }
    }
}

fn iq4_nl(b: &BlockIQ4NL, out: &mut [f32; BLOCK]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(IQ4[usize::from(nibble(&b.qs, i))]);
    }
}

fn iq4_xs(b: &BlockIQ4XS, out: &mut [f32; SUPER]) {
    let scales = b.scales().map(|sc| b.d.to_f32() * f32::from(sc));
    let runs = b.qs.as_chunks().0;
    for (i, o) in out.iter_mut().enumerate() {
        *o = scales[i / 32] * f32::from(IQ4[usize::from(nibble(&runs[i / 32], i % 32))]);
    }
}

fn tq1_0(b: &BlockTQ1_0, out: &mut [f32; SUPER]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(b.code(i) as i8 - 1);
    }
}

fn tq2_0(b: &BlockTQ2_0, out: &mut [f32; SUPER]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from(two_bits(&b.qs, i) as i8 - 1);
    }
}

fn q1_0(b: &BlockQ1_0, out: &mut [f32; 128]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = if b.qs[i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
    }
}

fn q2_0(b: &BlockQ2_0, out: &mut [f32; 64]) {
    let d = b.d.to_f32();
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * f32::from((b.qs[i / 4] >> (2 * (i % 4)) & 3) as i8 - 1);
    }
}

fn grid<B: GridBlock>(b: &B, out: &mut [f32; SUPER]) {
    let d = b.d().to_f32() * B::UNIT;
    for (i, (o, code)) in out.iter_mut().zip(b.all_codes()).enumerate() {
        *o = d * f32::from(b.scale(i / B::SUB)) * f32::from(B::LEVELS[usize::from(code)]);
    }
}
