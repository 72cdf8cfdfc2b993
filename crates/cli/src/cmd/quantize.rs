//! `zonda quantize`: quantises a model's matrices, into a GGUF file.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::{Advice as _, Usage};
use crate::interrupt;
use crate::output::{self, Progress};
use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use zonda_convert::output::{check_writable, unfinished};
use zonda_convert::{ConvertError, Fitted, QuantizeOptions, Quantized, quantize};
use zonda_engine::TokenId;
use zonda_engine::load::Model;
use zonda_engine::quant::{Importance, Mix};
use zonda_engine::tokenize::{Encode, Tokenizer};

/// Tokens of calibration text in one forward pass.
const WINDOW: usize = 512;

/// Quantise a model and write it as GGUF
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda quantize folder model-q4_k_m.gguf q4_k_m\n  \
    zonda quantize model-bf16.gguf model-q4_0.gguf q4_0 --calibrate text.txt\n\n\
    Types: q8_0, q6_k, q5_k_m, q5_1, q5_0, q4_k_m, q4_1, q4_0, q3_k, q2_k, mxfp4 (for experts); q5_k and q4_k without the larger types that _m has \
    in some layers. The output head gets q6_k or q8_0. Rows that are no multiple of 256 values get the next larger type with \
    blocks of 32, as in llama.cpp; the table says where. docs/quantisation.md has the details and what each costs.")]
pub struct Quantize {
    /// The model: a path or a name, with f32, f16 or bf16 weights.
    input: OsString,
    /// The .gguf file to write.
    out: PathBuf,
    /// The type of most matrices.
    #[arg(value_name = "TYPE")]
    mix: String,
    /// Calibrate on this text: errors are kept small in the columns that matter most for it.
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Maximum number of 512-token pieces of that text.
    #[arg(long, value_name = "N", default_value = "64", requires = "calibrate")]
    calibrate_pieces: NonZeroUsize,
    /// Quantise a model that is quantised already, which costs accuracy. Tensors that keep their type are copied.
    #[arg(long)]
    allow_requantize: bool,
    /// Threads [default: one per CPU to quantise, one per physical core to calibrate].
    #[arg(short, long, value_name = "N", value_parser = crate::args::values::threads)]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    json: JsonArg,
}

impl Quantize {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let mix: Mix = self.mix.parse().map_err(|_| Usage(unknown(&self.mix)))?;
        if !mix.base().is_quantized() {
            return Err(Usage(unknown(&self.mix)).into());
        }
        if !self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let out = self.out.display();
            return Err(Usage(format!("OUT is {out}; expected a name that ends in .gguf")).into());
        }
        let located = context.store()?.locate(&self.input)?;
        let model = zonda::open_files(&located)?;
        let model = model.ok_or_else(|| Usage("the mock model has no weights to quantise".to_owned()))?;
        let same =
            |file: &Path| file.canonicalize().ok().is_some_and(|f| self.out.canonicalize().ok() == Some(f));
        if model.files().any(same) {
            return Err(Usage(
                "OUT is a file of the input, which would be overwritten; choose another name".to_owned(),
            )
            .into());
        }
        check_writable(&self.out)?; // fails before the text is read
        let importance =
            self.calibrate.as_deref().map(|text| self.calibrated(&model, text, context)).transpose()?;
        let threads = self.threads.map(NonZeroUsize::get);
        let options = QuantizeOptions {
            requantize: self.allow_requantize,
            importance: importance.as_ref().map(|(importance, text)| (importance, text.clone())),
            threads,
        };
        let _scratch = unfinished(&self.out).map(interrupt::scratch);
        let progress = Progress::bytes(format!("quantising {} to {mix}", located.name), 1, context.quiet);
        let written =
            quantize(&model, &self.out, mix, &options, &mut |done, total| progress.set(done, total));
        let written = match written {
            Err(error @ ConvertError::Quantized { .. }) => {
                return Err(anyhow!(error)).advise(
                    "use a model in f32, f16 or bf16, or accept a second loss of accuracy with --allow-requantize",
                );
            }
            other => other?,
        };
        progress.finish();
        if !context.quiet {
            crate::console::write(&table(&written.tensors));
        }
        if self.json.json {
            return output::json(&self.document(mix, &written));
        }
        let (size, bits) = (output::human_bytes(written.bytes), written.bits_per_weight);
        output::print(&format!("{} ({size}, {bits:.2} bits per weight)\n", self.out.display()))
    }

    /// The importance of columns on a text, and the text's name.
    fn calibrated(
        &self,
        model: &Model,
        path: &Path,
        context: &Context,
    ) -> anyhow::Result<(Importance, String)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| path.display().to_string())
            .advise("expected a text file in UTF-8")?;
        let tokenizer = Tokenizer::for_model(model)?
            .context("the model has no tokenizer")
            .advise("calibration needs a tokenizer; quantise without --calibrate")?;
        let mut pieces = pieces(&tokenizer, &text, WINDOW.min(model.spec.context_length))?;
        if pieces.is_empty() {
            return Err(anyhow!("{} has no text", path.display())).advise("expected some pages of text");
        }
        pieces.truncate(self.calibrate_pieces.get());
        let tokens: usize = pieces.iter().map(Vec::len).sum();
        let progress =
            Progress::steps(format!("reading {tokens} tokens of {}", path.display()), 0, context.quiet);
        let threads = self.threads.map(NonZeroUsize::get);
        let importance = zonda::calibrate(model, threads, &pieces, &mut |done, total| {
            progress.set(done as u64, total as u64)
        })?;
        progress.finish();
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok((importance, name.to_string_lossy().into_owned()))
    }

    fn document(&self, mix: Mix, written: &Quantized) -> Value {
        let tensors = written.tensors.iter().map(|t| {
            json!({
                "name": t.name,
                "shape": t.shape,
                "from": t.from.map(|d| d.name()),
                "type": t.to.name(),
                "wanted": t.wanted.map(|d| d.name()),
                "bytes": t.bytes,
                "bits_per_weight": t.bits_per_weight(),
                "relative_error": t.error,
                "weighted_error": t.weighted_error,
            })
        });
        let tensors: Vec<Value> = tensors.collect();
        json!({
            "path": self.out.display().to_string(),
            "bytes": written.bytes,
            "bits_per_weight": written.bits_per_weight,
            "type": mix.to_string(),
            "calibrated": self.calibrate.as_ref().map(|p| p.display().to_string()),
            "tensors": tensors,
        })
    }
}

