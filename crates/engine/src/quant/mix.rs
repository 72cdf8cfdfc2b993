//! [`Mix`]: the type of each tensor of a quantised model.
//!
//! The rules are those of llama.cpp's `quantize` tool without importance weights, so that files are like published ones: the
//! output head gets more bits, and the `_m` mixes use more bits in some of the layers.

use crate::load::{LayerTensor, ModelSpec, TensorRole};
use std::fmt;
use std::str::FromStr;
use zonda_kernels::DType;
use zonda_kernels::quantize::can_quantize;

/// A quantisation scheme for a whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mix {
    /// One type for all matrices, except the head of quantised models. MXFP4 is the type of experts where there are any; all else
    /// is Q8_0 then.
    Plain(DType),
    /// Q4_K, with Q6_K for part of the V and down projections.
    Q4KM,
    /// Q5_K, with Q6_K for part of the V and down projections.
    Q5KM,
}

impl Mix {
    /// Every scheme that the quantiser writes.
    pub fn all() -> impl Iterator<Item = Mix> {
        Mix::readable().filter(|mix| can_quantize(mix.base()))
    }

    /// Every scheme, also those of types that are only read.
    pub fn readable() -> impl Iterator<Item = Mix> {
        DType::ALL.into_iter().filter(|dtype| dtype.in_gguf()).map(Mix::Plain).chain([Mix::Q4KM, Mix::Q5KM])
    }

    /// The type of most matrices.
    pub fn base(self) -> DType {
        match self {
            Mix::Plain(dtype) => dtype,
            Mix::Q4KM => DType::Q4_K,
            Mix::Q5KM => DType::Q5_K,
        }
    }

    /// The value of GGUF's `general.file_type`, with llama.cpp's numbers.
    pub fn file_type(self) -> u32 {
        match self {
            Mix::Q4KM => 15,
            Mix::Q5KM => 17,
            Mix::Plain(dtype) => match dtype {
                DType::F32 => 0,
                DType::F16 => 1,
                DType::Q4_0 => 2,
                DType::Q4_1 => 3,
                DType::Q8_0 => 7,
                DType::Q5_0 => 8,
                DType::Q5_1 => 9,
                DType::Q2_K => 10,
                DType::Q3_K => 11,
                DType::Q4_K => 14,
                DType::Q5_K => 16,
                DType::Q6_K => 18,
                DType::BF16 => 32,
                DType::MXFP4 => 38,
                DType::IQ4_NL => 25,
                DType::IQ4_XS => 30,
                DType::TQ1_0 => 36,
                DType::TQ2_0 => 37,
                DType::NVFP4 => 39,
                DType::Q1_0 => 40,
                DType::Q2_0 => 41,
                DType::IQ2_XXS => 19,
                DType::IQ2_XS => 20,
                DType::IQ2_S => 28,
                DType::IQ3_XXS => 23,
                DType::IQ3_S => 26,
                DType::IQ1_S => 24,
                DType::IQ1_M => 31,
                // GGUF lacks the type; llama.cpp's number for files that name none
                DType::F8_E4M3 => 1024,
            },
        }
    }

    /// The type of one tensor with rows of `cols` values.
    pub fn dtype(self, spec: &ModelSpec, role: TensorRole, cols: usize) -> DType {
        fit(self.wanted(spec, role), cols)
    }

