//! Matrices of one-byte floats (e4m3) in SafeTensors folders: codes in one tensor, scales in another beside it.
//!
//! `transformers` and vLLM multiply the codes of `X.weight` by `X.weight_scale_inv` (or `X.weight_scale`); for a tensor of experts
//! `X` the scales are `X_scale_inv`. There is one scale for the matrix, or one for each block of rows and columns, of the size that
//! `weight_block_size` in `config.json` says; blocks at the edges may be smaller. Scales of activations are not used: activations
//! are not rounded.

use std::ops::Range;

use zonda_kernels::DType;
use zonda_kernels::float8::{BLOCK, e4m3};

use super::fields::{Fields, MAX_COUNT, Object};
use super::source::{Store, Stored};
use super::tensor::Data;
use super::{LoadError, StoredType, Tensor};

/// What is appended to a weight's name to get that of its scales.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// Ends of the names of scales that nothing is multiplied by here: of activations, and of a quantised KV cache.
const UNUSED: [&str; 6] =
    [".activation_scale", ".input_scale", "_activation_scale", ".k_scale", ".v_scale", ".q_scale"];

/// Whether a tensor holds one-byte floats.
pub(super) fn is_stored_as(kind: &StoredType) -> bool {
    matches!(kind, StoredType::Other(name) if name == "f8_e4m3")
}

/// How the matrices of a folder are scaled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Float8 {
    /// Rows and columns of a block; `None`: a scale for each matrix.
    block: Option<(usize, usize)>,
}

impl Float8 {
    /// A scale for each matrix.
    pub const PER_MATRIX: Float8 = Float8 { block: None };

    /// Reads `quantization_config`, of the method `fp8`.
    pub fn read(quantization: &Object<'_>) -> Result<Float8, LoadError> {
        if let Some(found) = quantization.text("fmt")?.filter(|&fmt| fmt != "e4m3") {
            return Err(quantization.unsupported("fmt", format!("{found:?}"), "e4m3 is run"));
        }
        const KEY: &str = "weight_block_size";
        let Some(json) = quantization.json(KEY) else { return Ok(Float8::PER_MATRIX) };
        let sizes: Option<Vec<u64>> =
            json.as_array().and_then(|sizes| sizes.iter().map(serde_json::Value::as_u64).collect());
        match sizes.as_deref() {
            Some(&[rows, cols]) if (1..=MAX_COUNT).contains(&rows) && (1..=MAX_COUNT).contains(&cols) => {
                Ok(Float8 { block: Some((rows as usize, cols as usize)) })
            }
            _ => Err(quantization.bad(KEY, json, "rows and columns of a block, such as [128, 128]")),
        }
    }

    /// The shape of the scales of a matrix in blocks.
    fn grid(&self, rows: usize, cols: usize) -> Option<[usize; 2]> {
        self.block.map(|(of_rows, of_cols)| [rows.div_ceil(of_rows), cols.div_ceil(of_cols)])
    }
}

impl Float8 {
    /// The matrix with the codes `stored`, if these are one-byte floats: plane `plane` of it, and of that or of the whole the rows
    /// `rows`. `whole` is the shape that the stored tensor must have.
    pub fn locate(
        self,
        store: &Store,
        stored: &Stored,
        whole: &[usize],
        plane: Option<usize>,
        rows: Option<Range<usize>>,
    ) -> Result<Option<Float8Tensor>, LoadError> {
        let &[.., all_rows, cols] = whole else { return Ok(None) };
        if !is_stored_as(&stored.kind) {
            return Ok(None);
        }
        let wrong = |stored: &Stored, expected: Vec<usize>| LoadError::WrongShape {
            path: store.path_of(stored).to_owned(),
            tensor: stored.name.clone(),
            expected,
            found: stored.shape.clone(),
        };
        if stored.shape != whole {
            return Err(wrong(stored, whole.to_vec()));
        }
        let planes = plane.map(|_| whole[0]);
        let grid = self.grid(all_rows, cols);
        let expected: Vec<usize> = planes.into_iter().chain(grid.unwrap_or([1, 1])).collect();
        let scales = SCALES.iter().find_map(|end| store.get(&format!("{}{end}", stored.name)));
        let scales = scales.ok_or_else(|| LoadError::MissingTensor {
            path: store.path_of(stored).to_owned(),
            tensor: format!("{}{}", stored.name, SCALES[0]),
            expected: expected.clone(),
        })?;
        let count = scales.shape.iter().product::<usize>();
        let of_planes = planes.unwrap_or(1);
        let block = match self.block {
            Some(block) if scales.shape == expected => Some(block),
            // of one matrix also a scalar or a vector
            None if count == of_planes => None,
            // gate and up of an expert, in one matrix, have a scale each
            None if plane.is_some() && all_rows % 2 == 0 && scales.shape == [of_planes, 2, 1] => {
                Some((all_rows / 2, cols))
            }
            _ => return Err(wrong(scales, expected)),
        };
        if planes.is_some_and(|n| scales.shape.first() != Some(&n) || plane >= Some(n)) {
            return Err(wrong(scales, expected));
        }
        let Some(codes) = store.data(stored, plane, rows.clone()) else {
            return Err(wrong(stored, whole.to_vec()));
        };
        let rows = rows.unwrap_or(0..all_rows);
        Ok(Some(Float8Tensor {
            name: stored.name.clone(),
            shape: [rows.len(), cols],
            codes,
            scales: Scales { stored: store.part(scales, plane, None)?, block, rows },
        }))
    }
}

