//! Sizes and offsets shared by all parts of attention: positions per page and per split, values per block, and the place of a
//! page's scales. `form` describes the contents of a page.

use crate::simd::LANES;
use half::f16;

/// Positions in a KV page.
pub const PAGE: usize = 32;

/// Positions that share a partial softmax: whole pages.
pub const SPLIT: usize = 8 * PAGE;

/// Values of a head that share a scale in the quantised types, as in GGUF's Q8_0.
pub(super) const BLOCK: usize = 32;

/// Bytes of the codes in a page of [`Halves`](super::form::Halves).
pub(super) const fn halves_bytes(head_dim: usize) -> usize {
    (head_dim + head_dim.div_ceil(BLOCK) * PAGE) * LANES
}

/// Byte offset of the scale of a block and position for keys (0) or values (1), in a page whose codes take `codes` bytes; with
/// `of` 2 and the rest 0, the end of the scales.
pub(super) const fn scale_at(codes: usize, head_dim: usize, of: usize, block: usize, at: usize) -> usize {
    codes + ((of * head_dim.div_ceil(BLOCK) + block) * PAGE + at) * size_of::<f16>()
}
