//! Random numbers as a function of seed and position, so that batching, preemption and retries can't change them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hash::{BuildHasher, RandomState};

/// A number in `0.0..1.0` with 53 random bits for the token at `position` of a sequence.
///
/// ChaCha8 keyed with the seed; the position picks the stream.
pub fn uniform(seed: u64, position: usize) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(position as u64);
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A seed for requests that give none.
pub fn random_seed() -> u64 {
    // The standard library keys each `RandomState` from the system's randomness.
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_only_on_seed_and_position() {
        let a: Vec<f64> = (0..8).map(|p| uniform(7, p)).collect();
        let b: Vec<f64> = (0..8).rev().map(|p| uniform(7, p)).collect();
        assert!(a.iter().eq(b.iter().rev()));
        assert!(a.windows(2).all(|w| w[0] != w[1]));
        assert_ne!(uniform(7, 3), uniform(8, 3));
    }

    #[test]
    fn numbers_are_uniform_over_positions_and_over_seeds() {
        // Chi-square over 20 equal cells, 19 degrees of freedom: chance exceeds 43.8 once in 1000.
        for draw in [|i| uniform(1, i), |i| uniform(i as u64, 1)] as [fn(usize) -> f64; 2] {
            let mut cells = [0u32; 20];
            for i in 0..20_000 {
                cells[(draw(i) * 20.0) as usize] += 1;
            }
            let chi: f64 = cells.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 43.8, "chi-square {chi}");
        }
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
