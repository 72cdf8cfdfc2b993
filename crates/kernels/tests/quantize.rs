//! Quantisers: the simple types against gguf-py's bytes, the K types by their error, and all types on edge cases.

use proptest::prelude::*;
use std::path::Path;
use zonda_kernels::DType;
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::quantize::{can_quantize, quantize, quantize_weighted};

const SIMPLE: [DType; 5] = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0];

/// The types that are written, not only read.
fn written() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|&dtype| can_quantize(dtype))
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/blocks").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn quantized(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    quantize(dtype, values, &mut bytes);
    assert_eq!(Some(bytes.len()), dtype.bytes_for(values.len()));
    bytes
}

fn dequantized(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    dequantize(dtype, bytes, &mut values);
    values
}

/// Seeded normal values (the sum of twelve uniforms minus six).
fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// Root mean square error relative to the root mean square of the values.
fn relative_error(dtype: DType, values: &[f32]) -> f64 {
    let back = dequantized(dtype, &quantized(dtype, values));
    let sum = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>();
    let error = sum(&mut values.iter().zip(&back).map(|(a, b)| f64::from(a - b)));
    (error / sum(&mut values.iter().map(|&v| f64::from(v)))).sqrt()
}

#[test]
fn simple_types_and_floats_give_gguf_pys_bytes() {
    let mut values = dequantized(DType::F32, &golden("Q6_K.f32.bin")[..4096 * 4]);
    values.iter_mut().for_each(|v| *v += 0.0); // makes negative zeros positive, as the script does
    for dtype in SIMPLE.into_iter().chain([DType::MXFP4, DType::F16, DType::BF16]) {
        let name = dtype.name().to_uppercase();
        let expected = golden(&format!("{name}.quantized.bin"));
        let bytes = quantized(dtype, &values);
        for (i, (ours, theirs)) in bytes
            .chunks_exact(dtype.block_bytes())
            .zip(expected.chunks_exact(dtype.block_bytes()))
            .enumerate()
        {
            assert_eq!(ours, theirs, "{name}: block {i}");
        }
        assert_eq!(bytes.len(), expected.len(), "{name}");
    }
}

#[test]
fn errors_on_normal_values_are_as_small_as_the_bits_allow() {
    // The errors of ggml 0.25's quantisers on these values: q4_0 .0843, q4_1 .0773, q5_0 .0419, q5_1 .0374, q8_0 .0052,
    // q2_k .2931, q3_k .1488, q4_k .0705, q5_k .0357, q6_k .0175; of gguf-py's
    // mxfp4 .1157. The bounds: 1% above.
    let values = normals(256 * 400, 7);
    for (dtype, bound) in [
        (DType::Q4_0, 0.0851),
        (DType::Q4_1, 0.0781),
        (DType::Q5_0, 0.0423),
        (DType::Q5_1, 0.0378),
        (DType::Q8_0, 0.0053),
        (DType::Q2_K, 0.2960),
        (DType::Q3_K, 0.1503),
        (DType::Q4_K, 0.0712),
        (DType::Q5_K, 0.0361),
        (DType::Q6_K, 0.0177),
        (DType::MXFP4, 0.1169),
    ] {
        let error = relative_error(dtype, &values);
        println!("{dtype}: {error:.4}");
        assert!(error < bound, "{dtype}: relative error {error:.4}, at most {bound} expected");
    }
}

/// Σ w e² of quantising with these weights or without, relative to Σ w x².
fn weighted_error(dtype: DType, values: &[f32], importance: &[f32], told: bool) -> f64 {
    let mut bytes = Vec::new();
    quantize_weighted(dtype, values, told.then_some(importance), &mut bytes);
    assert_eq!(Some(bytes.len()), dtype.bytes_for(values.len()));
    let back = dequantized(dtype, &bytes);
    let sum = |it: &mut dyn Iterator<Item = (f32, f32)>| {
        it.map(|(w, v)| f64::from(w) * f64::from(v).powi(2)).sum::<f64>()
    };
    let error = sum(&mut (0..values.len()).map(|i| (importance[i], values[i] - back[i])));
    error / sum(&mut importance.iter().copied().zip(values.iter().copied()))
}