/// The weight that a tensor of this name has the scales of.
pub(super) fn weight_of(name: &str) -> Option<&str> {
    SCALES.iter().find_map(|end| name.strip_suffix(end))
}

/// Whether this is a scale that is not used.
pub(super) fn is_unused(name: &str) -> bool {
    UNUSED.iter().any(|end| name.ends_with(end))
}

/// A matrix, or rows of one, as they are stored.
pub(super) struct Float8Tensor {
    pub name: String,
    /// `[rows, cols]`
    pub shape: [usize; 2],
    /// `[rows, cols]`
    pub codes: Data,
    pub scales: Scales,
}

/// The scales of a matrix.
pub(super) struct Scales {
    /// One scale, or those of the blocks of the whole matrix, row-major.
    pub stored: Tensor,
    /// Rows and columns that share a scale; `None`: all.
    pub block: Option<(usize, usize)>,
    /// Which rows of the whole matrix these are.
    pub rows: Range<usize>,
}

impl Float8Tensor {
    /// Its stored bytes.
    pub fn data(&self) -> Vec<&Data> {
        vec![&self.codes, self.scales.stored.data()]
    }

    /// Codes and scales together, in [`DType::F8_E4M3`]. Where that has no form for them (rows that are not whole blocks of 128,
    /// scales that change within one), f32.
    pub fn to_tensor(&self) -> Tensor {
        let [rows, cols] = self.shape;
        let scales = self.scales.stored.to_f32();
        let (of_rows, of_cols) = self.scales.block.unwrap_or((usize::MAX, cols.max(1)));
        let scale = |r: usize, c: usize| {
            scales[(self.scales.rows.start + r) / of_rows * cols.div_ceil(of_cols) + c / of_cols]
        };
        let whole = cols.is_multiple_of(BLOCK) && (of_cols.is_multiple_of(BLOCK) || of_cols >= cols);
        let dtype = if whole { DType::F8_E4M3 } else { DType::F32 };
        let mut out = Vec::with_capacity(dtype.bytes_for(rows * cols).unwrap_or(0));
        for (r, row) in self.codes.bytes().chunks_exact(cols).enumerate() {
            if whole {
                for (b, codes) in row.chunks_exact(BLOCK).enumerate() {
                    out.extend(scale(r, b * BLOCK).to_le_bytes());
                    out.extend(codes);
                }
            } else {
                let values = row.iter().enumerate().map(|(c, &code)| scale(r, c) * e4m3(code));
                out.extend(values.flat_map(f32::to_le_bytes));
            }
        }
        Tensor::owned(self.name.clone(), dtype, self.shape.to_vec(), out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(
        cols: usize,
        scales: &[f32],
        block: Option<(usize, usize)>,
        rows: Range<usize>,
    ) -> Float8Tensor {
        let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        let stored = Tensor::owned("s".to_owned(), DType::F32, vec![scales.len()], bytes.into());
        let codes: Vec<u8> = (0..rows.len() * cols).map(|i| (i % 0x7f) as u8).collect();
        Float8Tensor {
            name: "w".to_owned(),
            shape: [rows.len(), cols],
            codes: Data::Owned(codes.into()),
            scales: Scales { stored, block, rows },
        }
    }

    /// The same by the definition.
    fn expected(m: &Float8Tensor, scale: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let cols = m.shape[1];
        let value = |(i, &code): (usize, &u8)| scale(i / cols, i % cols) * e4m3(code);
        m.codes.bytes().iter().enumerate().map(value).collect()
    }

    #[test]
    fn blocks_and_edges_have_their_own_scales() {
        // five rows of a matrix of 6, from the second on, in blocks of 2 × 128; the last block of a row has 128 of 384 columns
        let scales: Vec<f32> = (1..=9).map(|s| s as f32 / 4.0).collect();
        let m = matrix(384, &scales, Some((2, 128)), 1..6);
        let tensor = m.to_tensor();
        assert_eq!(tensor.dtype, DType::F8_E4M3);
        assert_eq!(tensor.to_f32(), expected(&m, |r, c| scales[r.div_ceil(2) * 3 + c / 128]));
    }

    #[test]
    fn one_scale_is_that_of_every_block() {
        let m = matrix(256, &[0.375], None, 0..3);
        assert_eq!(m.to_tensor().dtype, DType::F8_E4M3);
        assert_eq!(m.to_tensor().to_f32(), expected(&m, |_, _| 0.375));
    }

    #[test]
    fn what_has_no_blocks_of_128_becomes_f32() {
        let m = matrix(200, &[1.5, 3.0], Some((8, 128)), 0..3);
        assert_eq!(m.to_tensor().dtype, DType::F32);
        assert_eq!(m.to_tensor().to_f32(), expected(&m, |_, c| if c < 128 { 1.5 } else { 3.0 }));
        let narrow = matrix(256, &[1.0, 2.0, 3.0, 4.0], Some((8, 64)), 0..2);
        assert_eq!(narrow.to_tensor().dtype, DType::F32);
        assert_eq!(narrow.to_tensor().to_f32(), expected(&narrow, |_, c| (1 + c / 64) as f32));
    }
}
