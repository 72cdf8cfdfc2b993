//! [`quantize()`]: writes a model's matrices in fewer bits, as a GGUF file.

use crate::convert::{Stored, gguf_metadata};
use crate::error::ConvertError;
use crate::fitting::{Fitted, Fitting, QuantizeOptions};
use crate::output::Progress;
use crate::weights::to_gguf;
use std::path::Path;
use zonda_engine::load::{Format, Metadata, Model, Value};
use zonda_engine::quant::{Importance, Mix};
use zonda_kernels::DType;

/// The result of [`quantize()`].
#[derive(Debug)]
pub struct Quantized {
    /// The file's size.
    pub bytes: u64,
    /// Bits per parameter, over all tensors.
    pub bits_per_weight: f64,
    /// The result for each tensor, in file order.
    pub tensors: Vec<Fitted>,
}

/// Writes `input` to the GGUF file `out` with the types of `mix`. One or two tensors are in memory at a time, large ones in part.
///
/// # Errors
/// If the mix is not quantised; if the input is already quantised and that is not allowed, is incomplete, or can't be expressed
/// in GGUF; or if reading or writing fails.
pub fn quantize(
    input: &Model,
    out: &Path,
    mix: Mix,
    options: &QuantizeOptions<'_>,
    progress: Progress<'_>,
) -> Result<Quantized, ConvertError> {
    if !mix.base().is_quantized() {
        let expected = "a quantised type; use `convert` for f32, f16 and bf16".to_owned();
        return Err(ConvertError::Invalid {
            what: "the type to quantise to",
            found: mix.to_string(),
            expected,
        });
    }
    input.check()?;
    let again = |dtype: Option<DType>| dtype.is_some_and(DType::is_quantized);
    let quantized =
        input.format == Format::Mlx || input.types().iter().any(|share| again(share.dtype.runs()));
    if quantized && !options.requantize {
        return Err(ConvertError::Quantized { found: input.type_label() });
    }
    let mut metadata = gguf_metadata(input, mix)?;
    if let Some((importance, text)) = &options.importance {
        note(&mut metadata, importance, text);
    }
    let mut tensors = Vec::new();
    let fitting = Fitting { options, fitted: &mut tensors };
    let bytes = to_gguf(out, &input.spec, &metadata, mix, &Stored(input), Some(fitting), progress)?;
    let sum = |f: fn(&Fitted) -> u64| tensors.iter().map(f).sum::<u64>() as f64;
    let bits_per_weight = 8.0 * sum(|t| t.bytes) / sum(Fitted::values);
    Ok(Quantized { bytes, bits_per_weight, tensors })
}

/// Records the source of the importance in the file, with llama.cpp's keys.
fn note(metadata: &mut Metadata, importance: &Importance, text: &str) {
    let mut put = |key: &str, value| metadata.0.insert(format!("quantize.imatrix.{key}"), value);
    put("dataset", Value::String(text.to_owned()));
    put("entries_count", Value::U32(importance.entries() as u32));
}
