//! A model in another format: GGUF to a Hugging Face folder and back, with its tokenizer and chat template.

use crate::error::ConvertError;
use crate::output::{Pending, Progress};
use crate::rows::{RawRow, Rows, Weights};
use crate::safetensors_writer::write_json;
use crate::weights::{adjacent_row, is_rotated, to_gguf, to_safetensors};
use crate::{gguf_keys, gguf_tokenizer, hf_config, hf_tokenizer};
use std::path::Path;
use zonda_engine::load::{Metadata, Model, RopePairing, TensorRole, Value};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;

/// Writes `input` to `out` in the float type `dtype`: a GGUF file if `out` ends in `.gguf`, else a Hugging Face
/// folder. Returns the bytes of the file, or of the folder's weights.
///
/// Values are dequantised and rounded once to `dtype`; norms (and routers) stay f32 in GGUF.
///
/// # Errors
/// If the input is incomplete or has properties that the other format can't express, or if the file system fails.
pub fn convert(input: &Model, out: &Path, dtype: DType, progress: Progress<'_>) -> Result<u64, ConvertError> {
    if dtype.is_quantized() {
        return Err(ConvertError::Invalid {
            what: "the type to convert to",
            found: dtype.to_string(),
            expected: "f32, f16 or bf16".to_owned(),
        });
    }
    input.check()?;
    match out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        true => convert_to_gguf(input, out, dtype, progress),
        false => convert_to_folder(input, out, dtype, progress),
    }
}

fn convert_to_folder(
    input: &Model,
    out: &Path,
    dtype: DType,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let pending = Pending::folder(out)?;
    let folder = pending.path();
    let has_tokenizer = input.metadata.get("tokenizer.ggml.tokens").is_some();
    let (bos, eos) = match has_tokenizer {
        true => hf_tokenizer::write(&input.metadata, folder)?,
        false => (None, Vec::new()),
    };
    write_json(&folder.join("config.json"), &hf_config::config(&input.spec, dtype, bos, &eos)?)?;
    let bytes = to_safetensors(folder, &input.spec, dtype, &Stored(input), progress)?;
    pending.commit()?;
    Ok(bytes)
}

fn convert_to_gguf(
    input: &Model,
    out: &Path,
    dtype: DType,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let mix = Mix::Plain(dtype);
    let metadata = gguf_metadata(input, mix)?;
    to_gguf(out, &input.spec, &metadata, mix, &Stored(input), None, progress)
}

/// The metadata of a GGUF file of the model: hyperparameters, tokenizer, and other metadata of the input.
pub(crate) fn gguf_metadata(input: &Model, mix: Mix) -> Result<Metadata, ConvertError> {
    gguf_keys::check(&input.spec)?;
    let mut metadata = gguf_keys::metadata(&input.spec, mix.file_type());
    match input.folder() {
        Some(folder) => {
            let tokenizer = gguf_tokenizer::metadata(folder, input.spec.vocab_size)?;
            metadata.0.extend(tokenizer.0);
            let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("model").to_owned();
            metadata.0.entry("general.name".to_owned()).or_insert(Value::String(name));
        }
        None => {
            // Metadata other than hyperparameters: name, licence, tokenizer.
            let kept = |key: &str| {
                key.starts_with("tokenizer.") || key.starts_with("general.") && !metadata.0.contains_key(key)
            };
            let pairs = input.metadata.0.iter().filter(|(key, _)| kept(key));
            let kept: Vec<_> = pairs.map(|(key, value)| (key.clone(), value.clone())).collect();
            metadata.0.extend(kept);
            // The writer uses the format's default alignment.
            metadata.0.remove("general.alignment");
        }
    }
    Ok(metadata)
}

/// The weights of an opened model.
pub(crate) struct Stored<'a>(pub &'a Model);

impl Stored<'_> {
    /// The index in the stored tensor of row `r` in Hugging Face's order.
    fn stored_row(&self, role: TensorRole) -> impl Fn(usize) -> usize + Sync + use<> {
        let head_dim = self.0.spec.head_dim;
        // families that have adjacent pairs in both formats are stored alike
        let spec = &self.0.spec;
        let permuted =
            is_rotated(role) && gguf_keys::permutes(spec) && spec.rope.pairing == RopePairing::Adjacent;
        move |row| if permuted { adjacent_row(row, head_dim) } else { row }
    }
}

impl Weights for Stored<'_> {
    fn rows(&self, role: TensorRole) -> Result<Rows<'_>, ConvertError> {
        let tensor = self.0.tensor(role)?;
        let stored_row = self.stored_row(role);
        Ok(Box::new(move |row, out| tensor.row(stored_row(row), out)))
    }

    fn raw(&self, role: TensorRole) -> Result<Option<(DType, RawRow<'_>)>, ConvertError> {
        let tensor = self.0.tensor(role)?;
        if tensor.scale() != 1.0 {
            return Ok(None); // the blocks alone are other values
        }
        let dtype = tensor.dtype;
        let bytes_per_row = tensor.bytes().len() / tensor.rows().max(1);
        let stored_row = self.stored_row(role);
        let copy = move |row: usize, out: &mut Vec<u8>| {
            out.extend_from_slice(&tensor.bytes()[stored_row(row) * bytes_per_row..][..bytes_per_row]);
        };
        Ok(Some((dtype, Box::new(copy))))
    }

    fn release(&self, role: TensorRole) {
        self.0.release(role);
    }
}
