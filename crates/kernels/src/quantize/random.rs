//! Random blocks of the types that are only read, for tests, benchmarks and models with random weights.

use crate::DType;
use crate::blocks::Half;
use crate::dequantize::dequantize;
use crate::random::Stream;

/// Appends `values` random values of a type, in whole blocks: codes of random bits, and scales such that the values' root mean
/// square is about `deviation`. The same seed gives the same blocks.
///
/// # Panics
/// If `values` is not a multiple of [`DType::block_len`], or the type is one that [`super::quantize`] writes.
pub fn random_blocks(dtype: DType, values: usize, deviation: f32, seed: u64, out: &mut Vec<u8>) {
    assert!(values.is_multiple_of(dtype.block_len()), "whole blocks of {dtype}");
    let at = match dtype {
        DType::IQ4_NL | DType::IQ4_XS | DType::Q1_0 | DType::Q2_0 => 0,
        DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ3_XXS | DType::IQ3_S | DType::IQ1_S => 0,
        DType::TQ1_0 => 52,
        DType::TQ2_0 => 64,
        DType::IQ1_M => 49,
        DType::NVFP4 => return nvfp4(values, deviation, seed, out),
        written => panic!("{written} is quantised, not made of random blocks"),
    };
    let write = |block: &mut [u8], scale: f32| {
        let scale = Half::from_f32(scale).0;
        if dtype != DType::IQ1_M {
            return block[at..at + 2].copy_from_slice(&scale);
        }
        let nibbles = scale.into_iter().flat_map(|byte| [byte & 15, byte >> 4]);
        for (byte, nibble) in block[at..].iter_mut().step_by(2).zip(nibbles) {
            *byte = *byte & 15 | nibble << 4;
        }
    };
    let mut random = Stream(seed);
    let mut decoded = vec![0.0; dtype.block_len()];
    for block in blocks(dtype, values, &mut random, out) {
        write(block, 1.0);
        dequantize(dtype, block, &mut decoded);
        let scale = near_one(&mut random) * deviation / root_mean_square(&decoded);
        write(block, scale);
    }
}

/// Blocks with a byte of scale per 16 values.
fn nvfp4(values: usize, deviation: f32, seed: u64, out: &mut Vec<u8>) {
    // The root mean square of E2M1's doubled values.
    const CODES: f32 = 5.41;
    let mut random = Stream(seed);
    for block in blocks(DType::NVFP4, values, &mut random, out) {
        for scale in &mut block[..4] {
            // The bits of an `f16` 2^8 times as small, half of which multiplies the codes.
            let bits = half::f16::from_f32(near_one(&mut random) * deviation / CODES / 128.0).to_bits();
            *scale = (bits >> 7).min(126) as u8;
        }
    }
}

/// Appends blocks of random bytes.
fn blocks<'a>(
    dtype: DType,
    values: usize,
    random: &mut Stream,
    out: &'a mut Vec<u8>,
) -> std::slice::ChunksExactMut<'a, u8> {
    let start = out.len();
    let bytes = values / dtype.block_len() * dtype.block_bytes();
    out.extend(std::iter::repeat_with(|| random.bits().to_le_bytes()).take(bytes.div_ceil(8)).flatten());
    out.truncate(start + bytes);
    out[start..].chunks_exact_mut(dtype.block_bytes())
}

fn root_mean_square(values: &[f32]) -> f32 {
    let squares: f32 = values.iter().map(|v| v * v).sum();
    // Random codes are not all zero, but a caller's seed may make them so.
    (squares / values.len() as f32).sqrt().max(f32::MIN_POSITIVE.sqrt())
}

/// 0.75..1.25
fn near_one(random: &mut Stream) -> f32 {
    0.75 + (random.bits() >> 40) as f32 / (1u64 << 25) as f32
}
