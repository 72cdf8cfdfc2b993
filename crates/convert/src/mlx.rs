//! Writes a folder as `mlx-lm` does and `mlx-community` publishes: SafeTensors with matrices in MLX's affine quantisation,
//! experts stacked, and a `config.json` that describes it.
//!
//! A group's scale and bias follow MLX's `quantize`: the extreme value farther from zero is represented exactly, and so is
//! zero.

use crate::error::ConvertError;
use crate::file_tensors::{FileTensor, file_tensors};
use crate::output::{Holds, Pending, Planned, Progress, Sink};
use crate::rows::{Weights, in_chunks, stream};
use crate::safetensors_writer::{SHARD_BYTES, write_json, write_safetensors};
use crate::weights::less_offset;
use crate::{hf_config, hf_tokenizer};
use serde_json::{Map, Value as Json, json};
use std::fs;
use std::ops::Range;
use std::path::Path;
use zonda_engine::load::names::{self, TensorLocation};
use zonda_engine::load::{Affine, Architecture, LayerTensor, Model, ModelSpec, TensorRole};
use zonda_kernels::DType;
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::quantize::quantize;

/// Files of the tokenizer and the generation settings, which are copied.
const COPIED: [&str; 10] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Writes a model as an MLX folder: matrices quantised, everything else (norms, biases, routers, rows that are not whole groups)
/// and all scales in the float type `dtype`. Returns the bytes of its weights.
///
/// # Errors
/// If MLX does not have these bits or this group size, if the input is incomplete or can't be expressed in a folder, or if
/// reading or writing fails.
pub fn convert_to_mlx(
    input: &Model,
    out: &Path,
    affine: Affine,
    dtype: DType,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    check(affine)?;
    if dtype.is_quantized() {
        return Err(ConvertError::FloatsOnly { found: dtype.to_string() });
    }
    if input.spec.extras.mla.is_some() {
        return Err(ConvertError::NotExpressible {
            what: "attention".to_owned(),
            found: "multi-head latent attention".to_owned(),
            format: "an MLX folder",
            reason: "MLX does not run it here".to_owned(),
        });
    }
    let architecture = input.spec.architecture;
    if input.spec.moe.is_some()
        && (architecture.granite() || matches!(architecture, Architecture::GptOss | Architecture::Llama4))
    {
        return Err(ConvertError::NotExpressible {
            what: "experts".to_owned(),
            found: architecture.to_string(),
            format: "an MLX folder",
            reason: "mlx-lm stacks experts of this family differently".to_owned(),
        });
    }
    input.check()?;
    let pending = Pending::folder(out)?;
    let folder = pending.path();
    let mut config = match input.folder() {
        Some(from) => {
            copy_beside_weights(from, folder)?;
            own_config(input, from, dtype)?
        }
        None => {
            let has_tokenizer = input.metadata.get("tokenizer.ggml.tokens").is_some();
            let (bos, eos) = match has_tokenizer {
                true => hf_tokenizer::write(&input.metadata, folder)?,
                false => (None, Vec::new()),
            };
            hf_config::config(&input.spec, dtype, bos, &eos)?
        }
    };
    let quantization = json!({ "group_size": affine.group_size, "bits": affine.bits, "mode": "affine" });
    config["quantization"] = quantization.clone();
    config["quantization_config"] = quantization; // where the Hub looks
    write_json(&folder.join("config.json"), &config)?;

    let matrices = matrices(&input.spec, affine);
    let planned: Vec<Planned> = matrices.iter().flat_map(|m| m.planned(affine, dtype)).collect();
    let parts: Vec<(usize, usize)> =
        matrices.iter().enumerate().flat_map(|(i, m)| (0..m.parts()).map(move |part| (i, part))).collect();
    let weights = crate::convert::Stored(input);
    // Computed together with a matrix's codes, but written after them.
    let mut rest = [Vec::new(), Vec::new()];
    let mut fill = |i: usize, sink: &mut Sink<'_>| match (&matrices[parts[i].0], parts[i].1) {
        (matrix, 0) if matrix.quantized => {
            rest = matrix.write_codes(&weights, affine, dtype, sink)?;
            Ok(())
        }
        (_, part @ 1..) => sink.write(&std::mem::take(&mut rest[part - 1])),
        (matrix, _) => {
            let rows = matrix.tensor.rows(&weights)?;
            let rows = less_offset(rows, matrix.tensor.roles[0], &input.spec);
            stream(&planned[i], dtype, &*rows, sink)
        }
    };
    let bytes = write_safetensors(folder, &planned, SHARD_BYTES, &mut fill, progress)?;
    pending.commit()?;
    Ok(bytes)
}

