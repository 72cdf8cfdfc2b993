//! The buffers of a step.

use crate::attention::AttentionBuffers;
use crate::ffn::FfnBuffers;
use zonda_kernels::Activations;

/// Buffers between tokens and logits. They grow to the largest batch seen; after that a step never allocates.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// The residual stream, `[tokens, hidden]`
    pub x: Vec<f32>,
    /// Normalised rows in the forms that matmuls read, `[tokens, hidden]`
    pub normed: Activations,
    pub attention: AttentionBuffers,
    pub ffn: FfnBuffers,
}
