//! ggml's quantised types in MLX's form: groups of 32 with a scale and a bias in `f32`, with exactly the same values.
//!
//! `x = d·(q − 8)` is `d·q + (−8d)`; the K types' scales are products of a 16-bit float and 6 bits, which `f32` represents
//! exactly. Types with groups of 16 (Q6_K, Q2_K, Q3_K) have no such form. Layouts as in ggml's `ggml-common.h`.

use crate::safe::Dtype;
use half::{bf16, f16};
use zonda_engine::load::{DType, Tensor};

/// Values that share a scale and a bias.
pub(crate) const GROUP: usize = 32;

/// A ggml matrix in MLX's quantisation.
#[derive(Debug, Default)]
pub(crate) struct Regrouped {
    pub bits: usize,
    /// Low bits first.
    pub codes: Vec<u8>,
    /// One per group.
    pub scales: Vec<f32>,
    pub biases: Vec<f32>,
}

/// An MXFP4 matrix in MLX's layout: 4-bit codes of values in their order, and one E8M0 per group.
#[derive(Debug)]
pub(crate) struct Mxfp4 {
    /// Low bits first.
    pub codes: Vec<u8>,
    /// One per group.
    pub scales: Vec<u8>,
}

/// The matrix, if it is in MXFP4 and has no scale of its own.
pub(crate) fn mxfp4(tensor: &Tensor) -> Option<Mxfp4> {
    if tensor.dtype != DType::MXFP4 || tensor.scale() != 1.0 {
        return None;
    }
    let mut out = Mxfp4 { codes: Vec::new(), scales: Vec::new() };
    for block in tensor.bytes().chunks_exact(tensor.dtype.block_bytes()) {
        out.scales.push(block[0]);
        out.codes.extend(in_order(&block[1..]));
    }
    Some(out)
}

/// 32 codes of 4 bits in their order, from the low halves of 16 bytes and then the high halves.
fn in_order(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let code = |i: usize| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
    (0..16).map(move |i| code(2 * i) | code(2 * i + 1) << 4)
}

/// The matrix, if its type has such a form and it has no scale of its own.
pub(crate) fn regroup(tensor: &Tensor) -> Option<Regrouped> {
    if tensor.scale() != 1.0 {
        return None;
    }
    let (bits, block): (_, fn(&[u8], &mut Regrouped)) = match tensor.dtype {
        DType::Q4_0 => (4, q4_0),
        DType::Q4_1 => (4, q4_1),
        DType::Q8_0 => (8, q8_0),
        DType::Q4_K => (4, q4_k),
        _ => return None,
    };
    let mut out = Regrouped { bits, ..Regrouped::default() };
    tensor.bytes().chunks_exact(tensor.dtype.block_bytes()).for_each(|bytes| block(bytes, &mut out));
    Some(out)
}

impl Regrouped {
    /// Whether every scale and bias is exact in a type.
    pub fn fits(&self, dtype: Dtype) -> bool {
        let exact: fn(&f32) -> bool = match dtype {
            Dtype::F16 => |v| f16::from_f32(*v).to_f32() == *v,
            Dtype::BF16 => |v| bf16::from_f32(*v).to_f32() == *v,
            _ => |_| true,
        };
        self.scales.iter().chain(&self.biases).all(exact)
    }

