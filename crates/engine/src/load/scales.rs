//! The scales of whole tensors that GGUF files store beside them: `blk.0.ffn_up.scale` multiplies `blk.0.ffn_up.weight`.
//!
//! Files of NVFP4 have them, because that type's own scales have a small range: one `f32` for a matrix, or one for each expert.
//! `blk.0.ffn_up.input_scale` is for hardware that multiplies activations of four bits; it changes no value and is ignored.
//! Source: what llama.cpp loads and multiplies for every architecture (`llama-model.cpp`, `llama-graph.cpp`).

use super::finite::check_finite;
use super::source::{Store, Stored};
use super::{LayerTensor, LoadError, TensorRole};
use zonda_kernels::DType;

/// The name of the tensor that the scale `name` belongs to; `None` if it is no scale's name.
pub(super) fn weight_of(name: &str) -> Option<String> {
    let module = name.strip_suffix(".input_scale").or_else(|| name.strip_suffix(".scale"))?;
    Some(format!("{module}.weight"))
}

/// Whether a tensor can have a scale.
pub(super) fn scalable(role: TensorRole) -> bool {
    use LayerTensor::{
        AttnOut, ExpertDown, ExpertGate, ExpertUp, FfnDown, FfnGate, FfnUp, K, Q, SharedDown, SharedGate,
        SharedUp, V,
    };
    let of_layer = |tensor| {
        matches!(tensor, Q | K | V | AttnOut | FfnGate | FfnUp | FfnDown | SharedGate | SharedUp | SharedDown)
            || matches!(tensor, ExpertGate(_) | ExpertUp(_) | ExpertDown(_))
    };
    match role {
        TensorRole::Output => true,
        TensorRole::Layer(_, tensor) => of_layer(tensor),
        TensorRole::TokenEmbedding | TensorRole::OutputNorm => false,
    }
}

/// The scale of a matrix, or of its plane `plane`, one expert of several: 1 without one.
///
/// # Errors
/// If the scale is stored in another shape or type, or is not finite; if its file was cut.
pub(super) fn scale_of(store: &Store, weight: &Stored, plane: Option<usize>) -> Result<f32, LoadError> {
    let stored = weight.name.strip_suffix(".weight").and_then(|name| store.get(&format!("{name}.scale")));
    let Some(stored) = stored else { return Ok(1.0) };
    let path = || store.path_of(stored).to_owned();
    let expected = vec![plane.map_or(1, |_| weight.shape[0])];
    if stored.shape != expected {
        let (tensor, found) = (stored.name.clone(), stored.shape.clone());
        return Err(LoadError::WrongShape { path: path(), tensor, expected, found });
    }
    let tensor = store.part(stored, None, None)?;
    if tensor.dtype != DType::F32 {
        let (found, runs) = (tensor.dtype.to_string(), DType::F32.to_string());
        return Err(LoadError::UnsupportedType { path: path(), tensor: tensor.name, found, runs });
    }
    tensor.check_file()?;
    check_finite(&tensor)?;
    Ok(tensor.to_f32()[plane.unwrap_or(0)])
}
