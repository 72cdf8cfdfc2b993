//! `zonda convert`: GGUF ↔ SafeTensors folder, and either to a folder that MLX runs quantised.

use crate::args::JsonArg;
use crate::console::note;
use crate::context::Context;
use crate::error::Usage;
use crate::interrupt;
use crate::output::{self, Progress};
use clap::Args;
use serde_json::json;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use zonda_convert::output::unfinished;
use zonda_engine::load::{Affine, Format, Model};
use zonda_kernels::DType;

/// Convert between GGUF and SafeTensors, or to MLX
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda convert model.gguf -o folder --dtype bf16\n  \
    zonda convert folder -o model.gguf --dtype f16\n  \
    zonda convert folder -o folder-4bit --to mlx --bits 4 --group-size 64\n  \
    zonda convert model.gguf -o draft.gguf --layers 8 --dtype bf16\n\n\
    A folder gets config.json, tokenizer.json and the chat template beside the weights. The name OUT decides the \
    direction: one that ends in .gguf is a GGUF file, any other a folder. With --to mlx the folder is quantised in the format \
    of mlx-lm and mlx-community; mlx-lm, and every backend here that reads folders, runs it.")]
pub struct Convert {
    /// The model: a path or a name.
    input: OsString,
    /// The .gguf file or the folder to write.
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// Format of OUT [default: by its name].
    #[arg(long, value_name = "FORMAT", value_parser = ["gguf", "safetensors", "mlx"])]
    to: Option<String>,
    /// Type of the matrices; with --to mlx, type of the scales and of tensors that are not quantised [default: f32, mlx: bf16].
    #[arg(long, value_parser = ["f32", "bf16", "f16"])]
    dtype: Option<String>,
    /// With --to mlx: bits per value, 2, 3, 4, 5, 6 or 8 [default: 4].
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// With --to mlx: values that share a scale and a bias, 32, 64 or 128 [default: 64].
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,
    /// Keep only the first N layers, for instance to make a draft model (`--draft`) [default: all].
    #[arg(long, value_name = "N")]
    layers: Option<NonZeroUsize>,
    #[command(flatten)]
    json: JsonArg,
}

impl Convert {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let to_mlx = self.checked_format()?;
        let located = context.store()?.locate(&self.input)?;
        let model = zonda::open_files(&located)?;
        let mut model =
            model.ok_or_else(|| Usage("the mock model has no file, so it can't be converted".to_owned()))?;
        if let Some(layers) = self.layers.map(NonZeroUsize::get) {
            let all = model.spec.layers;
            let shorter = Arc::get_mut(&mut model).filter(|_| layers <= all);
            let wrong = || Usage(format!("--layers is {layers}; {} has {all}", located.name));
            shorter.ok_or_else(wrong)?.keep_layers(layers);
        }
        let dtype: DType = self.dtype.as_deref().unwrap_or(if to_mlx { "bf16" } else { "f32" }).parse()?;
        let again = to_mlx && (model.format == Format::Mlx || has_quantized(&model));
        if again && !context.quiet {
            note!(
                "note: {} is quantised already ({}); quantising it again costs accuracy",
                located.name,
                model.type_label()
            );
        }
        let _scratch = unfinished(&self.out).map(interrupt::scratch);
        let progress = Progress::bytes(format!("converting {}", located.name), 0, context.quiet);
        let mut set = |done, total| progress.set(done, total);
        let bytes = if to_mlx {
            let affine = Affine { bits: self.bits.unwrap_or(4), group_size: self.group_size.unwrap_or(64) };
            zonda_convert::convert_to_mlx(&model, &self.out, affine, dtype, &mut set)?
        } else {
            zonda_convert::convert(&model, &self.out, dtype, &mut set)?
        };
        progress.finish();
        if self.json.json {
            return output::json(&json!({ "path": self.out.display().to_string(), "bytes": bytes }));
        }
        output::print(&format!("{} ({})\n", self.out.display(), output::human_bytes(bytes)))
    }
    /// Whether the output is an MLX folder; refuses flags that contradict each other.
    fn checked_format(&self) -> Result<bool, Usage> {
        let is_gguf = self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        let to = self.to.as_deref().unwrap_or(if is_gguf { "gguf" } else { "safetensors" });
        let usage = |why: &str| Err(Usage(why.to_owned()));
        match to {
            "gguf" if !is_gguf => return usage("--to gguf needs an OUT that ends in .gguf"),
            "safetensors" | "mlx" if is_gguf => {
                return usage("an OUT that ends in .gguf is a GGUF file; name a folder for this format");
            }
            _ => {}
        }
        if to != "mlx" && (self.bits.is_some() || self.group_size.is_some()) {
            return usage("--bits and --group-size are for --to mlx");
        }
        let one_of = |flag: &str, given: Option<usize>, all: &[usize]| match given {
            Some(n) if !all.contains(&n) => Err(Usage(format!("{flag} is {n}; expected one of {all:?}"))),
            _ => Ok(()),
        };
        one_of("--bits", self.bits, &Affine::BITS)?;
        one_of("--group-size", self.group_size, &Affine::GROUP_SIZES)?;
        Ok(to == "mlx")
    }
}

fn has_quantized(model: &Model) -> bool {
    model.types().iter().any(|share| share.dtype.runs().is_some_and(DType::is_quantized))
}
