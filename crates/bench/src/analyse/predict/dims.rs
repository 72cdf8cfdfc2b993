//! Sizes of a model that determine the time outside of matrix products and reading weights.

use zonda_engine::load::ModelSpec;

/// Sizes of a model that determine the time outside of matrix products and reading weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads × their width.
    pub attention_width: usize,
}

impl Dims {
    /// The sizes of a model.
    pub fn of(spec: &ModelSpec) -> Dims {
        Dims { layers: spec.layers, width: spec.hidden_size, attention_width: spec.heads * spec.head_dim }
    }

    /// The sizes in a record's [`crate::record::LoadReport::shape`].
    pub(super) fn of_shape(shape: &str) -> Option<Dims> {
        let (layers, rest) = shape.split_once(" layers, width ")?;
        let (width, rest) = rest.split_once(", ")?;
        let (heads, rest) = rest.split_once('/')?;
        let head = rest.split_once(" heads of ")?.1.split(',').next()?;
        let attention_width = heads.parse::<usize>().ok()?.checked_mul(head.parse().ok()?)?;
        Some(Dims { layers: layers.parse().ok()?, width: width.parse().ok()?, attention_width })
    }
}
