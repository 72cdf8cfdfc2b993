//! `zonda rm`: deletes models from the store.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::Usage;
use crate::output;
use clap::Args;
use serde_json::json;
use zonda::store::ModelName;

/// Delete models from the store
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zonda rm smollm2-135m\n\nOnly files in $ZONDA_HOME are ever deleted.")]
pub struct Rm {
    /// Names as `zonda list` shows them.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    json: JsonArg,
}

impl Rm {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let store = context.store()?;
        let mut removed = Vec::new();
        for text in &self.names {
            let name = ModelName::parse_name(text).ok_or_else(|| {
                Usage(format!(
                    "{text:?} is not a model's name; expected NAME, ORG/NAME or ORG/NAME:FILE.gguf"
                ))
            })?;
            let bytes = store.remove(&name)?;
            removed.push(json!({ "name": text, "bytes": bytes }));
            if !self.json.json {
                output::print(&format!("removed {text} ({})\n", output::human_bytes(bytes)))?;
            }
        }
        if self.json.json { output::json(&json!({ "models": removed })) } else { Ok(()) }
    }
}
