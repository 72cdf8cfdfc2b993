//! `f32` to stored bytes.
//!
//! Without weights the simple types follow ggml's reference formulas and give the same bytes as gguf-py's
//! `gguf.quants.quantize`. The K types search for scales and minima that minimise the squared error, as ggml does,
//! with a search of our own: the bytes differ from ggml's, the errors are of the same size.
//!
//! With the importance of each column ([`quantize_weighted`]) every type except Q8_0 and F8_E4M3 searches, and errors are weighted by their
//! effect on the products.
//!
//! **NaN and infinity stay visible.** A block that holds NaN or an infinity gets NaN as its scale, so that all of
//! it dequantises to NaN and `zonda verify` finds it; nothing panics. Finite values too large for an `f16` scale
//! (beyond about 5·10⁵ for 4-bit types) give an infinite scale.

mod k;
mod random;
mod scale;
mod search;
mod simple;

pub use random::random_blocks;

use crate::DType;
use crate::blocks::Block;
use crate::float8;

/// Whether [`quantize`] writes this type.
pub const fn can_quantize(dtype: DType) -> bool {
    !matches!(
        dtype,
        DType::IQ4_NL
            | DType::IQ4_XS
            | DType::TQ1_0
            | DType::TQ2_0
            | DType::Q1_0
            | DType::Q2_0
            | DType::NVFP4
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ3_XXS
            | DType::IQ3_S
            | DType::IQ1_S
            | DType::IQ1_M
    )
}

/// Quantises one or more whole rows of `values` to `dtype`, appending the blocks to `out`.
///
/// Floats are rounded to nearest, ties to even.
///
/// # Panics
/// If `values.len()` is not a multiple of [`DType::block_len`], or the type can only be read ([`can_quantize`]).
pub fn quantize(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    quantize_weighted(dtype, values, None, out);
}

/// As [`quantize`], but minimises errors weighted by `importance`: one weight per value, such as the mean square of the
/// activations it is multiplied with. Importances are finite and not negative; blocks with all zeros are quantised as without
/// importance. Floats, Q8_0 and F8_E4M3 ignore it.
///
/// # Panics
/// As [`quantize`], and if `importance` has another length.
pub fn quantize_weighted(dtype: DType, values: &[f32], importance: Option<&[f32]>, out: &mut Vec<u8>) {
    assert!(values.len().is_multiple_of(dtype.block_len()), "whole blocks of {dtype}");
    assert!(importance.is_none_or(|w| w.len() == values.len()), "an importance for each value");
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        DType::F16 => out.extend(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes())),
        DType::BF16 => out.extend(values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())),
        DType::Q4_0 => each(values, importance, out, simple::q4_0),
        DType::Q4_1 => each(values, importance, out, simple::q4_1),
        DType::Q5_0 => each(values, importance, out, simple::q5_0),
        DType::Q5_1 => each(values, importance, out, simple::q5_1),
        DType::Q8_0 => each(values, None, out, |x, _| simple::q8_0(x)),
        DType::Q2_K => each(values, importance, out, k::q2_k),
        DType::Q3_K => each(values, importance, out, k::q3_k),
        DType::Q4_K => each(values, importance, out, k::q4_k),
        DType::Q5_K => each(values, importance, out, k::q5_k),
        DType::Q6_K => each(values, importance, out, k::q6_k),
        DType::MXFP4 => each(values, importance, out, simple::mxfp4),
        DType::F8_E4M3 => each(values, None, out, |x, _| float8::quantize(x)),
        read => panic!("{read} can only be read"),
    }
}

/// Runs one block's function over all blocks.
fn each<B: Block, const N: usize>(
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
    f: impl Fn(&[f32; N], Option<&[f32; N]>) -> B,
) {
    const { assert!(B::DTYPE.block_len() == N) };
    let mut importance = importance.map(|w| w.as_chunks().0.iter());
    for x in values.as_chunks().0 {
        let w: Option<&[f32; N]> = importance.as_mut().and_then(Iterator::next);
        let counts = |w: &&[f32; N]| w.iter().sum::<f32>() > 0.0;
        out.extend_from_slice(bytemuck::bytes_of(&f(x, w.filter(counts))));
    }
}
