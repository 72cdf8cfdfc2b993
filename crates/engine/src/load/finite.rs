//! Finds NaN and infinity in stored weights without dequantising them: only floats and block scales can contain them.

use zonda_kernels::DType;
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::float8::{e4m3, is_nan};

use super::{LoadError, Tensor};

/// The index of the first value that is NaN or infinite; in a quantised tensor, of the first value of the first block
/// with such a scale. Reads every float, or a few bytes of every block.
pub fn first_non_finite(tensor: &Tensor) -> Option<usize> {
    first_in(tensor.dtype, tensor.bytes())
}

/// The smallest scale of MXFP4 with which a code is not finite.
const LARGE_E8M0: u8 = 253;

fn first_in(dtype: DType, bytes: &[u8]) -> Option<usize> {
    if dtype == DType::F8_E4M3 {
        return first_in_float8(bytes);
    }
    let block = dtype.block_bytes();
    let finite: fn(&[u8], usize) -> bool = match dtype {
        DType::F32 => |b, at| exponent(u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]), 23, 8),
        DType::BF16 => |b, at| exponent(u16::from_le_bytes([b[at], b[at + 1]]).into(), 7, 8),
        DType::MXFP4 => |b, at| {
            b[at] < LARGE_E8M0 || {
                let mut values = [0.0f32; 32];
                dequantize(DType::MXFP4, b, &mut values);
                values.iter().all(|v| v.is_finite())
            }
        },
        // The nibble of bits 8..12, and two bytes on that of bits 12..16.
        DType::IQ1_M => |b, at| exponent(u32::from(b[at] >> 4) << 8 | u32::from(b[at + 2] >> 4) << 12, 10, 5),
        _ => |b, at| exponent(u16::from_le_bytes([b[at], b[at + 1]]).into(), 10, 5),
    };
    let scales = scale_offsets(dtype);
    let bad = bytes.chunks_exact(block).position(|b| !scales.iter().all(|&at| finite(b, at)))?;
    Some(bad * dtype.block_len())
}

/// In blocks of e4m3 codes may be NaN, and large scales make large codes infinite.
fn first_in_float8(bytes: &[u8]) -> Option<usize> {
    let bad = bytes.chunks_exact(DType::F8_E4M3.block_bytes()).position(|block| {
        let Some((d, codes)) = block.split_first_chunk() else { return false };
        let d = f32::from_le_bytes(*d);
        match d.abs() < f32::MAX / 512.0 {
            true => codes.iter().any(|&q| is_nan(q)),
            false => !codes.iter().all(|&q| (d * e4m3(q)).is_finite()),
        }
    })?;
    Some(bad * DType::F8_E4M3.block_len())
}

/// Rejects a tensor with NaN or infinity.
///
/// # Errors
/// [`LoadError::NonFinite`] with the tensor's name and the index.
pub fn check_finite(tensor: &Tensor) -> Result<(), LoadError> {
    match first_non_finite(tensor) {
        None => Ok(()),
        Some(index) => Err(LoadError::NonFinite { tensor: tensor.name.clone(), index }),
    }
}

/// As [`check_finite`], but only for row `row`: for loaders that read a tensor row by row.
///
/// # Errors
/// As [`check_finite`].
///
/// # Panics
/// If the tensor has no such row.
pub fn check_finite_row(tensor: &Tensor, row: usize) -> Result<(), LoadError> {
    let bytes = tensor.bytes().len() / tensor.rows();
    match first_in(tensor.dtype, &tensor.bytes()[row * bytes..][..bytes]) {
        None => Ok(()),
        Some(index) => {
            Err(LoadError::NonFinite { tensor: tensor.name.clone(), index: row * tensor.cols() + index })
        }
    }
}

/// True if the exponent of a float, `width` bits from bit `at` on, is not all ones.
fn exponent(bits: u32, at: u32, width: u32) -> bool {
    let ones = (1 << width) - 1;
    (bits >> at) & ones != ones
}

/// Where a block's floats are: its scales and minimums (binary16, or a power of two), or the value itself.
fn scale_offsets(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => &[0],
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::MXFP4 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::IQ4_NL | DType::IQ4_XS | DType::Q1_0 | DType::Q2_0 => &[0],
        DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ3_XXS | DType::IQ3_S | DType::IQ1_S => &[0],
        DType::IQ1_M => &[53],
        DType::TQ1_0 => &[52],
        DType::TQ2_0 => &[64],
        // Every byte is a finite scale.
        DType::NVFP4 => &[],
        DType::F8_E4M3 => unreachable!("its codes are checked, too"),
    }
}
