//! Streams all tensors of a model into either format, from one source of rows.

use crate::error::ConvertError;
use crate::fitting::Fitting;
use crate::gguf_keys::{self, of_expert};
use crate::gguf_writer::write_gguf;
use crate::output::{Planned, Progress, Sink};
use crate::rows::{RawRow, stream};
use crate::safetensors_writer::{SHARD_BYTES, write_safetensors};
use std::path::Path;
use zonda_engine::load::{Architecture, LayerTensor, Metadata, Mla, ModelSpec, TensorRole, names};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;

/// Writes row `r` of a matrix as `f32`, in Hugging Face's order of rows.
pub(crate) type Rows<'a> = Box<dyn Fn(usize, &mut [f32]) + Sync + 'a>;

/// A source of weights: another file, or a random generator.
pub(crate) trait Weights {
    /// The rows of a role's tensor. A vector is a single row.
    fn rows(&self, role: TensorRole) -> Result<Rows<'_>, ConvertError>;

    /// A role's tensor as stored; `None` if its type is not one of ours.
    fn raw(&self, _role: TensorRole) -> Result<Option<(DType, RawRow<'_>)>, ConvertError> {
        Ok(None)
    }

    /// Tells the source that a role's tensor has been read.
    fn release(&self, _role: TensorRole) {}
}

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
    let entries = gguf_keys::tensors(spec);
    let cols = |role| spec.shape(role).last().copied().unwrap_or(1);
    let dtypes: Vec<DType> = entries.iter().map(|e| mix.dtype(spec, e.role, cols(e.role))).collect();
    let mut planned: Vec<Planned> = entries
        .iter()
        .zip(&dtypes)
        .map(|(entry, &dtype)| {
            let mut shape = spec.shape(entry.role);
            shape.splice(..0, entry.experts);
            Planned { name: entry.name.clone(), holds: dtype.into(), shape }
        })
        .collect();
    let factors = gguf_keys::frequency_factors(spec);
    if let Some(factors) = &factors {
        let name = "rope_freqs.weight".to_owned();
        planned.push(Planned { name, holds: DType::F32.into(), shape: vec![factors.len()] });
    }

    let mut fill = |i: usize, sink: &mut Sink<'_>| {
        let Some(entry) = entries.get(i) else {
            let factors = factors.as_deref().unwrap_or_default();
            return stream(&planned[i], DType::F32, &|_, out| out.copy_from_slice(factors), sink);
        };
        let roles: Vec<TensorRole> = match entry.experts {
            None => vec![entry.role],
            Some(n) => (0..n).map(|e| of_expert(entry.role, e)).collect(),
        };
        let parts = roles.iter().map(|&role| weights.rows(role)).collect::<Result<Vec<_>, _>>()?;
        let rows_of_one = matrix_rows(&spec.shape(entry.role));
        let permuted = gguf_keys::permutes(spec) && is_rotated(entry.role);
        // For a row of the file: its part, and its row in that part.
        let place = |row: usize| {
            let (part, row) = (row / rows_of_one, row % rows_of_one);
            (part, if permuted { halves_row(row, spec.head_dim) } else { row })
        };
        let rows = |row: usize, out: &mut [f32]| {
            let (part, row) = place(row);
            parts[part](row, out);
        };
        let (tensor, dtype) = (&planned[i], dtypes[i]);
        match &mut fitting {
            None => stream(tensor, dtype, &rows, sink)?,
            Some(fitting) => {
                let raw = roles.iter().map(|&role| weights.raw(role)).collect::<Result<Option<Vec<_>>, _>>();
                let wanted = mix.wanted(spec, entry.role);
                fitting.stream(tensor, &roles, raw?, (wanted, dtype), &rows, &place, sink)?;
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
    let entries = folder_entries(spec);
    let planned: Vec<Planned> = entries
        .iter()
        .map(|FolderTensor { name, roles, shape }| Planned {
            name: name.clone(),
            holds: float_type(roles[0], dtype).into(),
            shape: shape.clone(),
        })
        .collect();
    let mut fill = |i: usize, sink: &mut Sink<'_>| {
        let roles = &entries[i].roles;
        if let (TensorRole::Layer(layer, LayerTensor::KeyUp), Some(mla)) = (roles[0], &spec.extras.mla) {
            return stream(&planned[i], dtype, &*keys_and_values(weights, layer, spec.heads, mla)?, sink);
        }
        let parts = roles.iter().map(|&role| Ok(less_offset(weights.rows(role)?, role, spec)));
        let parts = parts.collect::<Result<Vec<_>, ConvertError>>()?;
        let of_part = matrix_rows(&spec.shape(roles[0]));
        let rows = |row: usize, out: &mut [f32]| parts[row / of_part](row % of_part, out);
        stream(&planned[i], float_type(roles[0], dtype), &rows, sink)
    };
    write_safetensors(folder, &planned, SHARD_BYTES, &mut fill, progress)
}

/// A tensor of a folder: the rows of some roles, one after another.
struct FolderTensor {
    name: String,
    roles: Vec<TensorRole>,
    shape: Vec<usize>,
}

/// All tensors of a folder, in the order of the forward pass.
fn folder_entries(spec: &ModelSpec) -> Vec<FolderTensor> {
    use LayerTensor::{ExpertDown, ExpertGate, ExpertUp, KeyUp, ValueUp};
    // this class holds the experts of a layer together
    let fused = if spec.architecture == Architecture::Mistral4 { spec.moe.as_ref() } else { None };
    let entry = |role: TensorRole| {
        let (name, shape) = (names::hugging_face(role, spec.architecture), spec.shape(role));
        let TensorRole::Layer(layer, tensor) = role else {
            return Some(FolderTensor { name, roles: vec![role], shape });
        };
        let of = |tensor| TensorRole::Layer(layer, tensor);
        let experts = format!("model.layers.{layer}.mlp.experts");
        Some(match (tensor, fused, &spec.extras.mla) {
            (ValueUp, ..) => return None,
            (KeyUp, _, Some(mla)) => {
                let shape = vec![spec.heads * (mla.nope + mla.value), mla.kv_rank];
                FolderTensor { name, roles: vec![role, of(ValueUp)], shape }
            }
            (ExpertGate(0), Some(moe), _) => FolderTensor {
                name: format!("{experts}.gate_up_proj"),
                roles: (0..moe.experts).flat_map(|e| [of(ExpertGate(e)), of(ExpertUp(e))]).collect(),
                shape: vec![moe.experts, 2 * shape[0], shape[1]],
            },
            (ExpertDown(0), Some(moe), _) => FolderTensor {
                name: format!("{experts}.down_proj"),
                roles: (0..moe.experts).map(|e| of(ExpertDown(e))).collect(),
                shape: vec![moe.experts, shape[0], shape[1]],
            },
            (ExpertGate(_) | ExpertUp(_) | ExpertDown(_), Some(_), _) => return None,
            _ => FolderTensor { name, roles: vec![role], shape },
        })
    };
    spec.roles().filter_map(entry).collect()
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

fn matrix_rows(shape: &[usize]) -> usize {
    shape.iter().rev().skip(1).product()
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