/// Rejects bits or a group size that MLX does not have.
fn check(affine: Affine) -> Result<(), ConvertError> {
    let list = |all: &[usize]| all.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let checks = [
        ("the number of bits", affine.bits, &Affine::BITS[..]),
        ("the group size", affine.group_size, &Affine::GROUP_SIZES[..]),
    ];
    match checks.iter().find(|(_, found, all)| !all.contains(found)) {
        None => Ok(()),
        Some(&(what, found, all)) => {
            let expected = format!("one of {}", list(all));
            Err(ConvertError::Invalid { what, found: found.to_string(), expected })
        }
    }
}

/// The input folder's `config.json`, with the spec's hyperparameters in the spelling that every reader supports.
fn own_config(input: &Model, from: &Path, dtype: DType) -> Result<Json, ConvertError> {
    let path = from.join("config.json");
    let text = fs::read(&path).map_err(ConvertError::read(&path))?;
    // It was parsed when the model was opened.
    let mut config: Map<String, Json> = serde_json::from_slice(&text).unwrap_or_default();
    if let Json::Object(spec) = hf_config::config(&input.spec, dtype, None, &[])? {
        config.extend(spec);
    }
    config.remove("dtype"); // the newer spelling of `torch_dtype`
    config.remove("rope_parameters"); // of `rope_theta` and `rope_scaling`
    Ok(Json::Object(config))
}

fn copy_beside_weights(from: &Path, to: &Path) -> Result<(), ConvertError> {
    for name in COPIED {
        let path = from.join(name);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(ConvertError::read(&path))?;
            fs::write(to.join(name), bytes).map_err(ConvertError::write(&to.join(name)))?;
        }
    }
    Ok(())
}

/// A tensor of the folder: a matrix, matrices of several roles, or a vector.
struct Matrix {
    /// The name in the folder, without `.weight` for a quantised matrix.
    name: String,
    tensor: FileTensor,
    quantized: bool,
}

/// All tensors, in the order of the forward pass.
fn matrices(spec: &ModelSpec, affine: Affine) -> Vec<Matrix> {
    // one tensor for all experts, where there is a choice
    let place = |role| {
        let mut places = names::folder(role, spec.architecture);
        let stacked = places.iter().position(|place| matches!(place, TensorLocation::Plane(..)));
        places.swap_remove(stacked.unwrap_or(0))
    };
    let all = file_tensors(spec, place).into_iter().map(|tensor| {
        let quantized = is_quantized(tensor.roles[0], &spec.shape(tensor.roles[0]), affine);
        let name = if quantized { tensor.name.trim_end_matches(".weight") } else { &tensor.name };
        Matrix { name: name.to_owned(), tensor, quantized }
    });
    all.collect()
}

/// Matrices with rows of whole groups, except for the router, which is too sensitive.
fn is_quantized(role: TensorRole, shape: &[usize], affine: Affine) -> bool {
    let router = matches!(role, TensorRole::Layer(_, LayerTensor::Router | LayerTensor::SharedRouter));
    shape.len() == 2 && !router && shape[1].is_multiple_of(affine.group_size)
}

impl Matrix {
    /// The number of tensors it takes.
    fn parts(&self) -> usize {
        if self.quantized { 3 } else { 1 }
    }

    fn planned(&self, affine: Affine, dtype: DType) -> Vec<Planned> {
        let with = |name: String, holds: Holds, cols: usize| {
            let mut shape = self.tensor.shape.clone();
            shape.last_mut().into_iter().for_each(|last| *last = cols);
            Planned { name, holds, shape }
        };
        let cols = self.tensor.shape.last().copied().unwrap_or(1);
        if !self.quantized {
            return vec![with(self.name.clone(), dtype.into(), cols)];
        }
        let name = |part: &str| format!("{}.{part}", self.name);
        let groups = cols / affine.group_size;
        vec![
            with(name("weight"), Holds::Words, cols * affine.bits / 32),
            with(name("scales"), dtype.into(), groups),
            with(name("biases"), dtype.into(), groups),
        ]
    }

