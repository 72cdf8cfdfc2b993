//! The sizes and places that all parts of attention agree on: positions of a page and of a split, values of a block, and where a
//! page's scales are. What a page holds is described in `form`.

use crate::simd::LANES;
use half::f16;

/// Positions in a KV page.
pub const PAGE: usize = 32;

/// Positions with a softmax of their own: whole pages.
pub const SPLIT: usize = 8 * PAGE;

/// Values of a head that share a scale where they are bytes, as in GGUF's Q8_0.
pub(super) const BLOCK: usize = 32;

/// Bytes of the codes in a page of [`Halves`](super::form::Halves).
pub(super) const fn halves_bytes(head_dim: usize) -> usize {
    (head_dim + head_dim.div_ceil(BLOCK) * PAGE) * LANES
}

/// Where in a page whose codes take `codes` bytes the scale of a block and position stands, of keys (0) or values (1); with
/// `of` 2 and the rest 0, where they end.
pub(super) const fn scale_at(codes: usize, head_dim: usize, of: usize, block: usize, at: usize) -> usize {
    codes + ((of * head_dim.div_ceil(BLOCK) + block) * PAGE + at) * size_of::<f16>()
}
