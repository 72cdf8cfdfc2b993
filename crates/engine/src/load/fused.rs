//! Experts in tensors that hold all of a layer's, with gate and up together: how Hugging Face stores gpt-oss and Llama 4. Floats are
//! `[experts, in, out]`; MXFP4 is `NAME_blocks`, `[experts, out, in / 32, 16]`, beside `NAME_scales`, `[experts, out, in / 32]`;
//! biases are `[experts, out]`.

use super::Tensor;
use super::derived::rearranged;
use super::tensor::Data;
use zonda_kernels::DType;
use zonda_kernels::blocks::BLOCK;

/// Where one expert's matrix or bias is in such a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedLocation {
    /// The tensor's name.
    pub name: String,
    /// The expert.
    pub expert: usize,
    /// Which of the stored outputs are its rows.
    pub outputs: Outputs,
}

/// Which of a tensor's outputs are a matrix's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// All.
    All,
    /// Every second, from the first on.
    Even,
    /// Every second, from the second on.
    Odd,
    /// The first half.
    First,
    /// The second half.
    Second,
}

impl Outputs {
    /// How many outputs are stored for a matrix of `rows`.
    pub fn of(self, rows: usize) -> usize {
        if self == Outputs::All { rows } else { 2 * rows }
    }

    /// The stored output that is row `r` of `rows`.
    fn index(self, r: usize, rows: usize) -> usize {
        match self {
            Outputs::All | Outputs::First => r,
            Outputs::Second => rows + r,
            Outputs::Even => 2 * r,
            Outputs::Odd => 2 * r + 1,
        }
    }
}

/// One expert's matrix or bias, as it is stored.
pub(super) struct FusedTensor {
    /// Its name, for messages.
    pub name: String,
    /// `[out, in]`, or `[out]`
    pub shape: Vec<usize>,
    pub outputs: Outputs,
    pub stored: StoredExpert,
}

/// The bytes of one expert.
pub(super) enum StoredExpert {
    /// `[in, all outputs]`, or `[all outputs]`
    Floats(DType, Data),
    /// Blocks, `[all outputs, in / 32, 16]`, and scales, `[all outputs, in / 32]`
    Mxfp4 { blocks: Data, scales: Data },
}

impl StoredExpert {
    pub fn data(&self) -> Vec<&Data> {
        match self {
            StoredExpert::Floats(_, data) => vec![data],
            StoredExpert::Mxfp4 { blocks, scales } => vec![blocks, scales],
        }
    }
}

impl FusedTensor {
    /// The expert's own tensor: its rows together, MXFP4 as GGUF has it.
    pub fn to_tensor(&self) -> Tensor {
        let (rows, cols) = match self.shape[..] {
            [rows, cols] => (rows, cols),
            _ => (self.shape[0], 1),
        };
        let all = self.outputs.of(rows);
        let (dtype, bytes) = match &self.stored {
            StoredExpert::Floats(dtype, data) => {
                let at = |r: usize, c: usize| c * all + self.outputs.index(r, rows);
                (*dtype, rearranged(data.bytes(), dtype.block_bytes(), (rows, cols), at))
            }
            StoredExpert::Mxfp4 { blocks, scales } => {
                let in_row = cols / BLOCK;
                let mut to = Vec::with_capacity(rows * in_row * DType::MXFP4.block_bytes());
                for r in 0..rows {
                    let from = self.outputs.index(r, rows) * in_row;
                    let blocks = &blocks.bytes()[from * 16..][..in_row * 16];
                    for (block, &scale) in blocks.chunks_exact(16).zip(&scales.bytes()[from..][..in_row]) {
                        to.push(scale);
                        to.extend(halves(block));
                    }
                }
                (DType::MXFP4, to)
            }
        };
        Tensor::owned(self.name.clone(), dtype, self.shape.clone(), bytes.into())
    }
}

/// From bytes of neighbours, values `2i` and `2i + 1`, to bytes of values `i` and `i + 16`.
fn halves(neighbours: &[u8]) -> [u8; 16] {
    let value = |i: usize| neighbours[i / 2] >> (4 * (i % 2)) & 15;
    std::array::from_fn(|i| value(i) | value(i + 16) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_values_in_a_block_changes_and_no_value() {
        let neighbours: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let values: Vec<u8> = neighbours.iter().flat_map(|b| [b & 15, b >> 4]).collect();
        let halves = halves(&neighbours);
        for (i, value) in values.into_iter().enumerate() {
            assert_eq!(halves[i % 16] >> (4 * (i / 16)) & 15, value, "value {i}");
        }
    }

    #[test]
    fn rows_are_taken_from_columns() {
        // [in 3, out 4], value 10 · column + row
        let floats: Vec<u8> = (0..3)
            .flat_map(|c| (0..4).map(move |r| (10 * c + r) as f32))
            .flat_map(f32::to_le_bytes)
            .collect();
        let rows = |outputs, rows| {
            let data = Data::Owned(floats.clone().into());
            let stored = StoredExpert::Floats(DType::F32, data);
            FusedTensor { name: "t".into(), shape: vec![rows, 3], outputs, stored }.to_tensor().to_f32()
        };
        assert_eq!(rows(Outputs::Odd, 2), [1.0, 11.0, 21.0, 3.0, 13.0, 23.0]);
        assert_eq!(rows(Outputs::Even, 2), [0.0, 10.0, 20.0, 2.0, 12.0, 22.0]);
        assert_eq!(rows(Outputs::First, 2), [0.0, 10.0, 20.0, 1.0, 11.0, 21.0]);
        assert_eq!(rows(Outputs::Second, 2), [2.0, 12.0, 22.0, 3.0, 13.0, 23.0]);
        assert_eq!(rows(Outputs::All, 4)[..3], [0.0, 10.0, 20.0]);
    }
}
