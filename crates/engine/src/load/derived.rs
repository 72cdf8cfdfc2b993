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
    let (size, cols, of_head) = (dtype.block_bytes(), both.cols(), mla.nope + mla.value);
    let mut out = Vec::with_capacity(bytes.len() / of_head * mla.nope);
    for head in bytes.chunks_exact(of_head * cols * size) {
        out.extend(rearranged(head, size, (cols, mla.nope), |col, row| row * cols + col));
    }
    Tensor::owned(both.name.clone(), dtype, vec![both.rows() / of_head, cols, mla.nope], out.into())
}

/// Columns that are moved together, so that lines of memory are read once.
const COLUMNS: usize = 64;

/// A matrix, `[rows, cols]`, of values of `size` bytes out of those in `from`: the one in row `r` and column `c` is value
/// `at(r, c)` there.
///
/// # Panics
/// If `size` is not that of a float type.
pub(super) fn rearranged(
    from: &[u8],
    size: usize,
    shape: (usize, usize),
    at: impl Fn(usize, usize) -> usize,
) -> Vec<u8> {
    fn values<const SIZE: usize>(
        from: &[u8],
        (rows, cols): (usize, usize),
        at: impl Fn(usize, usize) -> usize,
    ) -> Vec<u8> {
        let (from, _) = from.as_chunks::<SIZE>();
        let mut to = vec![[0; SIZE]; rows * cols];
        for first in (0..cols).step_by(COLUMNS) {
            for r in 0..rows {
                for c in first..(first + COLUMNS).min(cols) {
                    to[r * cols + c] = from[at(r, c)];
                }
            }
        }
        to.into_flattened()
    }
    match size {
        2 => values::<2>(from, shape, at),
        4 => values::<4>(from, shape, at),
        other => unreachable!("{other} bytes are no float's"),
    }
}

/// The projection of values out of the same: `[heads, value, kv_rank]`.
pub(super) fn value_up(both: &Tensor, mla: &Mla) -> Tensor {
    let (rows, of_head) = (both.rows(), mla.nope + mla.value);
    let row_bytes = both.bytes().len() / rows;
    let heads = both.bytes().chunks_exact(of_head * row_bytes);
    let mut out = Vec::with_capacity(both.bytes().len() / of_head * mla.value);
    heads.for_each(|head| out.extend_from_slice(&head[mla.nope * row_bytes..]));
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