/// A text's tokens in windows, each of which begins with the BOS token if the model uses one. The last window may be
/// shorter.
fn pieces(tokenizer: &Tokenizer, text: &str, window: usize) -> anyhow::Result<Vec<Vec<TokenId>>> {
    let ids = tokenizer.encode(text, Encode { add_bos: false, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let with_bos = |ids: &[TokenId]| bos.iter().chain(ids).copied().collect();
    Ok(ids.chunks(window - usize::from(bos.is_some())).map(with_bos).collect())
}

fn unknown(found: &str) -> String {
    let known = Mix::all().filter(|m| m.base().is_quantized()).map(|m| m.to_string());
    let known = known.collect::<Vec<_>>().join(", ");
    format!("TYPE is {found:?}; expected one of {known} (for f32, f16 and bf16 use `zonda convert`)")
}

/// A line for every matrix.
fn table(tensors: &[Fitted]) -> String {
    let matrices: Vec<_> = tensors.iter().filter(|t| t.shape.len() > 1).collect();
    let name = matrices.iter().map(|t| t.name.len()).max().unwrap_or(0).max("tensor".len());
    let weighted = matrices.iter().any(|t| t.weighted_error.is_some());
    let mut out = format!(
        "{:name$}  {:>20}  {:>4}    {:<4}  {:>5}  {:>8}",
        "tensor", "shape", "from", "to", "bits", "error"
    );
    out += if weighted { "  weighted\n" } else { "\n" };
    for t in &matrices {
        let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        let from = t.from.map_or("", |d| d.name());
        let error = format!("{:.3}%", 100.0 * t.error);
        let _ = write!(
            out,
            "{:name$}  {shape:>20}  {from:>4} →  {:<4}  {:>5.2}  {error:>8}",
            t.name,
            t.to.name(),
            t.bits_per_weight()
        );
        if weighted {
            let error = t.weighted_error.map_or(String::new(), |e| format!("{:.3}%", 100.0 * e));
            let _ = write!(out, "  {error:>8}");
        }
        out += &t.wanted.map_or("\n".to_owned(), |d| format!("  instead of {d}\n"));
    }
    let replaced = matrices.iter().filter(|t| t.wanted.is_some()).count();
    if replaced > 0 {
        let all = matrices.len();
        let _ = writeln!(
            out,
            "{replaced} of {all} matrices have rows that are no multiple of their type's block: they got another type"
        );
    }
    out
}
