//! Streams all tensors of a model into either format, from one source of rows.

use crate::error::ConvertError;
use crate::file_tensors::{FileTensor, file_tensors};
use crate::fitting::Fitting;
use crate::gguf_keys;
use crate::gguf_writer::write_gguf;
use crate::output::{Planned, Progress, Sink};
use crate::rows::{Rows, Weights, stream, stream_stored};
use crate::safetensors_writer::{SHARD_BYTES, write_safetensors};
use std::path::Path;
use zonda_engine::load::{LayerTensor, Metadata, Mla, ModelSpec, TensorRole, names};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;

/// Writes a GGUF file. Q and K are permuted if the family's files have them permuted. Returns the file's size in bytes.
pub(crate) fn to_gguf(
    path: &Path,
    spec: &ModelSpec,
    metadata: &Metadata,
    mix: Mix,
    weights: &dyn Weights,
    mut fitting: Option<Fitting<'_>>,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let tensors = gguf_keys::tensors(spec);
    let cols = |tensor: &FileTensor| tensor.shape.last().copied().unwrap_or(1);
    let dtypes: Vec<DType> = tensors.iter().map(|t| mix.dtype(spec, t.roles[0], cols(t))).collect();
    let mut planned: Vec<Planned> = tensors
        .iter()
        .zip(&dtypes)
        .map(|(t, &dtype)| Planned { name: t.name.clone(), holds: dtype.into(), shape: t.shape.clone() })
        .collect();
    let factors = gguf_keys::frequency_factors(spec);
    for (name, factors) in &factors {
        let (name, holds) = ((*name).to_owned(), DType::F32.into());
        planned.push(Planned { name, holds, shape: vec![factors.len()] });
    }

    let mut fill = |i: usize, sink: &mut Sink<'_>| {
        let Some(tensor) = tensors.get(i) else {
            let (_, factors) = &factors[i - tensors.len()];
            return stream(&planned[i], DType::F32, &|_, out| out.copy_from_slice(factors), sink);
        };
        let roles = &tensor.roles;
        let parts = roles.iter().map(|&role| weights.rows(role)).collect::<Result<Vec<_>, _>>()?;
        // For a row of the file: its part, and its row in that part.
        let place = |row: usize| {
            let (part, row) = tensor.place(row);
            let permuted = gguf_keys::permutes(spec) && is_rotated(roles[part]);
            (part, if permuted { halves_row(row, spec.head_dim) } else { row })
        };
        let rows = |row: usize, out: &mut [f32]| {
            let (part, row) = place(row);
            parts[part](row, out);
        };
        let (planned, dtype) = (&planned[i], dtypes[i]);
        match &mut fitting {
            None => match roles.iter().map(|&role| weights.stored(role, dtype)).collect::<Option<Vec<_>>>() {
                None => stream(planned, dtype, &rows, sink)?,
                Some(stored) => {
                    let source = |row: usize, out: &mut Vec<u8>| {
                        let (part, row) = place(row);
                        stored[part](row, out);
                    };
                    stream_stored(planned, &source, sink)?;
                }
            },
            Some(fitting) => {
                let raw = roles.iter().map(|&role| weights.raw(role)).collect::<Result<Option<Vec<_>>, _>>();
                let wanted = mix.wanted(spec, roles[0]);
                fitting.stream(planned, roles, raw?, (wanted, dtype), &rows, &place, sink)?;
            }
        }
        roles.iter().for_each(|&role| weights.release(role));
        Ok(())
    };
    write_gguf(path, metadata, &planned, &mut fill, progress)
}

