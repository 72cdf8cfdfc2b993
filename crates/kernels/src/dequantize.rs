//! Stored bytes to `f32`: the readable reference for every format, and the oracle of the kernels' tests.

use crate::DType;

/// Dequantises `bytes` (whole blocks of `dtype`) into `out`.
///
/// # Panics
/// If `bytes.len()` is not what `out.len()` values of `dtype` take ([`DType::bytes_for`]).
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.bytes_for(out.len()), Some(bytes.len()), "byte count of {dtype}");
    match dtype {
        DType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        other => unreachable!("{other}"),
    }
}
