//! A whole model's tensors, streamed into either format from one source of rows.

use super::gguf_keys::{self, of_expert};
use super::gguf_writer::write_gguf;
use super::output::{Planned, Progress};
use super::rows::stream;
use super::safetensors_writer::{SHARD_BYTES, write_safetensors};
use super::{MakeError, Mix};
use crate::load::{LayerTensor, Metadata, ModelSpec, TensorRole, names};
use std::path::Path;
use zonda_kernels::DType;

/// Gives row `r` of a matrix as `f32`, in Hugging Face's order of rows.
pub(super) type Rows<'a> = Box<dyn Fn(usize, &mut [f32]) + Sync + 'a>;

/// Where weights come from: another file, or a random generator.
pub(super) trait Weights {
    /// The rows of a role's tensor. A vector is one row.
    fn rows(&self, role: TensorRole) -> Result<Rows<'_>, MakeError>;
}

/// Writes a GGUF file. Q and K are permuted where the family's files have them so. Returns the file's size.
pub(super) fn to_gguf(
    path: &Path,
    spec: &ModelSpec,
    metadata: &Metadata,
    mix: Mix,
    weights: &dyn Weights,
    progress: Progress<'_>,
) -> Result<u64, MakeError> {
    let entries = gguf_keys::tensors(spec);
    let dtype = |role| mix.dtype(spec, role, spec.shape(role).last().copied().unwrap_or(1));
    let dtypes: Vec<DType> = entries.iter().map(|entry| dtype(entry.role)).collect();
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

    let mut fill = |i: usize, sink: &mut super::output::Sink<'_>| {
        let Some(entry) = entries.get(i) else {
            let factors = factors.as_deref().unwrap_or_default();
            return stream(&planned[i], DType::F32, &|_, out| out.copy_from_slice(factors), sink);
        };
        let parts = match entry.experts {
            None => vec![weights.rows(entry.role)?],
            Some(n) => (0..n).map(|e| weights.rows(of_expert(entry.role, e))).collect::<Result<_, _>>()?,
        };
        let rows_of_one = matrix_rows(&spec.shape(entry.role));
        let permuted = gguf_keys::permutes(spec) && is_rotated(entry.role);
        let source = |row: usize, out: &mut [f32]| {
            let (part, row) = (row / rows_of_one, row % rows_of_one);
            parts[part](if permuted { halves_row(row, spec.head_dim) } else { row }, out);
        };
        stream(&planned[i], dtypes[i], &source, sink)
    };
    write_gguf(path, metadata, &planned, &mut fill, progress)
}

/// Writes `model.safetensors`, or shards and an index, into a folder. Returns the bytes written.
pub(super) fn to_safetensors(
    folder: &Path,
    spec: &ModelSpec,
    dtype: DType,
    weights: &dyn Weights,
    progress: Progress<'_>,
) -> Result<u64, MakeError> {
    let roles: Vec<TensorRole> = spec.roles().collect();
    let planned: Vec<Planned> = roles
        .iter()
        .map(|&role| Planned {
            name: names::hugging_face(role, spec.architecture),
            holds: dtype.into(),
            shape: spec.shape(role),
        })
        .collect();
    let mut fill = |i: usize, sink: &mut super::output::Sink<'_>| {
        stream(&planned[i], dtype, &*weights.rows(roles[i])?, sink)
    };
    write_safetensors(folder, &planned, SHARD_BYTES, &mut fill, progress)
}

fn matrix_rows(shape: &[usize]) -> usize {
    shape.iter().rev().skip(1).product()
}

/// Whether RoPE turns this tensor's rows.
pub(super) fn is_rotated(role: TensorRole) -> bool {
    matches!(role, TensorRole::Layer(_, LayerTensor::Q | LayerTensor::K))
}

/// Where a row of a matrix permuted for adjacent pairs lies in one for pairs of halves. Per head, rows
/// `(2i, 2i + 1)` are rows `(i, i + head_dim/2)` there.
pub(super) fn halves_row(adjacent: usize, head_dim: usize) -> usize {
    let (head, within) = (adjacent / head_dim, adjacent % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// The inverse of [`halves_row`].
pub(super) fn adjacent_row(halves: usize, head_dim: usize) -> usize {
    let (head, within) = (halves / head_dim, halves % head_dim);
    let half = head_dim / 2;
    head * head_dim + within % half * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_each_others_inverse() {
        let permuted: Vec<usize> = (0..8).map(|row| halves_row(row, 8)).collect();
        assert_eq!(permuted, [0, 4, 1, 5, 2, 6, 3, 7]);
        for row in 0..64 {
            assert_eq!(adjacent_row(halves_row(row, 16), 16), row);
        }
    }
}
