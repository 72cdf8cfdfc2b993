//! Shared by all types: weights of errors, scales of non-finite blocks, and inverses.

/// The weights of errors in a block of values whose columns have an importance. Large values count more, because the
/// importance is only an estimate from one text, and they matter more if it is wrong. ggml's formula.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: &[f32; N]) -> [f32; N] {
    let square = x.iter().map(|v| v * v).sum::<f32>() / N as f32;
    std::array::from_fn(|i| importance[i] * (square + x[i] * x[i]).sqrt())
}

/// The scale to store for a block: `d`, or NaN if a value is not finite.
#[inline]
pub(super) fn scale_or_nan(d: f32, x: &[f32]) -> f32 {
    if x.iter().all(|v| v.is_finite()) { d } else { f32::NAN }
}

/// `1 / d`, or 0 for 0.
#[inline]
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}
