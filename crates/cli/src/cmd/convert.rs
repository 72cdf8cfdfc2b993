//! `zonda convert`: GGUF ↔ SafeTensors folder.

use crate::args::JsonArg;
use crate::error::Usage;
use crate::output::{self, Progress};
use crate::{Context, backends, interrupt};
use clap::Args;
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use zonda_engine::make;
use zonda_engine::make::output::unfinished;
use zonda_kernels::DType;

/// Convert between GGUF and SafeTensors
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda convert model.gguf -o folder --dtype bf16\n  \
    zonda convert folder -o model.gguf --dtype f16\n\n\
    A folder gets config.json, tokenizer.json and the chat template beside the weights. OUT decides the direction: a \
    name that ends in .gguf is a GGUF file, any other a folder.")]
pub struct Convert {
    /// The model: a path or a name.
    input: OsString,
    /// The .gguf file or the folder to write.
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// Type of the matrices.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
    #[command(flatten)]
    json: JsonArg,
}

impl Convert {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let located = context.store()?.locate(&self.input)?;
        let model = backends::open_model(&located)?;
        let model = model.ok_or_else(|| Usage("the mock model has no file to convert".to_owned()))?;
        let dtype: DType = self.dtype.parse()?;
        let _scratch = unfinished(&self.out).map(interrupt::scratch);
        let progress = Progress::bytes(format!("converting {}", located.name), 0, context.quiet);
        let bytes = make::convert(&model, &self.out, dtype, &mut |done, total| progress.set(done, total))?;
        progress.finish();
        if self.json.json {
            return output::json(&json!({ "path": self.out.display().to_string(), "bytes": bytes }));
        }
        output::print(&format!("{} ({})\n", self.out.display(), output::human_bytes(bytes)))
    }
}
