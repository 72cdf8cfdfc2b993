//! `f32` to stored bytes, round to nearest, without importance weights.

use crate::DType;

/// Quantises one or more whole rows of `values` to `dtype`, appending the blocks to `out`.
///
/// # Panics
/// If `values.len()` is not a multiple of [`DType::block_len`].
pub fn quantize(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    assert!(values.len().is_multiple_of(dtype.block_len()), "whole blocks of {dtype}");
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        other => unreachable!("{other}"),
    }
}
