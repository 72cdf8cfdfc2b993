//! The one pass over a whole row for every token: whether it is finite, and where its maximum is.

/// Values per step of the outer loop; the inner loops vectorise.
const BLOCK: usize = 256;

/// The first value that is NaN or infinite, if there is one.
pub(super) fn first_not_finite(row: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000; // all ones: NaN or infinity
    for (i, block) in row.chunks(BLOCK).enumerate() {
        let bad = block.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
        if bad {
            return block.iter().position(|x| !x.is_finite()).map(|at| i * BLOCK + at);
        }
    }
    None
}

/// The index of the highest value, the lowest index among equals; `None` if every value is negative infinity.
/// The row must hold no NaN.
pub(super) fn argmax(row: &[f32]) -> Option<usize> {
    let (mut best, mut best_block) = (f32::NEG_INFINITY, None);
    for (i, block) in row.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best {
            (best, best_block) = (max, Some(i));
        }
    }
    let start = best_block? * BLOCK;
    row[start..].iter().position(|&x| x == best).map(|at| start + at)
}

fn block_max(block: &[f32]) -> f32 {
    let max = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = block.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, x);
        }
    }
    chunks.remainder().iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &x| max(a, x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_is_found_at_every_position() {
        for len in [1, 15, 16, 17, 255, 256, 257, 1000] {
            for at in [0, len / 2, len - 1] {
                let mut row: Vec<f32> = (0..len).map(|i| -((i % 7) as f32) - 1.0).collect();
                row[at] = -0.5;
                assert_eq!(argmax(&row), Some(at), "{len} values");
            }
        }
    }

    #[test]
    fn ties_go_to_the_lowest_index() {
        let mut row = vec![0.0; 600];
        assert_eq!(argmax(&row), Some(0));
        (row[299], row[300], row[599]) = (2.0, 2.0, 2.0);
        assert_eq!(argmax(&row), Some(299));
        assert_eq!(argmax(&[f32::NEG_INFINITY, -0.0, 0.0]), Some(1));
    }

    #[test]
    fn a_fully_masked_row_has_no_maximum() {
        assert_eq!(argmax(&[f32::NEG_INFINITY; 300]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn the_first_non_finite_value_is_found() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 255, 256, 511] {
                let mut row = vec![f32::MAX; 512];
                row[at] = bad;
                row[511] = bad;
                assert_eq!(first_not_finite(&row), Some(at));
            }
        }
        assert_eq!(first_not_finite(&[f32::MIN, 0.0, 1e-45]), None);
    }
}
