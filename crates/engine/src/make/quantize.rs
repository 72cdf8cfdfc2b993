//! [`quantize()`]: a model's matrices in fewer bits, as a GGUF file.

use super::convert::{Stored, gguf_metadata};
use super::output::Progress;
use super::weights::{Fitting, to_gguf};
use super::{Importance, MakeError, Mix};
use crate::load::{Format, Metadata, Model, Value};
use std::path::Path;
use zonda_kernels::DType;

/// How to quantise.
#[derive(Debug, Default)]
pub struct QuantizeOptions<'a> {
    /// Quantise tensors that are quantised already. Those that have the type they would get are copied as they are.
    pub requantize: bool,
    /// What columns' errors count, and the name of the text that says so.
    pub importance: Option<(&'a Importance, String)>,
    /// Threads; one per CPU if `None`.
    pub threads: Option<usize>,
}

/// What [`quantize()`] wrote.
#[derive(Debug)]
pub struct Quantized {
    /// The file's size.
    pub bytes: u64,
    /// Bits a parameter, over all tensors.
    pub bits_per_weight: f64,
    /// What became of each tensor, in file order.
    pub tensors: Vec<Fitted>,
}

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Its name in the file.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The type it was stored in before; `None` if it was not stored in one.
    pub from: Option<DType>,
    /// Its type in the file.
    pub to: DType,
    /// The type that the mix has for it, where its rows don't divide into that type's blocks.
    pub wanted: Option<DType>,
    /// Its bytes in the file.
    pub bytes: u64,
    /// Root mean square of the errors relative to that of the values.
    pub error: f64,
    /// The same with columns weighted by their importance, where that is known.
    pub weighted_error: Option<f64>,
}

impl Fitted {
    /// Values it has.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }

    /// Bits a value.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.values() as f64
    }
}

/// Writes `input` to the GGUF file `out` with the types of `mix`. A tensor or two are in memory at a time, less of large ones.
///
/// # Errors
/// A mix of floats; an input that is quantised already, unless that is allowed; one that is incomplete or has what GGUF can't
/// say; and what the file system says.
pub fn quantize(
    input: &Model,
    out: &Path,
    mix: Mix,
    options: &QuantizeOptions<'_>,
    progress: Progress<'_>,
) -> Result<Quantized, MakeError> {
    if !mix.base().is_quantized() {
        let expected = "a quantised type; for f32, f16 and bf16 there is convert".to_owned();
        return Err(MakeError::Invalid { what: "the type to quantise to", found: mix.to_string(), expected });
    }
    input.check()?;
    let again = |dtype: Option<DType>| dtype.is_some_and(DType::is_quantized);
    let quantized =
        input.format == Format::Mlx || input.types().iter().any(|share| again(share.dtype.runs()));
    if quantized && !options.requantize {
        return Err(MakeError::Quantized { found: input.type_label() });
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

/// Says in the file what its weights were weighted by, with llama.cpp's keys.
fn note(metadata: &mut Metadata, importance: &Importance, text: &str) {
    let mut put = |key: &str, value| metadata.0.insert(format!("quantize.imatrix.{key}"), value);
    put("dataset", Value::String(text.to_owned()));
    put("entries_count", Value::U32(importance.entries() as u32));
}
