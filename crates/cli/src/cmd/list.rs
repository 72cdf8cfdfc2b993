//! `zonda list`: lists the models on this machine.

use crate::args::JsonArg;
use crate::context::Context;
use crate::output;
use clap::Args;
use serde_json::json;
use zonda_engine::printable;

/// List the models on this machine
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zonda list --json\n\n\
    Models are stored in $ZONDA_HOME; those in the Hub's own cache folder are listed too.")]
pub struct List {
    #[command(flatten)]
    json: JsonArg,
}

impl List {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let entries = context.store()?.list()?;
        if self.json.json {
            return output::json(&json!({ "models": entries }));
        }
        if entries.is_empty() {
            return output::print("no models yet; `zonda pull smollm2-135m` downloads one\n");
        }
        let names: Vec<_> = entries.iter().map(|e| printable(&e.name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (e, name) in entries.iter().zip(&names) {
            text += &format!(
                "{name:width$}  {:>12}  {}  {}\n",
                output::human_bytes(e.bytes),
                printable(&e.source),
                printable(&e.path.display().to_string())
            );
        }
        output::print(&text)
    }
}
