//! [`WeightFormat`]: the form in which a model's weights are held and computed with, from the model and its options.

use crate::options::{Compute, MlxOptions, Quantization};
use crate::safe::{self, Dtype};
use zonda_engine::load::{DType, Extras, Format, Model, StoredType};

/// The form in which a model's weights are held, decided once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightFormat {
    /// The type of activations, norms, scales, and of matrices that are not quantised.
    pub compute: Dtype,
    /// Whether quantised matrices become floats.
    pub dequantize: bool,
    /// How float matrices are quantised; `None`: they are not.
    pub quantize: Option<Quantization>,
    /// Whether experts can be floats of this type: on the CPU MLX multiplies those in f32 only.
    pub float_experts: bool,
}

impl WeightFormat {
    /// The form according to [`MlxOptions`].
    pub fn new(model: &Model, options: &MlxOptions, gpu: bool) -> WeightFormat {
        let fits = model.parameters().saturating_mul(4) <= safe::memory_limit() as u64 / 3;
        let quantized =
            model.format == Format::Mlx || model.types().iter().any(|share| is_quantized(&share.dtype));
        let compute = match options.compute {
            Some(Compute::F32) => Dtype::F32,
            Some(Compute::F16) => Dtype::F16,
            Some(Compute::BF16) => Dtype::BF16,
            // Quantised matrices are multiplied with f32 as fast as with other types.
            None if !gpu && (fits || quantized || options.quantize.is_some()) => Dtype::F32,
            None if !gpu && model.spec.moe.is_some() => Dtype::F32,
            None => own_type(model),
        };
        let dequantize = options.dequantize.unwrap_or(!gpu && fits && options.quantize.is_none());
        let float_experts = gpu || compute == Dtype::F32;
        WeightFormat { compute, dequantize, quantize: options.quantize, float_experts }
    }
}

/// The float type of a model's matrices, or of their scales.
fn own_type(model: &Model) -> Dtype {
    let types = model.types();
    if types.iter().any(|share| is_quantized(&share.dtype)) {
        // F16 is the type of the scales of ggml's types. Gemma and gpt-oss were trained in bf16, and their activations leave the
        // range of f16.
        return if model.spec.extras == Extras::default() { Dtype::F16 } else { Dtype::F32 };
    }
    types.iter().find_map(|share| share.dtype.runs().and_then(float_type)).unwrap_or(Dtype::F32)
}

fn is_quantized(stored: &StoredType) -> bool {
    stored.runs().is_some_and(DType::is_quantized)
}

/// The type of the same name.
pub(crate) fn float_type(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}