    /// The type of one tensor, provided that its rows are whole blocks of that type.
    pub fn wanted(self, spec: &ModelSpec, role: TensorRole) -> DType {
        let base = self.base();
        let (layer, tensor) = match role {
            TensorRole::OutputNorm => return DType::F32,
            TensorRole::Output => return head(base),
            TensorRole::TokenEmbedding if spec.tied_embeddings => return head(base),
            TensorRole::TokenEmbedding if base == DType::MXFP4 => return DType::Q8_0,
            TensorRole::TokenEmbedding => return base,
            TensorRole::Layer(layer, tensor) => (layer, tensor),
        };
        let mixed = matches!(self, Mix::Q4KM | Mix::Q5KM);
        let eight_experts = spec.moe.as_ref().is_some_and(|moe| moe.experts == 8);
        match tensor {
            // Vectors, and the router, whose choices depend on small differences.
            LayerTensor::AttnNorm
            | LayerTensor::AttnPostNorm
            | LayerTensor::FfnNorm
            | LayerTensor::FfnPostNorm
            | LayerTensor::QNorm
            | LayerTensor::KNorm
            | LayerTensor::QBias
            | LayerTensor::KBias
            | LayerTensor::VBias
            | LayerTensor::QDownNorm
            | LayerTensor::KvDownNorm
            | LayerTensor::Router
            | LayerTensor::RouterBias
            | LayerTensor::RouterCorrection
            | LayerTensor::AttnOutBias
            | LayerTensor::Sinks
            | LayerTensor::ExpertGateBias(_)
            | LayerTensor::ExpertUpBias(_)
            | LayerTensor::ExpertDownBias(_)
            | LayerTensor::SharedRouter => DType::F32,
            // As in files of that type: experts, and little besides.
            LayerTensor::ExpertGate(_) | LayerTensor::ExpertUp(_) | LayerTensor::ExpertDown(_)
                if base == DType::MXFP4 =>
            {
                base
            }
            _ if base == DType::MXFP4 && spec.moe.is_some() => DType::Q8_0,
            // Small tensors of a large model, which cost little.
            LayerTensor::K | LayerTensor::V if base.is_quantized() && eight_experts => DType::Q8_0,
            LayerTensor::AttnOut
                if matches!(base, DType::Q2_K | DType::Q3_K | DType::Q4_K) && eight_experts =>
            {
                DType::Q5_K
            }
            LayerTensor::V | LayerTensor::FfnDown | LayerTensor::ExpertDown(_)
                if mixed && more_bits(layer, spec.layers) =>
            {
                DType::Q6_K
            }
            _ => base,
        }
    }
}

/// The output head's type: only Q8_0 is more accurate than Q6_K, and files of MXFP4 have it.
fn head(base: DType) -> DType {
    match base {
        DType::MXFP4 => DType::Q8_0,
        base if base.is_quantized() && base != DType::Q8_0 => DType::Q6_K,
        base => base,
    }
}

/// Layers whose V and down projections get more bits: the first and last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// `dtype`, or a type with blocks of 32 and at least as many bits if rows are not a multiple of 256; F16 if they are not a
/// multiple of 32 either. (llama.cpp uses IQ4_NL where this uses Q4_0.)
fn fit(dtype: DType, cols: usize) -> DType {
    if cols.is_multiple_of(dtype.block_len()) {
        return dtype;
    }
    let smaller = match dtype {
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::IQ4_XS | DType::IQ3_XXS | DType::IQ3_S => DType::IQ4_NL,
        DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ1_S | DType::IQ1_M => DType::IQ4_NL,
        DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
        _ => DType::Q8_0,
    };
    if cols.is_multiple_of(smaller.block_len()) { smaller } else { DType::F16 }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mix::Plain(dtype) => dtype.fmt(f),
            Mix::Q4KM => f.pad("q4_k_m"),
            Mix::Q5KM => f.pad("q5_k_m"),
        }
    }
}

/// The name of no [`Mix`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown quantisation {found:?}; expected one of {}", Mix::all().map(|m| m.to_string()).collect::<Vec<_>>().join(", "))]
pub struct UnknownMix {
    /// The name.
    pub found: String,
}

impl FromStr for Mix {
    type Err = UnknownMix;

    fn from_str(s: &str) -> Result<Mix, UnknownMix> {
        Mix::all()
            .find(|mix| mix.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownMix { found: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mix in Mix::all() {
            assert_eq!(mix.to_string().parse(), Ok(mix));
        }
        assert!("q4_k_s".parse::<Mix>().is_err());
    }
}
