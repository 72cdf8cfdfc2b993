//! `zonda synth`: models with random weights in the shapes of real ones.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::Usage;
use crate::interrupt;
use crate::output::{self, Progress};
use clap::Args;
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use zonda_convert::output::unfinished;
use zonda_convert::{SynthSpec, synth, synth_archs};
use zonda_engine::quant::Mix;

/// Create a model with random weights in the shape of a real one
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda synth tiny-mistral --quant q4_0 -o tiny.gguf\n  \
    zonda synth mistral-7b --quant q4_k_m -o m7b.gguf\n  \
    zonda synth gpt-oss-20b --quant mxfp4 --layers 4 -o oss4.gguf\n  zonda synth --list\n\n\
    --list shows a shape of each family: Llama, Mistral, Ministral 3, Mistral Small 4, Mixtral, Gemma 3, gpt-oss, \
    Qwen2.5, Qwen3, DeepSeek, GLM-4, GLM-4.5 and Phi-4, with the published sizes and options.\n\n\
    Speed does not depend on the weights' values, so such a model is as fast as the real one. The same seed gives the \
    same file. Quantised matrices are random codes: to measure what a type loses, make a float file and `quantize` it.")]
pub struct Synth {
    /// The shape; --list shows all of them.
    #[arg(required_unless_present = "list")]
    arch: Option<String>,
    /// Type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_k_m, mxfp4, …
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    quant: String,
    /// The .gguf file or the SafeTensors folder to write.
    #[arg(short, long, value_name = "OUT", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Number of layers; fewer make a smaller file of a large model [default: the shape's own].
    #[arg(long, value_name = "N")]
    layers: Option<NonZeroUsize>,
    /// Seed of the weights.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// List the shapes.
    #[arg(long, conflicts_with_all = ["arch", "out"])]
    list: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Synth {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let (Some(arch), Some(out)) = (&self.arch, &self.out) else { return self.print_list() };
        let mix: Mix =
            self.quant.parse().map_err(|e: zonda_engine::quant::UnknownMix| Usage(e.to_string()))?;
        let mut shape = SynthSpec::find(arch).map_err(|e| Usage(e.to_string()))?;
        if let Some(layers) = self.layers {
            shape = shape.with_layers(layers.get())?;
        }
        let _scratch = unfinished(out).map(interrupt::scratch);
        let progress = Progress::bytes(format!("making {arch} in {mix}"), 0, context.quiet);
        let bytes = synth(&shape, mix, out, self.seed, &mut |done, total| progress.set(done, total))?;
        progress.finish();
        if self.json.json {
            return output::json(&json!({ "path": out.display().to_string(), "bytes": bytes }));
        }
        output::print(&format!("{} ({})\n", out.display(), output::human_bytes(bytes)))
    }

    fn print_list(&self) -> anyhow::Result<()> {
        let all = synth_archs();
        if self.json.json {
            let list: Vec<_> = all.iter().map(|a| json!({ "name": a.name, "about": a.about })).collect();
            return output::json(&json!({ "archs": list }));
        }
        let width = all.iter().map(|a| a.name.len()).max().unwrap_or(0);
        output::print(&all.iter().map(|a| format!("{:width$}  {}\n", a.name, a.about)).collect::<String>())
    }
}
