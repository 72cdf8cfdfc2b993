//! Weights of one byte: the float type e4m3, its blocks, and their panels.
//!
//! Files store a matrix of e4m3 codes and its scales as two tensors; [`BlockF8E4M3`] is how they are held together. The layout of a
//! group of four panels, per block of 128 columns:
//!
//! ```text
//! scales      of panel 0, 1, 2, 3: the `f32` scale of 16 rows, times 2^8       256 bytes
//! codes       per value k, of panel 0, 1, 2, 3: row r's code k                 64 bytes
//! ```
//!
//! Source of e4m3: Micikevicius et al., "FP8 Formats for Deep Learning" (the variant without infinities, `float8_e4m3fn`).

use crate::DType;
use crate::blocks::Block;
use bytemuck::{Pod, Zeroable};

/// Values of a block.
pub const BLOCK: usize = 128;

/// 128 values of one byte: `x = d · e4m3(q)`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockF8E4M3 {
    /// Scale, a little-endian `f32`.
    pub d: [u8; 4],
    /// Codes, in order.
    pub qs: [u8; BLOCK],
}

impl Block for BlockF8E4M3 {
    const DTYPE: DType = DType::F8_E4M3;
}

const _: () =
    assert!(size_of::<BlockF8E4M3>() == DType::F8_E4M3.block_bytes() && DType::F8_E4M3.block_len() == BLOCK);

/// Bytes of one block of all 64 rows of a group.
pub(crate) const CHUNK_BYTES: usize = HEADER_BYTES + BLOCK * ROWS;
/// Bytes of its scales.
pub(crate) const HEADER_BYTES: usize = 4 * ROWS;
/// Rows of a group: four panels of 16.
const ROWS: usize = 64;
/// What [`crate::simd::Simd::load_e4m3`] leaves to the scale.
const SHIFTED: f32 = 256.0;

/// True for the codes that are NaN: `S.1111.111`.
pub fn is_nan(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// The value of a code: a sign, four bits of exponent with a bias of 7, three of mantissa; subnormal numbers if the exponent is 0.
pub fn e4m3(code: u8) -> f32 {
    if is_nan(code) {
        return f32::NAN;
    }
    let (exponent, mantissa) = (code >> 3 & 15, f32::from(code & 7));
    let (significand, exponent) = if exponent == 0 { (mantissa, 1) } else { (8.0 + mantissa, exponent) };
    let size = significand * f32::from_bits((u32::from(exponent) + 117) << 23); // 2^(exponent − 10)
    if code & 0x80 == 0 { size } else { -size }
}

/// The code of the nearest value, ties to even; of the largest one for all that are larger. NaN for NaN.
pub fn to_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let size = value.abs();
    let code = if value.is_nan() {
        0x7f
    } else if size < 1.0 / 64.0 {
        (size * 512.0).round_ties_even() as u8 // 8, the first normal number, is also code 8
    } else {
        let bits = size.to_bits();
        let rounded = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
        (rounded - (120 << 3)).min(0x7e) as u8
    };
    sign | code
}

/// Writes the values of a block.
pub(crate) fn dequantize(block: &BlockF8E4M3, out: &mut [f32; BLOCK]) {
    let d = f32::from_le_bytes(block.d);
    for (o, &q) in out.iter_mut().zip(&block.qs) {
        *o = d * e4m3(q);
    }
}

/// A block whose largest value is the largest of e4m3. Its scale is NaN if a value is not finite.
pub(crate) fn quantize(values: &[f32; BLOCK]) -> BlockF8E4M3 {
    let finite = values.iter().all(|v| v.is_finite());
    let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let d = if finite { largest / e4m3(0x7e) } else { f32::NAN };
    let code = |v: &f32| if d > 0.0 { to_e4m3(v / d) } else { 0 };
    let mut qs = [0; BLOCK];
    qs.iter_mut().zip(values).for_each(|(q, v)| *q = code(v));
    BlockF8E4M3 { d: d.to_le_bytes(), qs }
}

/// Packs the rows of a group; a row without bytes becomes zeros. A block with a NaN code gets NaN as its scale, so that the tile needs
/// no case for it.
pub(crate) fn pack(rows: &[&[u8]; ROWS], out: &mut [u8]) {
    for (r, row) in rows.iter().enumerate() {
        let blocks = bytemuck::cast_slice::<u8, BlockF8E4M3>(row);
        for (block, chunk) in blocks.iter().zip(out.chunks_exact_mut(CHUNK_BYTES)) {
            let nan = block.qs.iter().any(|&q| is_nan(q));
            let d = if nan { f32::NAN } else { f32::from_le_bytes(block.d) * SHIFTED };
            let (scales, codes) = chunk.split_at_mut(HEADER_BYTES);
            scales[4 * r..][..4].copy_from_slice(&d.to_le_bytes());
            for (line, &q) in codes.chunks_exact_mut(ROWS).zip(&block.qs) {
                line[r] = q;
            }
        }
    }
}