    fn group(&mut self, scale: f32, bias: f32) {
        self.scales.push(scale);
        self.biases.push(bias);
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q4_0(bytes: &[u8], out: &mut Regrouped) {
    let d = half(bytes, 0);
    out.group(d, -8.0 * d);
    out.codes.extend(in_order(&bytes[2..]));
}

fn q4_1(bytes: &[u8], out: &mut Regrouped) {
    out.group(half(bytes, 0), half(bytes, 2));
    out.codes.extend(in_order(&bytes[4..]));
}

fn q8_0(bytes: &[u8], out: &mut Regrouped) {
    let d = half(bytes, 0);
    out.group(d, -128.0 * d);
    out.codes.extend(bytes[2..].iter().map(|&q| q ^ 0x80)); // q + 128
}

/// Eight groups; scales and minimums of 6 bits, packed in 12 bytes.
fn q4_k(bytes: &[u8], out: &mut Regrouped) {
    let (d, min) = (half(bytes, 0), half(bytes, 2));
    let packed = &bytes[4..16];
    for pair in bytes[16..].chunks_exact(32).enumerate() {
        let (at, codes) = pair;
        for (group, shift) in [(2 * at, 0), (2 * at + 1, 4)] {
            let (scale, low) = match group {
                0..4 => (packed[group] & 63, packed[group + 4] & 63),
                _ => (
                    packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
                    packed[group + 4] >> 4 | packed[group] >> 6 << 4,
                ),
            };
            out.group(d * f32::from(scale), -(min * f32::from(low)));
            let code = |i: usize| codes[i] >> shift & 15;
            out.codes.extend((0..16).map(|i| code(2 * i) | code(2 * i + 1) << 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Against gguf-py's values (`testdata/blocks`).
    #[test]
    fn values_match_gguf_py() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/blocks");
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::Q4_K] {
            let name = format!("{dtype:?}");
            let bytes = std::fs::read(folder.join(format!("{name}.bin"))).unwrap();
            let expected = std::fs::read(folder.join(format!("{name}.f32.bin"))).unwrap();
            let expected: Vec<f32> =
                expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let tensor = Tensor::owned(name, dtype, vec![1, expected.len()], bytes.into());
            let regrouped = regroup(&tensor).unwrap();
            assert_eq!(regrouped.scales.len() * GROUP, expected.len());
            for (i, &expected) in expected.iter().enumerate() {
                let code = match regrouped.bits {
                    8 => regrouped.codes[i],
                    _ => regrouped.codes[i / 2] >> (4 * (i % 2)) & 15,
                };
                let (scale, bias) = (regrouped.scales[i / GROUP], regrouped.biases[i / GROUP]);
                let value = scale * f32::from(code) + bias;
                // They differ by one rounding of the largest term, since ggml subtracts the zero point before it multiplies.
                let bound = (scale * 255.0).abs().max(bias.abs()) * f32::EPSILON;
                assert!((value - expected).abs() <= bound, "{dtype} value {i}: {value}, expected {expected}");
            }
        }
    }

    #[test]
    fn mxfp4_values_match_gguf_py() {
        const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/blocks");
        let bytes = std::fs::read(folder.join("MXFP4.bin")).unwrap();
        let expected = std::fs::read(folder.join("MXFP4.f32.bin")).unwrap();
        let (expected, _) = expected.as_chunks::<4>();
        let tensor = Tensor::owned("t".into(), DType::MXFP4, vec![1, expected.len()], bytes.into());
        let Mxfp4 { codes, scales } = mxfp4(&tensor).unwrap();
        assert_eq!((codes.len() * 2, scales.len() * GROUP), (expected.len(), expected.len()));
        for (i, &expected) in expected.iter().enumerate() {
            let code = codes[i / 2] >> (4 * (i % 2)) & 15;
            let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
            let value = sign * E2M1[usize::from(code & 7)] * 2.0f32.powi(i32::from(scales[i / GROUP]) - 127);
            assert_eq!(value, f32::from_le_bytes(expected), "value {i}");
        }
    }

    #[test]
    fn only_types_that_represent_the_scales_exactly_fit() {
        let exact = Regrouped { bits: 4, codes: vec![], scales: vec![0.5], biases: vec![-4.0] };
        let fine = Regrouped { scales: vec![1.0 + f32::EPSILON], ..Regrouped::default() };
        for (dtype, fits) in [(Dtype::F32, true), (Dtype::F16, false), (Dtype::BF16, false)] {
            assert!(exact.fits(dtype));
            assert_eq!(fine.fits(dtype), fits);
        }
    }
}
