//! [`FileTensor`]: the tensors of a file, each with the roles whose rows it holds, for all formats.

use crate::error::ConvertError;
use crate::rows::{Rows, Weights};
use std::collections::HashMap;
use zonda_engine::load::names::TensorLocation;
use zonda_engine::load::{ModelSpec, TensorRole};

/// A tensor of a file: of one role, of all experts of a layer, or of several roles whose rows follow each other.
#[derive(Debug)]
pub(crate) struct FileTensor {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The roles in it, in order.
    pub roles: Vec<TensorRole>,
    /// Where the rows of each role end, counted over the whole tensor. A vector is one row.
    ends: Vec<usize>,
}

/// All tensors of a file, in the order of the forward pass. `place` says where the file has a role.
pub(crate) fn file_tensors(
    spec: &ModelSpec,
    place: impl Fn(TensorRole) -> TensorLocation,
) -> Vec<FileTensor> {
    let experts = spec.moe.as_ref().map_or(0, |moe| moe.experts);
    let mut tensors: Vec<FileTensor> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for role in spec.roles() {
        let mut shape = spec.shape(role);
        let rows: usize = shape.iter().rev().skip(1).product();
        let place = place(role);
        let name = place.name().to_owned();
        if let Some(&i) = known.get(&name) {
            let tensor = &mut tensors[i];
            let before = tensor.ends.last().copied().unwrap_or(0);
            tensor.ends.push(before + rows);
            tensor.roles.push(role);
            continue;
        }
        match (&place, &spec.extras.mla) {
            (TensorLocation::Rows { roles, .. }, _) => {
                shape[0] = roles.iter().map(|&role| spec.shape(role)[0]).sum();
            }
            // keys, transposed, and values: their rows don't follow each other
            (TensorLocation::Keys(_), Some(mla)) => {
                shape = vec![spec.heads * (mla.nope + mla.value), mla.kv_rank];
            }
            _ => {}
        }
        if matches!(place, TensorLocation::Plane(..) | TensorLocation::Rows { plane: Some(_), .. }) {
            shape.insert(0, experts);
        }
        known.insert(name.clone(), tensors.len());
        tensors.push(FileTensor { name, shape, roles: vec![role], ends: vec![rows] });
    }
    tensors
}

impl FileTensor {
    /// For a row of the tensor: which of [`FileTensor::roles`] it belongs to, and its row in that role's tensor.
    pub fn place(&self, row: usize) -> (usize, usize) {
        let part = self.ends.partition_point(|&end| end <= row);
        let before = part.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        (part, row - before)
    }

    /// The rows of all roles, in Hugging Face's order.
    pub fn rows<'a>(&'a self, weights: &'a dyn Weights) -> Result<Rows<'a>, ConvertError> {
        let parts = self.roles.iter().map(|&role| weights.rows(role)).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(move |row, out| {
            let (part, row) = self.place(row);
            parts[part](row, out);
        }))
    }
}
