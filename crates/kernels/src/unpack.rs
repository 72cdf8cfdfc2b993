//! Splits stored blocks into codes, scales and mins, which [`crate::pack`] then interleaves.
//!
//! Block layouts: the GGUF specification and ggml's `block_*` structs, as [`crate::blocks`] and [`crate::grids`] document
//! them.

use crate::DType;
use crate::blocks::{BlockIQ4XS, BlockNVFP4, BlockQ3K, BlockTQ1_0, scales_and_minima};
use crate::grids::*;

/// One stored block in parts: `value[i] = d · sc[i/sub] · (code[i] − zero) ± dmin · m[i/sub]`.
/// Types without 8-bit scales don't use `sc` and `m`, and types with small floats as scales don't use `d`. With a table, `code[i]` is what the table has for it.
pub(crate) struct Block {
    /// `[block_len]`, unsigned, without subtracting the zero point.
    pub codes: [u8; 256],
    /// `f16` bits of the scale, or of the scales' scale.
    pub d: [u8; 2],
    /// `f16` bits of the min, or of the mins' scale.
    pub dmin: [u8; 2],
    /// Scales of a byte: multiples of `d`, signed or unsigned depending on the format, or scales of their own.
    pub sc: [u8; 16],
    /// 8-bit mins.
    pub m: [u8; 16],
}

impl Block {
    /// A block of zeros.
    pub fn zero() -> Block {
        Block { codes: [0; 256], d: [0; 2], dmin: [0; 2], sc: [0; 16], m: [0; 16] }
    }
}

fn pair(b: &[u8]) -> [u8; 2] {
    [b[0], b[1]]
}

/// Low nibbles to the first half, high nibbles to the second.
fn nibbles(qs: &[u8], codes: &mut [u8]) {
    let half = qs.len();
    for (i, &q) in qs.iter().enumerate() {
        codes[i] = q & 15;
        codes[half + i] = q >> 4;
    }
}

/// Adds bit `i` of `qh` as bit 4 of code `i`.
fn fifth_bits(qh: &[u8], codes: &mut [u8]) {
    let bits = u32::from_le_bytes([qh[0], qh[1], qh[2], qh[3]]);
    for (i, c) in codes.iter_mut().enumerate() {
        *c |= ((bits >> i) as u8 & 1) << 4;
    }
}

/// The eight 6-bit scales and mins of Q4_K and Q5_K.
fn scales_k4(packed: &[u8], out: &mut Block) {
    let packed = packed.try_into().expect("twelve bytes");
    for (j, (scale, min)) in scales_and_minima(packed).into_iter().enumerate() {
        (out.sc[j], out.m[j]) = (scale, min);
    }
}

/// The codes, the scales and their scale.
fn grid<B: GridBlock>(b: &[u8], out: &mut Block) {
    let block = bytemuck::from_bytes::<B>(b);
    out.d = block.d().0;
    out.codes = block.all_codes();
    for (j, scale) in out.sc[..256 / B::SUB].iter_mut().enumerate() {
        *scale = block.scale(j);
    }
}

