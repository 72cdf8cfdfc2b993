//! Register tiles: `T` tokens × `P` panels (of 16 rows), the inner loops of every matrix product.
//!
//! A tile keeps its sums in registers from the first column to the last; [`mod@crate::matmul`] chooses its shape. Sums of one
//! token and row are added up in the same order in every tile.

mod float;
mod quant;

pub(crate) use float::{Bf16, Bf16Dot, F16, F32};
pub(crate) use quant::Quant;

use crate::acts::Acts;
use crate::simd::Simd;

/// The inner loop of one weight type.
pub(crate) trait Tile {
    /// `T` tokens from `t` on × `P` panels: 16 sums for each. `first`: no other tile has just read these panels, so they
    /// come from memory, and their lines are asked for [`AHEAD`] of their use.
    ///
    /// # Safety
    /// The panels are of this tile's type with `acts.cols()` columns; the `T` tokens exist in the form that
    /// [`crate::act_kind`] names and lie in one tile of [`crate::acts::TILE`].
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: [*const u8; P],
        acts: &Acts,
        t: usize,
        first: bool,
    ) -> [[S::F; P]; T];
}

/// How far ahead of its use a panel's line is asked for, in bytes: far enough to hide the memory's latency, near enough that
/// lines are not pushed out of the L1 cache again before their use.
pub(crate) const AHEAD: usize = 2048;
