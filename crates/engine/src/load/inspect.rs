//! Figures about a model for display: its mix of types and the memory it needs.

use std::collections::BTreeMap;

use super::float8;
use super::{Format, Model, ModelSpec, StoredType, TensorInfo};
use zonda_kernels::packed_block_bytes;

/// How much of a model is stored in one type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeShare {
    /// The type.
    pub dtype: StoredType,
    /// Tensors stored in it.
    pub tensors: usize,
    /// Their bytes in the file.
    pub bytes: u64,
}

/// Memory a model needs to run, in bytes, without a backend's work buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The weights, in bytes: see [`Model::packed_bytes`].
    pub weights: u64,
    /// The KV cache of one sequence, in bytes.
    pub kv: u64,
}

impl Memory {
    /// The sum of both.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv)
    }
}

impl ModelSpec {
    /// KV cache bytes a token takes, for keys and values of `value_bytes` bytes each (2 for f16).
    pub fn kv_bytes_per_token(&self, value_bytes: u64) -> u64 {
        value_bytes.saturating_mul(self.kv_values_per_token() as u64)
    }
}

impl Model {
    /// The types weights are stored in, the largest share first.
    pub fn types(&self) -> Vec<TypeShare> {
        let mut shares: BTreeMap<StoredType, TypeShare> = BTreeMap::new();
        for tensor in self.tensors() {
            let share = shares.entry(tensor.dtype.clone()).or_insert(TypeShare {
                dtype: tensor.dtype,
                tensors: 0,
                bytes: 0,
            });
            share.tensors += 1;
            share.bytes += tensor.bytes.unwrap_or(0);
        }
        let mut shares: Vec<_> = shares.into_values().collect();
        shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        shares
    }

    /// The types of the matrices, the largest share first: `q4_1+q8_0`, or `q4_g64` for MLX's. Vectors don't count,
    /// since they are always stored as f32.
    pub fn type_label(&self) -> String {
        let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |name: String, more: u64| *bytes.entry(name).or_default() += more;
        if self.format == Format::Mlx {
            for role in self.spec.roles().filter(|&role| self.spec.shape(role).len() > 1) {
                match self.affine(role) {
                    Ok(Some(matrix)) => add(matrix.affine.to_string(), matrix.stored_bytes()),
                    // Not quantised by MLX, so nothing has to be converted.
                    _ => self.tensor(role).map_or((), |t| add(t.dtype.to_string(), t.bytes().len() as u64)),
                }
            }
        } else {
            for tensor in self.tensors().into_iter().filter(|t| t.shape.len() > 1) {
                add(tensor.dtype.to_string(), tensor.bytes.unwrap_or(0));
            }
        }
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        types.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }

    /// Bytes of all stored tensors in memory, where the blocks of some types take more than in the file
    /// ([`packed_block_bytes`]), and 128 one-byte floats have a scale.
    pub fn packed_bytes(&self) -> u64 {
        let packed = |tensor: TensorInfo| {
            let bytes = tensor.bytes.unwrap_or(0);
            match tensor.dtype.runs() {
                Some(dtype) => bytes / dtype.block_bytes() as u64 * packed_block_bytes(dtype) as u64,
                None if float8::is_stored_as(&tensor.dtype) => bytes + bytes / 32,
                None => bytes,
            }
        };
        self.tensors().into_iter().map(packed).sum()
    }

    /// Memory for the weights and one sequence of `context` tokens with KV values of `value_bytes` bytes.
    pub fn memory(&self, context: usize, value_bytes: u64) -> Memory {
        let kv = self.spec.kv_bytes_per_token(value_bytes).saturating_mul(context as u64);
        Memory { weights: self.packed_bytes(), kv }
    }
}
