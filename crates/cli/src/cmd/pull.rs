//! `zonda pull`: downloads a model into the store, or verifies the one that is there.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::Usage;
use crate::output;
use clap::Args;
use serde_json::json;
use zonda::store::ModelName;
use zonda_engine::printable;

/// Download a model, or verify one that is already here
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    zonda pull smollm2-135m\n  \
    zonda pull mistralai/Mistral-7B-Instruct-v0.3\n  \
    zonda pull ORG/NAME-GGUF:model.Q4_K_M.gguf\n\n\
    SHA-256 checksums are verified if the source publishes them; then an interrupted download continues where it stopped.")]
pub struct Pull {
    /// The model: smollm2-135m, ORG/NAME, or ORG/NAME:FILE.gguf.
    name: String,
    #[command(flatten)]
    json: JsonArg,
}

impl Pull {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = ModelName::parse_name(&self.name).ok_or_else(|| {
            Usage(format!(
                "{:?} is not a model's name; expected NAME, ORG/NAME or ORG/NAME:FILE.gguf",
                self.name
            ))
        })?;
        let (dir, manifest) = context.store()?.pull(&name)?;
        if self.json.json {
            let files = &manifest.files;
            return output::json(&json!({ "models": [{
                "name": self.name, "source": manifest.source, "commit": manifest.commit,
                "path": dir.display().to_string(), "bytes": manifest.bytes(), "files": files,
            }] }));
        }
        let mut text = format!("{} is in {}\n", self.name, dir.display());
        for file in &manifest.files {
            text += &format!(
                "  {:>12}  {}  {}\n",
                output::human_bytes(file.bytes),
                &file.sha256[..16],
                printable(&file.path)
            );
        }
        output::print(&text)
    }
}
