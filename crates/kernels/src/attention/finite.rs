//! Whether stored keys and values are finite.

use super::kv_type::{Holds, KvType};
use super::layout::{PAGE, halves_bytes, scale_at};

impl KvType {
    /// True if what a page holds of the first `positions` is finite. Reads every float, or, where values are codes,
    /// the scales: a block that wasn't finite has a NaN as its scale.
    ///
    /// # Panics
    /// If the page is shorter than [`KvType::page_bytes_of`].
    pub fn finite(self, holds: Holds, page: &[u8], head_dim: usize, positions: usize) -> bool {
        let positions = positions.min(PAGE);
        let page = &page[..self.page_bytes_of(holds, head_dim)];
        let (both, keys) = (holds == Holds::Both, self.key_bytes(head_dim));
        match self {
            KvType::F16 => floats(page, 2, head_dim, positions, finite_f16),
            KvType::F32 => floats(page, 4, head_dim, positions, finite_f32),
            KvType::Q8_0 => scales(page, if both { 2 * keys } else { keys }, head_dim, positions),
            KvType::Q4_0 => {
                scales(page, if both { halves_bytes(head_dim) } else { keys }, head_dim, positions)
            }
        }
    }
}

/// Keys `[head_dim, PAGE]`, then, if there are values, `[PAGE, head_dim]`, of `size` bytes each.
fn floats(page: &[u8], size: usize, head_dim: usize, positions: usize, finite: fn(&[u8]) -> bool) -> bool {
    let (keys, values) = page.split_at(PAGE * head_dim * size);
    let keys_finite = if positions == PAGE {
        finite(keys)
    } else {
        keys.chunks_exact(PAGE * size).all(|row| finite(&row[..positions * size]))
    };
    let values = values.get(..positions * head_dim * size);
    keys_finite && values.is_none_or(finite)
}

/// Scales `[1 or 2, blocks, PAGE]` behind the codes.
fn scales(page: &[u8], codes: usize, head_dim: usize, positions: usize) -> bool {
    let scales = &page[scale_at(codes, head_dim, 0, 0, 0)..];
    scales.chunks_exact(PAGE * 2).all(|row| finite_f16(&row[..positions * 2]))
}

/// No exponent is all ones: to such a one, its lowest bit is added and carried to the sign. Without a branch in the loop, so that
/// it becomes vector code.
fn finite_f16(bytes: &[u8]) -> bool {
    let carried = bytes.chunks_exact(2).map(|b| (u16::from_ne_bytes([b[0], b[1]]) & 0x7c00) + 0x0400);
    carried.fold(0, |all, one| all | one) & 0x8000 == 0
}

fn finite_f32(bytes: &[u8]) -> bool {
    let carried = bytes
        .chunks_exact(4)
        .map(|b| (u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000) + 0x0080_0000);
    carried.fold(0, |all, one| all | one) & 0x8000_0000 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::attention::StoreKv;

    /// A page with one bad value at a position: seen if the position counts, and not otherwise.
    #[test]
    fn a_value_that_is_not_finite_is_found_where_it_counts() {
        let head_dim = 80;
        for kv in KvType::ALL {
            for (bad, at) in [(f32::NAN, 0), (f32::INFINITY, 13), (f32::NEG_INFINITY, PAGE - 1)] {
                for (of, holds) in [(0, Holds::Both), (1, Holds::Both), (0, Holds::Keys)] {
                    let mut page = vec![0; kv.page_bytes_of(holds, head_dim)];
                    for position in 0..PAGE {
                        let mut rows = [vec![1.5; head_dim], vec![-0.25; head_dim]];
                        if position == at {
                            rows[of][head_dim - 1] = bad;
                        }
                        let [key, value] = &rows;
                        let value = if holds == Holds::Both { value } else { &[][..] };
                        StoreKv { page: &mut page, kv, at: position, key, value }.on(Isa::best());
                    }
                    for positions in 0..=PAGE {
                        let found = kv.finite(holds, &page, head_dim, positions);
                        assert_eq!(found, positions <= at, "{}, {bad} at {at}, {positions}", kv.name());
                    }
                }
            }
        }
    }
}
