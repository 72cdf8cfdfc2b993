//! Models with random weights in the exact shapes of real ones; speed does not depend on the values.
//!
//! A model is determined by its shape, its type and a seed. With one seed, all float types and formats have the same weights,
//! rounded to that type; to measure quantisation errors, make one of these and quantise it. Matrices of quantised types are made
//! as random codes and scales of the same variance, which takes seconds. Models include a generated tokenizer and chat template.

mod codes;
mod published;
mod random;
mod shape;
mod shapes;
mod vocabulary;

pub use shapes::{SynthSpec, synth_archs};

use crate::error::ConvertError;
use crate::output::{Pending, Progress};
use crate::safetensors_writer::write_json;
use crate::weights::{to_gguf, to_safetensors};
use crate::{gguf_keys, hf_config, hf_tokenizer};
use random::Random;
use std::path::Path;
use zonda_engine::quant::Mix;

/// Writes a model to `out`: a GGUF file if it ends in `.gguf`, else a Hugging Face folder (f32, f16 or bf16).
/// Returns the bytes of the file, or of the folder's weights.
///
/// # Errors
/// If the file system fails, or the format has no tensors of this type.
pub fn synth(
    arch: &SynthSpec,
    mix: Mix,
    out: &Path,
    seed: u64,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let mut spec = arch.spec.clone();
    spec.name = Some(format!("{} (random weights, seed {seed})", arch.name));
    let weights = Random { spec: &spec, seed };
    let tokenizer = vocabulary::metadata(&spec);

    if out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        let mut metadata = gguf_keys::metadata(&spec, mix.file_type());
        metadata.0.extend(tokenizer.0);
        return to_gguf(out, &spec, &metadata, mix, &weights, None, progress);
    }
    let dtype = match mix {
        Mix::Plain(dtype) if !dtype.is_quantized() => dtype,
        other => return Err(ConvertError::FloatsOnly { found: other.to_string() }),
    };
    let pending = Pending::folder(out)?;
    let (bos, eos) = hf_tokenizer::write(&tokenizer, pending.path())?;
    let config = hf_config::config(&spec, dtype, bos, &eos)?;
    write_json(&pending.path().join("config.json"), &config)?;
    let bytes = to_safetensors(pending.path(), &spec, dtype, &weights, progress)?;
    pending.commit()?;
    Ok(bytes)
}