/// Writes `model.safetensors`, or shards and an index, into a folder. Returns the bytes written.
pub(crate) fn to_safetensors(
    folder: &Path,
    spec: &ModelSpec,
    dtype: DType,
    weights: &dyn Weights,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let tensors = file_tensors(spec, |role| names::folder(role, spec.architecture).swap_remove(0));
    let planned: Vec<Planned> = tensors
        .iter()
        .map(|t| Planned {
            name: t.name.clone(),
            holds: float_type(t.roles[0], dtype).into(),
            shape: t.shape.clone(),
        })
        .collect();
    let mut fill = |i: usize, sink: &mut Sink<'_>| {
        let first = tensors[i].roles[0];
        if let (TensorRole::Layer(layer, LayerTensor::KeyUp), Some(mla)) = (first, &spec.extras.mla) {
            return stream(&planned[i], dtype, &*keys_and_values(weights, layer, spec.heads, mla)?, sink);
        }
        let rows = less_offset(tensors[i].rows(weights)?, first, spec);
        stream(&planned[i], float_type(first, dtype), &*rows, sink)
    };
    write_safetensors(folder, &planned, SHARD_BYTES, &mut fill, progress)
}

/// The projection of keys and values from their latent, `[heads · (nope + value), kv_rank]`, from its two parts.
fn keys_and_values<'a>(
    weights: &'a dyn Weights,
    layer: usize,
    heads: usize,
    mla: &'a Mla,
) -> Result<Rows<'a>, ConvertError> {
    let (rank, nope) = (mla.kv_rank, mla.nope);
    let stored = weights.rows(TensorRole::Layer(layer, LayerTensor::KeyUp))?;
    // `[heads · kv_rank, nope]`, of which columns become rows
    let mut keys = vec![0.0; heads * rank * nope];
    keys.chunks_exact_mut(nope).enumerate().for_each(|(row, out)| stored(row, out));
    let values = weights.rows(TensorRole::Layer(layer, LayerTensor::ValueUp))?;
    Ok(Box::new(move |row, out| {
        let (head, i) = (row / (nope + mla.value), row % (nope + mla.value));
        if i < nope {
            let head = &keys[head * rank * nope..];
            out.iter_mut().enumerate().for_each(|(col, v)| *v = head[col * nope + i]);
        } else {
            values(head * mla.value + i - nope, out);
        }
    }))
}

/// The type of a tensor in a folder of type `dtype`: the ranks of experts depend on small differences.
fn float_type(role: TensorRole, dtype: DType) -> DType {
    match role {
        TensorRole::Layer(_, LayerTensor::RouterCorrection) => DType::F32,
        _ => dtype,
    }
}

/// A tensor's rows as Hugging Face stores them.
pub(crate) fn less_offset<'a>(rows: Rows<'a>, role: TensorRole, spec: &ModelSpec) -> Rows<'a> {
    let offset = names::hugging_face_offset(role, spec.architecture);
    if offset == 0.0 {
        return rows;
    }
    Box::new(move |row, out| {
        rows(row, out);
        out.iter_mut().for_each(|v| *v -= offset);
    })
}

/// Whether RoPE rotates the outputs of this tensor.
pub(crate) fn is_rotated(role: TensorRole) -> bool {
    matches!(role, TensorRole::Layer(_, LayerTensor::Q | LayerTensor::K))
}

/// The row for pairs of halves that corresponds to a row for adjacent pairs. Per head, rows `(2i, 2i + 1)` become rows
/// `(i, i + head_dim/2)`.
pub(crate) fn halves_row(adjacent: usize, head_dim: usize) -> usize {
    let (head, within) = (adjacent / head_dim, adjacent % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// The inverse of [`halves_row`].
pub(crate) fn adjacent_row(halves: usize, head_dim: usize) -> usize {
    let (head, within) = (halves / head_dim, halves % head_dim);
    let half = head_dim / 2;
    head * head_dim + within % half * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permutations_are_inverses() {
        let permuted: Vec<usize> = (0..8).map(|row| halves_row(row, 8)).collect();
        assert_eq!(permuted, [0, 4, 1, 5, 2, 6, 3, 7]);
        for row in 0..64 {
            assert_eq!(adjacent_row(halves_row(row, 16), 16), row);
        }
    }
}
