//! Tensors that a file stores as parts of another one.

use zonda_kernels::DType;

use super::Tensor;
use super::mla::Mla;

/// The projection of keys out of that of keys and values, `[heads · (nope + value), kv_rank]`, transposed as it is applied to
/// queries: `[heads, kv_rank, nope]`. Floats stay as they are; blocks are dequantised to f32.
pub(super) fn key_up(both: &Tensor, mla: &Mla) -> Tensor {
    let floats;
    let (dtype, bytes) = match both.dtype {
        DType::F32 | DType::F16 | DType::BF16 => (both.dtype, both.bytes()),
        _ => {
            floats = both.to_f32().into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
            (DType::F32, &floats[..])
        }
    };
    let (size, cols) = (dtype.block_bytes(), both.cols());
    let heads = both.rows() / (mla.nope + mla.value);
    let mut out = Vec::with_capacity(heads * cols * mla.nope * size);
    for h in 0..heads {
        let rows = &bytes[h * (mla.nope + mla.value) * cols * size..];
        for col in 0..cols {
            (0..mla.nope).for_each(|row| out.extend_from_slice(&rows[(row * cols + col) * size..][..size]));
        }
    }
    Tensor::owned(both.name.clone(), dtype, vec![heads, cols, mla.nope], out.into())
}

/// The projection of values out of the same: `[heads, value, kv_rank]`.
pub(super) fn value_up(both: &Tensor, mla: &Mla) -> Tensor {
    let (rows, of_head) = (both.rows(), mla.nope + mla.value);
    let row_bytes = both.bytes().len() / rows;
    let heads = both.bytes().chunks_exact(of_head * row_bytes);
    let out: Vec<u8> = heads.flat_map(|head| head[mla.nope * row_bytes..].iter().copied()).collect();
    let shape = vec![rows / of_head, mla.value, both.cols()];
    Tensor::owned(both.name.clone(), both.dtype, shape, out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_kernels::quantize::quantize;

    /// Two heads of 2 and 3 values of a latent of 32; value `i` of row `r` is `100 r + i`.
    #[test]
    fn parts_of_keys_and_values() {
        let mla = Mla { q_rank: None, kv_rank: 32, nope: 2, rope: 2, value: 3, norm_eps: 1e-6 };
        let at = |row: usize, col: usize| (100 * row + col) as f32;
        let values: Vec<f32> = (0..10 * 32).map(|i| at(i / 32, i % 32)).collect();
        for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
            let mut bytes = Vec::new();
            quantize(dtype, &values, &mut bytes);
            let both = Tensor::owned("both".to_owned(), dtype, vec![10, 32], bytes.into());
            let stored = both.to_f32();
            let (keys, rest) = (key_up(&both, &mla), value_up(&both, &mla));
            assert_eq!((keys.shape.as_slice(), rest.shape.as_slice()), (&[2, 32, 2][..], &[2, 3, 32][..]));
            assert_eq!((keys.dtype == dtype, rest.dtype), (dtype != DType::Q8_0, dtype));
            for (i, key) in keys.to_f32().into_iter().enumerate() {
                let (head, col, row) = (i / 64, i / 2 % 32, i % 2);
                assert_eq!(key, stored[(5 * head + row) * 32 + col], "{dtype}: key {i}");
            }
            for (i, value) in rest.to_f32().into_iter().enumerate() {
                let (head, row, col) = (i / 96, i / 32 % 3, i % 32);
                assert_eq!(value, stored[(5 * head + 2 + row) * 32 + col], "{dtype}: value {i}");
            }
        }
    }
}
