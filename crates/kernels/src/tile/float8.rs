//! Tiles of e4m3 weights with `f32` activations: a scale for each 128 columns of a row.

use super::{AHEAD, Panels, Tile};
use crate::activations::Activations;
use crate::float8::{BLOCK, CHUNK_BYTES, HEADER_BYTES};
use crate::pack::GROUP;
use crate::simd::{LANES, Simd};

/// e4m3 weights, `f32` activations.
pub(crate) struct F8E4M3;

impl Tile for F8E4M3 {
    // As quantised weights, it has the sums of a block beside those of a row.
    #[inline(always)]
    fn most_tokens<S: Simd>() -> usize {
        S::TILE
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const P: usize>(
        s: S,
        panels: Panels<P>,
        activations: &Activations,
        t: usize,
    ) -> [[S::F; P]; T] {
        let cols = activations.cols();
        let mut sums = [[s.splat(0.0); P]; T];
        // SAFETY: the caller guarantees panels and tokens; both have `cols` columns, which are whole blocks.
        unsafe {
            let rows: [*const f32; T] = std::array::from_fn(|i| activations.f32.as_ptr().add((t + i) * cols));
            let mut chunk = panels.group;
            for first in (0..cols).step_by(BLOCK) {
                let codes = chunk.add(HEADER_BYTES + panels.first * LANES);
                let mut of_block = [[s.splat(0.0); P]; T];
                for k in 0..BLOCK {
                    let line = codes.add(k * GROUP * LANES);
                    if panels.cold {
                        s.prefetch(line.wrapping_add(AHEAD));
                    }
                    let mut w = [s.splat(0.0); P];
                    for p in 0..P {
                        w[p] = s.load_e4m3(line.add(p * LANES));
                    }
                    for i in 0..T {
                        let x = s.splat(*rows[i].add(first + k));
                        for p in 0..P {
                            of_block[i][p] = s.fma(w[p], x, of_block[i][p]);
                        }
                    }
                }
                for p in 0..P {
                    let scale = s.load(chunk.add(4 * LANES * (panels.first + p)).cast());
                    for i in 0..T {
                        sums[i][p] = s.fma(of_block[i][p], scale, sums[i][p]);
                    }
                }
                chunk = chunk.add(CHUNK_BYTES);
            }
        }
        sums
    }
}
