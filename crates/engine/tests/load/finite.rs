//! NaN and infinity in weights and block scales are found, and the error names the tensor.

use std::sync::Arc;

use zonda_engine::load::{LoadError, Model, Tensor, TensorRole, check_finite, first_non_finite};
use zonda_kernels::DType;

use crate::build::tiny;

/// Three blocks of zeros, with a 16-bit value at offset `at` of the second.
fn with(dtype: DType, at: usize, value: u16) -> Tensor {
    let block = dtype.block_bytes();
    let mut bytes = vec![0u8; 3 * block];
    bytes[block + at..][..2].copy_from_slice(&value.to_le_bytes());
    Tensor::owned("t".to_owned(), dtype, vec![3 * dtype.block_len()], Arc::from(bytes))
}

#[test]
fn every_block_scale_is_checked() {
    // The scan must report exactly the blocks that dequantise to NaN.
    for dtype in DType::ALL.into_iter().filter(|d| d.is_quantized()) {
        let mut scales = 0;
        for at in (0..dtype.block_bytes() - 1).step_by(2) {
            for value in [0x7e00, 0xfc00, 0xffff, 0x02ff] {
                let tensor = with(dtype, at, value);
                let expected = tensor.to_f32().iter().any(|v| !v.is_finite());
                assert_eq!(first_non_finite(&tensor).is_some(), expected, "{dtype} at {at}");
                if expected {
                    assert_eq!(first_non_finite(&tensor), Some(dtype.block_len()), "{dtype}");
                    scales += 1;
                }
            }
        }
        // Every byte is a finite scale of NVFP4; no two bytes that lie side by side are one of IQ1_M.
        assert!(scales >= 2 || matches!(dtype, DType::NVFP4 | DType::IQ1_M), "{dtype}");
    }
}

#[test]
fn a_scale_in_four_nibbles_is_checked() {
    for (bits, finite) in
        [(0x7e00u16, false), (0xfc00, false), (0x7bff, true), (0xfbff, true), (0x83ff, true)]
    {
        let mut bytes = vec![0x0fu8; 3 * 56];
        for (k, byte) in bytes[56 + 49..].iter_mut().step_by(2).take(4).enumerate() {
            *byte |= (bits >> (4 * k) & 15) as u8 * 16;
        }
        let tensor = Tensor::owned("t".to_owned(), DType::IQ1_M, vec![3 * 256], Arc::from(bytes));
        assert_eq!(tensor.to_f32().iter().all(|v| v.is_finite()), finite, "{bits:x}");
        assert_eq!(first_non_finite(&tensor), (!finite).then_some(256), "{bits:x}");
    }
}

#[test]
fn powers_of_two_that_are_too_large_are_found() {
    // 2^125 · 6 is finite, twice that is not.
    for (scale, codes, finite) in
        [(252, 0x77, true), (253, 0x55, true), (253, 0x76, false), (254, 0x00, true)]
    {
        let mut bytes = vec![codes; 34];
        (bytes[0], bytes[17]) = (0, scale);
        let tensor = Tensor::owned("t".to_owned(), DType::MXFP4, vec![64], Arc::from(bytes));
        assert_eq!(tensor.to_f32().iter().all(|v| v.is_finite()), finite, "{scale} {codes:x}");
        assert_eq!(first_non_finite(&tensor), (!finite).then_some(32), "{scale} {codes:x}");
    }
}

#[test]
fn every_float_is_checked() {
    for (value, finite) in
        [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (f32::MAX, true)]
    {
        let bytes: Vec<u8> = [1.0, 2.0, value].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor::owned("t".to_owned(), DType::F32, vec![3], Arc::from(bytes));
        assert_eq!(first_non_finite(&tensor), (!finite).then_some(2), "{value}");
    }
    for (dtype, nan, inf, max) in
        [(DType::F16, 0x7c01, 0xfc00, 0x7bff), (DType::BF16, 0x7f81, 0xff80, 0x7f7f)]
    {
        assert_eq!(first_non_finite(&with(dtype, 0, nan)), Some(1));
        assert_eq!(first_non_finite(&with(dtype, 0, inf)), Some(1));
        assert_eq!(first_non_finite(&with(dtype, 0, max)), None);
    }
}

#[test]
fn the_error_names_the_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = 1f32.to_le_bytes().repeat(64);
    bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    let g = tiny("llama").filled("output_norm.weight", &[64], 0, bytes);
    let model = Model::open(&g.write(folder.path(), "m.gguf")).expect("opens");
    let error = check_finite(&model.tensor(TensorRole::OutputNorm).expect("there")).expect_err("NaN");
    assert!(
        matches!(&error, LoadError::NonFinite { tensor, index: 10 } if tensor == "output_norm.weight"),
        "{error}"
    );
}