    /// Quantises and writes the codes; returns the bytes of scales and biases.
    fn write_codes(
        &self,
        weights: &dyn Weights,
        affine: Affine,
        dtype: DType,
        sink: &mut Sink<'_>,
    ) -> Result<[Vec<u8>; 2], ConvertError> {
        let source = self.tensor.rows(weights)?;
        let (cols, rows) = self.tensor.shape.split_last().map_or((1, &[][..]), |(&cols, rows)| (cols, rows));
        let rows = rows.iter().product();
        let mut rest = [Vec::new(), Vec::new()];
        let make = |range: Range<usize>| {
            let mut made = Groups::default();
            let mut values = vec![0.0; cols];
            for row in range {
                source(row, &mut values);
                values.chunks_exact(affine.group_size).for_each(|g| made.quantize(g, affine.bits, dtype));
            }
            made
        };
        in_chunks(rows, cols, make, |made: Groups| {
            rest[0].extend(made.scales);
            rest[1].extend(made.biases);
            sink.write(&made.codes)
        })?;
        Ok(rest)
    }
}

/// Quantised groups, as bytes.
#[derive(Default)]
struct Groups {
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Groups {
    /// Adds one group. Codes are computed from the scale and bias as rounded to `dtype`.
    fn quantize(&mut self, values: &[f32], bits: usize, dtype: DType) {
        let most = ((1u32 << bits) - 1) as f32;
        let (scale, bias) = scale_and_bias(values, most);
        let mut stored = |value: f32, to: fn(&mut Groups) -> &mut Vec<u8>| {
            let (mut bytes, mut rounded) = (Vec::with_capacity(4), [0.0]);
            quantize(dtype, &[value], &mut bytes);
            dequantize(dtype, &bytes, &mut rounded);
            to(self).extend(bytes);
            rounded[0]
        };
        let (scale, bias) = (stored(scale, |g| &mut g.scales), stored(bias, |g| &mut g.biases));
        let code = |value: f32| match scale == 0.0 {
            true => 0,
            false => ((value - bias) / scale).round_ties_even().clamp(0.0, most) as u8,
        };
        // A bit stream, low bits first.
        let (mut open, mut filled) = (0u32, 0);
        for &value in values {
            open |= u32::from(code(value)) << filled;
            filled += bits;
            while filled >= 8 {
                self.codes.push(open as u8);
                open >>= 8;
                filled -= 8;
            }
        }
    }
}

/// `value ≈ scale · code + bias`, with codes up to `most`. The bias is the extreme value farther from zero, and the steps
/// of the scale from there to the other extreme include zero.
fn scale_and_bias(values: &[f32], most: f32) -> (f32, f32) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = ((high - low) / most).max(1e-7);
    let (edge, step) = if low.abs() > high.abs() { (low, step) } else { (high, -step) };
    match (edge / step).round_ties_even() {
        0.0 => (step, 0.0),
        steps => (edge / steps, edge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_and_zero_are_exact_and_the_rest_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 20.0) / 7.0).collect();
        for bits in [2usize, 3, 4, 5, 6, 8] {
            let most = ((1u32 << bits) - 1) as f32;
            let (scale, bias) = scale_and_bias(&values, most);
            let mut made = Groups::default();
            made.quantize(&values, bits, DType::F32);
            assert_eq!(made.codes.len(), 64 * bits / 8);
            let zero = (0.0 - bias) / scale;
            assert!((zero - zero.round()).abs() < 1e-4, "{bits} bits: zero is code {zero}");
            for (i, &value) in values.iter().enumerate() {
                let at = i * bits;
                let two = u16::from_le_bytes([made.codes[at / 8], *made.codes.get(at / 8 + 1).unwrap_or(&0)]);
                let code = f32::from(two >> (at % 8) & ((1 << bits) - 1));
                let error = (scale * code + bias - value).abs();
                // The last step is wider if the scale was adjusted to include zero.
                assert!(error <= scale.abs(), "{bits} bits: {value} is {error} off, a step is {scale}");
            }
        }
        assert_eq!(scale_and_bias(&[0.0; 32], 15.0).1, 0.0);
        let mut made = Groups::default();
        made.quantize(&[0.0; 32], 4, DType::F16);
        assert_eq!((made.codes.len(), made.scales.len(), made.biases.len()), (16, 2, 2));
    }
}