#[test]
fn large_weights_reduce_the_errors_of_their_columns() {
    let values = normals(256 * 100, 11);
    // A few columns are a hundred times as important, as in real models.
    let importance: Vec<f32> = (0..values.len()).map(|i| if i % 11 == 3 { 100.0 } else { 1.0 }).collect();
    for dtype in written().filter(|t| t.is_quantized()) {
        let [told, not] = [true, false].map(|told| weighted_error(dtype, &values, &importance, told));
        println!("{dtype}: {told:.6} instead of {not:.6}");
        match dtype {
            DType::Q8_0 | DType::F8_E4M3 => assert_eq!(told, not),
            // of which only the power of two can be chosen
            DType::MXFP4 => assert!(told < not, "{dtype}: {told} is not less than {not}"),
            _ => assert!(told < 0.9 * not, "{dtype}: {told} is not less than {not}"),
        }
    }
}

#[test]
fn zero_importance_is_like_none() {
    let values = normals(512, 2);
    for dtype in written() {
        let mut bytes = Vec::new();
        quantize_weighted(dtype, &values, Some(&[0.0; 512]), &mut bytes);
        assert_eq!(bytes, quantized(dtype, &values), "{dtype}");
    }
}

#[test]
fn weighted_blocks_with_non_finite_values_are_nan() {
    for dtype in written().filter(|t| t.is_quantized()) {
        let mut values = normals(256, 5);
        values[17] = f32::NAN;
        let mut bytes = Vec::new();
        quantize_weighted(dtype, &values, Some(&[1.0; 256]), &mut bytes);
        assert!(dequantized(dtype, &bytes)[..dtype.block_len()].iter().all(|v| v.is_nan()), "{dtype}");
    }
}

#[test]
fn values_of_any_scale_and_offset_keep_their_precision() {
    for (scale, offset) in [(1e-3, 0.0), (0.02, 0.05), (30.0, -100.0), (1000.0, 0.0)] {
        let values: Vec<f32> = normals(256 * 20, 3).iter().map(|v| v * scale + offset).collect();
        for dtype in written().filter(|t| t.is_quantized()) {
            let error = relative_error(dtype, &values);
            assert!(error < 0.33, "{dtype} at scale {scale}, offset {offset}: {error}");
        }
    }
}

#[test]
fn zeros_round_trip() {
    for dtype in written() {
        let back = dequantized(dtype, &quantized(dtype, &[0.0; 256]));
        assert!(back.iter().all(|&v| v == 0.0), "{dtype}");
    }
}

#[test]
fn constants_round_trip() {
    for dtype in written() {
        for constant in [1.0f32, -1.0, 0.37, -250.0] {
            let back = dequantized(dtype, &quantized(dtype, &[constant; 256]));
            // Types without a minimum clip the mirror image of the extreme value; here all values are the extreme.
            let worst = back.iter().map(|v| ((v - constant) / constant).abs()).fold(0.0, f32::max);
            // Powers of two as scales leave only some values exact.
            let bound = if dtype == DType::MXFP4 { 0.25 } else { 0.01 };
            assert!(worst < bound, "{dtype}: {constant} came back off by {worst}");
        }
    }
}

#[test]
fn non_finite_values_make_only_their_own_block_nan() {
    for dtype in written().filter(|t| t.is_quantized()) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = normals(512, 5);
            values[256 + 17] = bad;
            let back = dequantized(dtype, &quantized(dtype, &values));
            assert!(back[..256].iter().all(|v| v.is_finite()), "{dtype} {bad}: spread to its neighbour");
            let block = 256..256 + dtype.block_len();
            assert!(back[block].iter().all(|v| v.is_nan()), "{dtype} {bad}: hidden");
        }
    }
}

#[test]
#[should_panic(expected = "whole blocks of q4_k")]
fn a_part_of_a_block_is_refused() {
    quantize(DType::Q4_K, &[0.0; 255], &mut Vec::new());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_value_panics(bits in proptest::collection::vec(any::<u32>(), 256)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for dtype in written() {
            dequantized(dtype, &quantized(dtype, &values));
        }
    }

    /// Values on a type's grid that use the block's extremes are reproduced exactly.
    #[test]
    fn quantising_again_changes_nothing(seed: u64, exponent in -8i32..4) {
        let values: Vec<f32> = normals(512, seed).iter().map(|v| v * 2f32.powi(exponent)).collect();
        for dtype in SIMPLE {
            let once = dequantized(dtype, &quantized(dtype, &values));
            let twice = dequantized(dtype, &quantized(dtype, &once));
            let worst = once.iter().zip(&twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let range = once.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            // The scale is rounded to f16 (11 bits), each time anew for types with a minimum.
            prop_assert!(worst <= range * 2e-3, "{dtype}: {worst} of {range}");
        }
    }
}

#[test]
#[should_panic(expected = "iq4_xs can only be read")]
fn a_type_that_is_only_read_is_refused_by_name() {
    quantize(DType::IQ4_XS, &[0.0; 256], &mut Vec::new());
}