/// Splits one stored block into its parts.
///
/// # Panics
/// If `b` is not one block of the quantised type `dtype`.
pub(crate) fn unpack(dtype: DType, b: &[u8], out: &mut Block) {
    assert_eq!(b.len(), dtype.block_bytes());
    match dtype {
        DType::Q4_0 => {
            out.d = pair(b);
            nibbles(&b[2..], &mut out.codes[..32]);
        }
        DType::Q4_1 => {
            (out.d, out.dmin) = (pair(b), pair(&b[2..]));
            nibbles(&b[4..], &mut out.codes[..32]);
        }
        DType::Q5_0 => {
            out.d = pair(b);
            nibbles(&b[6..], &mut out.codes[..32]);
            fifth_bits(&b[2..6], &mut out.codes[..32]);
        }
        DType::Q5_1 => {
            (out.d, out.dmin) = (pair(b), pair(&b[2..]));
            nibbles(&b[8..], &mut out.codes[..32]);
            fifth_bits(&b[4..8], &mut out.codes[..32]);
        }
        DType::Q8_0 => {
            out.d = pair(b);
            for (c, &q) in out.codes.iter_mut().zip(&b[2..]) {
                *c = q ^ 0x80; // signed byte + 128
            }
        }
        DType::Q2_K => {
            let (scales, qs) = (&b[..16], &b[16..80]);
            (out.d, out.dmin) = (pair(&b[80..]), pair(&b[82..]));
            for j in 0..16 {
                (out.sc[j], out.m[j]) = (scales[j] & 15, scales[j] >> 4);
            }
            for (i, c) in out.codes.iter_mut().enumerate() {
                let (half, shift, l) = (i / 128, (i % 128) / 32, i % 32);
                *c = (qs[32 * half + l] >> (2 * shift)) & 3;
            }
        }
        DType::Q3_K => {
            let (hmask, qs) = (&b[..32], &b[32..96]);
            out.d = pair(&b[108..]);
            out.sc = bytemuck::from_bytes::<BlockQ3K>(b).scales().map(|scale| scale as u8);
            for (i, c) in out.codes.iter_mut().enumerate() {
                let (half, shift, l) = (i / 128, (i % 128) / 32, i % 32);
                let low = (qs[32 * half + l] >> (2 * shift)) & 3;
                *c = low | (((hmask[l] >> (i / 32)) & 1) << 2);
            }
        }
        DType::Q4_K => {
            (out.d, out.dmin) = (pair(b), pair(&b[2..]));
            scales_k4(&b[4..16], out);
            for (qs, codes) in b[16..144].chunks(32).zip(out.codes.chunks_mut(64)) {
                nibbles(qs, codes);
            }
        }
        DType::Q5_K => {
            (out.d, out.dmin) = (pair(b), pair(&b[2..]));
            scales_k4(&b[4..16], out);
            let qh = &b[16..48];
            for (qs, codes) in b[48..176].chunks(32).zip(out.codes.chunks_mut(64)) {
                nibbles(qs, codes);
            }
            for (i, c) in out.codes.iter_mut().enumerate() {
                *c |= ((qh[i % 32] >> (i / 32)) & 1) << 4;
            }
        }
        DType::Q6_K => {
            let (ql, qh) = (&b[..128], &b[128..192]);
            out.sc.copy_from_slice(&b[192..208]);
            out.d = pair(&b[208..]);
            for (i, c) in out.codes.iter_mut().enumerate() {
                let (half, quarter, l) = (i / 128, (i % 128) / 32, i % 32);
                let low = ql[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
                *c = low | (((qh[32 * half + l] >> (2 * quarter)) & 3) << 4);
            }
        }
        DType::MXFP4 => {
            // 2^(e − 128) as the E8M0 of 2^(e' − 127). The two scales below the smallest normal number become zero, 255 stays what
            // no finite number is.
            out.sc[0] = if b[0] == 255 { 255 } else { b[0].saturating_sub(1) };
            nibbles(&b[1..], &mut out.codes[..32]);
        }
        DType::IQ4_NL => {
            out.d = pair(b);
            nibbles(&b[2..], &mut out.codes[..32]);
        }
        DType::IQ4_XS => {
            out.d = pair(b);
            for (sc, scale) in out.sc.iter_mut().zip(bytemuck::from_bytes::<BlockIQ4XS>(b).scales()) {
                *sc = scale as u8;
            }
            for (qs, codes) in b[8..].chunks_exact(16).zip(out.codes.chunks_exact_mut(32)) {
                nibbles(qs, codes);
            }
        }
        DType::TQ1_0 => {
            let block = bytemuck::from_bytes::<BlockTQ1_0>(b);
            out.d = block.d.0;
            out.codes = std::array::from_fn(|i| block.code(i));
        }
        DType::TQ2_0 => {
            out.d = pair(&b[64..]);
            for (i, c) in out.codes.iter_mut().enumerate() {
                let (half, shift, l) = (i / 128, (i % 128) / 32, i % 32);
                *c = (b[32 * half + l] >> (2 * shift)) & 3;
            }
        }
        DType::Q1_0 => {
            out.d = pair(b);
            for (i, c) in out.codes[..128].iter_mut().enumerate() {
                *c = (b[2 + i / 8] >> (i % 8)) & 1;
            }
        }
        DType::Q2_0 => {
            out.d = pair(b);
            for (i, c) in out.codes[..64].iter_mut().enumerate() {
                *c = (b[2 + i / 4] >> (2 * (i % 4))) & 3;
            }
        }
        DType::NVFP4 => {
            let block = bytemuck::from_bytes::<BlockNVFP4>(b);
            for (j, qs) in block.qs.chunks_exact(8).enumerate() {
                out.sc[j] = block.scale_bits(j);
                nibbles(qs, &mut out.codes[16 * j..][..16]);
            }
        }
        DType::IQ2_XXS => grid::<BlockIQ2XXS>(b, out),
        DType::IQ2_XS => grid::<BlockIQ2XS>(b, out),
        DType::IQ2_S => grid::<BlockIQ2S>(b, out),
        DType::IQ3_XXS => grid::<BlockIQ3XXS>(b, out),
        DType::IQ3_S => grid::<BlockIQ3S>(b, out),
        DType::IQ1_M => grid::<BlockIQ1M>(b, out),
        DType::IQ1_S => {
            grid::<BlockIQ1S>(b, out);
            out.dmin = out.d;
            for (j, codes) in out.codes.chunks_exact_mut(32).enumerate() {
                // Levels are 8·(digit − 1) ± 1, so 8·digit − 7 or − 9. The code has the sign above the digit.
                out.m[j] = out.sc[j] * if codes[0] & 4 == 0 { 7 } else { 9 };
                out.sc[j] *= 8;
                codes.iter_mut().for_each(|code| *code &= 3);
            }
        }
        DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 => unreachable!("{dtype} is not split"),
    }
}
