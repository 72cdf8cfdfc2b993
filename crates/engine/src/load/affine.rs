//! MLX's affine quantisation: its description in `config.json`, and matrices stored in it.
//!
//! As `mlx-lm` writes and reads it: the matrix `X.weight` becomes three tensors. `X.weight` holds codes in 32-bit words,
//! low bits first (value `i` of a row is bits `i·b..(i+1)·b` of the row's little-endian bytes), `X.scales` and `X.biases`
//! one number each per group along a row: `value = scale · code + bias`.

use std::collections::BTreeMap;

use half::f16;
use serde_json::Value as Json;
use zonda_kernels::DType;

use super::fields::{Fields, Object};
use super::tensor::Data;
use super::{LoadError, Tensor};

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affine {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Values that share a scale and a bias: 32, 64 or 128.
    pub group_size: usize,
}

impl Affine {
    /// The numbers of bits that MLX supports.
    pub const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
    /// The group sizes that MLX supports.
    pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];
}

impl std::fmt::Display for Affine {
    /// `q4_g64`: 4 bits, groups of 64.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("q{}_g{}", self.bits, self.group_size))
    }
}

/// The quantisation described in a `config.json`. Which matrices are quantised is determined by the tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quantization {
    default: Affine,
    /// By the module's path, such as `model.layers.0.mlp.down_proj`.
    overrides: BTreeMap<String, Affine>,
}

impl Quantization {
    /// Reads the key `quantization`, if the configuration has it.
    pub fn read(config: &Object<'_>) -> Result<Option<Quantization>, LoadError> {
        let Some(object) = config.child("quantization", "quantization.")? else { return Ok(None) };
        let default = affine(&object)?;
        let mut overrides = BTreeMap::new();
        for (path, value) in object.object {
            match value {
                _ if ["group_size", "bits", "mode"].contains(&path.as_str()) => {}
                Json::Object(own) => {
                    let own = affine(&Object { path: object.path, prefix: object.prefix, object: own })?;
                    overrides.insert(path.clone(), own);
                }
                // A layer that is not quantised, which its tensors also show.
                Json::Bool(_) | Json::Null => {}
                other => {
                    let runs = "group_size, bits, mode and objects for single layers are supported";
                    return Err(object.unsupported(path, other, runs));
                }
            }
        }
        Ok(Some(Quantization { default, overrides }))
    }

    /// How the matrix of a module is quantised, if it is.
    pub fn of(&self, module: &str) -> Affine {
        self.overrides.get(module).copied().unwrap_or(self.default)
    }
}

/// The numbers of one object.
fn affine(object: &Object<'_>) -> Result<Affine, LoadError> {
    if let Some(mode) = object.text("mode")?.filter(|&mode| mode != "affine") {
        return Err(object.unsupported("mode", format!("{mode:?}"), "only \"affine\" is supported"));
    }
    let one_of = |key: &str, all: &[usize]| {
        let found = object.need_count(key, 1024)?;
        let expected =
            || format!("one of {}", all.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
        if all.contains(&found) { Ok(found) } else { Err(object.bad(key, found, expected())) }
    };
    Ok(Affine {
        bits: one_of("bits", &Affine::BITS)?,
        group_size: one_of("group_size", &Affine::GROUP_SIZES)?,
    })
}

/// A matrix in MLX's quantisation, as stored.
#[derive(Clone, Debug)]
pub struct AffineTensor {
    /// The name of the codes in the file.
    pub name: String,
    /// Bits and group size.
    pub affine: Affine,
    /// The shape of the dequantised matrix, `[out, in]`.
    pub shape: Vec<usize>,
    /// `[out, in / group_size]`
    pub scales: Tensor,
    /// `[out, in / group_size]`
    pub biases: Tensor,
    /// `[out, in · bits / 8]` bytes
    pub(super) codes: Data,
}

impl AffineTensor {
    /// The codes: `in · bits / 32` little-endian 32-bit words per row.
    pub fn codes(&self) -> &[u8] {
        self.codes.bytes()
    }

    /// Bytes in the file: codes, scales and biases.
    pub fn stored_bytes(&self) -> u64 {
        (self.codes().len() + self.scales.bytes().len() + self.biases.bytes().len()) as u64
    }

    /// Code `i` of a row's bytes.
    fn code(&self, row: &[u8], i: usize) -> u8 {
        let (byte, shift) = (i * self.affine.bits / 8, i * self.affine.bits % 8);
        let high = row.get(byte + 1).copied().unwrap_or(0);
        let mask = (1u16 << self.affine.bits) - 1;
        (u16::from_le_bytes([row[byte], high]) >> shift & mask) as u8
    }

    /// The matrix in a type that other backends support: Q4_1 if that is exact, else f32.
    pub fn to_tensor(&self) -> Tensor {
        let (scales, biases) = (self.scales.to_f32(), self.biases.to_f32());
        let exact = |v: &f32| f16::from_f32(*v).to_f32() == *v;
        if self.affine.bits == 4 && scales.iter().chain(&biases).all(exact) {
            return self.owned(DType::Q4_1, self.q4_1(&scales, &biases));
        }
        let (cols, group) = (self.shape[1], self.affine.group_size);
        let row_bytes = self.codes().len() / self.shape[0];
        let mut bytes = Vec::with_capacity(self.shape[0] * cols * 4);
        for (r, row) in self.codes().chunks_exact(row_bytes).enumerate() {
            for i in 0..cols {
                let at = (r * cols + i) / group;
                let value = scales[at] * f32::from(self.code(row, i)) + biases[at];
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.owned(DType::F32, bytes)
    }

    fn owned(&self, dtype: DType, bytes: Vec<u8>) -> Tensor {
        Tensor::owned(self.name.clone(), dtype, self.shape.clone(), bytes.into())
    }

    /// Blocks of a scale, a minimum and 32 codes, one or more per group. Value `i` of a block is the low half of byte `i`
    /// there, value `16 + i` the high half.
    fn q4_1(&self, scales: &[f32], biases: &[f32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.codes().len() / 16 * 20);
        for (block, codes) in self.codes().chunks_exact(16).enumerate() {
            let group = block * 32 / self.affine.group_size;
            out.extend_from_slice(&f16::from_f32(scales[group]).to_le_bytes());
            out.extend_from_slice(&f16::from_f32(biases[group]).to_le_bytes());
            let code = |i: usize| codes[i / 2] >> (4 * (i % 2)) & 15;
            out.extend((0..16).map(|i| code(i) | code(16 + i) << 4));
        }
        out
    }
}
