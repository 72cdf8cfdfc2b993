//! Register tiles: `T` tokens × `P` panels (of 16 rows), the inner loops of every matrix product.
//!
//! A tile keeps its sums in registers from the first column to the last; [`mod@crate::matmul`] chooses its shape. Every tile
//! adds up the sums of a token and row in the same order.

mod float;
mod float8;
mod quant;

pub(crate) use float::{Bf16, Bf16Dot, F16, F32};
pub(crate) use float8::F8E4M3;
pub(crate) use quant::Quant;

use crate::activations::Activations;
use crate::simd::Simd;

/// `P` panels of a group, side by side.
#[derive(Clone, Copy)]
pub(crate) struct Panels<const P: usize> {
    /// The group's first byte.
    pub group: *const u8,
    /// The first panel's number in its group; `first + P` is at most [`crate::pack::GROUP`].
    pub first: usize,
    /// Whether to prefetch lines: no other tile has just read these panels, so they come from memory.
    pub cold: bool,
}

/// The inner loop of one weight type.
pub(crate) trait Tile {
    /// Whether it multiplies with [`Simd::dot_bf16`], so that it runs only on sets with that instruction.
    const BF16_DOT: bool = false;

    /// Maximum tokens of a tile on this instruction set.
    fn most_tokens<S: Simd>() -> usize;

    /// `T` tokens from `t` on × `P` panels: 16 sums for each.
    ///
    /// # Safety
    /// The panels have this tile's type and `activations.cols()` columns; the `T` tokens exist in the form that
    /// [`crate::activation_kind`] names and are in one tile of [`crate::activations::TILE`].
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: Panels<P>,
        activations: &Activations,
        t: usize,
    ) -> [[S::F; P]; T];
}

/// How far ahead of its use a line is prefetched, in bytes of a group's stream: far enough to hide the memory's latency, and
/// near enough for the line to be still in the L1 cache when it is used.
pub(crate) const AHEAD: usize = 6144;
