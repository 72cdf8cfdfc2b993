//! `zonda bench report`: writes the reports of a recorded result again.

use crate::args::JsonArg;
use crate::cmd::bench_compare::read;
use crate::context::Context;
use crate::output;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Write report.md and report.html from a recorded result
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda bench report results/2026-11-23T18-05-09Z/results.json\n  \
    zonda bench report results.json --out /tmp/report\n\n\
    The HTML is one file that loads nothing: it can be mailed, or opened without a network.")]
pub struct Report {
    /// The results.json to report on.
    results: PathBuf,
    /// Folder for the reports [default: that of the results].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl Report {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let record = read(&self.results)?;
        let beside = self.results.parent().unwrap_or(Path::new("."));
        let written = zonda_bench::report::write_reports(self.out.as_deref().unwrap_or(beside), &record)?;
        let paths: Vec<String> = written.iter().map(|p| p.display().to_string()).collect();
        if self.json.json {
            output::json(&json!({ "written": paths }))
        } else if context.quiet {
            Ok(())
        } else {
            output::print(&format!("{}\n", paths.join("\n")))
        }
    }
}
