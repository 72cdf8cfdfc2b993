//! `zonda bench compare`: two recorded results, or the backends of one, against each other; a gate for CI.

use crate::args::JsonArg;
use crate::error::advised;
use crate::output;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use zonda_bench::Record;
use zonda_bench::analyse::compare::{self, CompareError, Options};
use zonda_bench::record::SCHEMA_VERSION;
use zonda_bench::report::comparison;
use zonda_bench::report::redact_paths::PathRedactor;

/// Compare two recorded results, or the backends of one
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda bench compare before/results.json after/results.json\n  \
    zonda bench compare main.json branch.json --fail-on-regression 5\n  \
    zonda bench compare results.json\n\n\
    With two records, cells of the same backend, model and scenario are compared: tokens/s, prefill and decode, with the 95% \
    interval of the ratio. With one, every backend and model in it is compared with the first, in pairs of runs of the same \
    block. A regression is a slowdown that is significant for all rows together (Holm's correction at 5%). To find 5% at 3% \
    noise between two records in nine of ten cases takes 10 runs each (--runs 10).")]
pub struct Compare {
    /// The baseline, a results.json.
    a: PathBuf,
    /// The results.json to compare with the baseline.
    b: Option<PathBuf>,
    /// Exit with 1 if something is significantly slower by more than PCT percent, or no longer works.
    #[arg(long, value_name = "PCT", value_parser = percent)]
    fail_on_regression: Option<f64>,
    /// Compare records of different machines too.
    #[arg(long)]
    any_machine: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Compare {
    pub fn run(self) -> anyhow::Result<()> {
        let options =
            Options { regression_pct: self.fail_on_regression.unwrap_or(0.0), any_machine: self.any_machine };
        let a = read(&self.a)?;
        let compared = match &self.b {
            Some(b) => compare::compare(&a, &read(b)?, &options),
            None => compare::within(&a, &options),
        };
        let comparison = compared.map_err(|error| match error {
            CompareError::Machines { .. } => advised(error, "--any-machine compares them anyway"),
            other => other.into(),
        })?;
        let regressions = comparison.regressions();
        if self.json.json {
            output::json(&json!({
                "rows": comparison.rows,
                "missing": comparison.missing,
                "notes": comparison.notes,
                "regressions": regressions,
            }))?;
        } else {
            let (width, colour) = output::terminal();
            output::styled(&comparison::render(&comparison, width, colour))?;
        }
        match (self.fail_on_regression, &regressions[..]) {
            (Some(pct), [_, ..]) => Err(advised(
                format!("slower by more than {pct}%, or broken: {}", regressions.join("; ")),
                "the table shows every figure with its interval",
            )),
            _ => Ok(()),
        }
    }
}

/// Reads a recorded result.
///
/// # Errors
/// If there is none, or its version is not supported.
pub fn read(path: &Path) -> anyhow::Result<Record> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
    let mut record: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| advised(format!("{name} is not JSON: {e}"), "expected a results.json of zonda bench"))?;
    PathRedactor::default().redact_value(&mut record); // it may come from others
    match record["schema_version"].as_u64() {
        Some(version) if version == u64::from(SCHEMA_VERSION) => {}
        Some(version) => {
            anyhow::bail!("{name} has version {version} of the record; expected {SCHEMA_VERSION}")
        }
        None => {
            let what = format!("{name} is not a record: it has no schema_version");
            return Err(advised(what, "expected a results.json of zonda bench"));
        }
    }
    serde_json::from_value(record).map_err(|e| {
        advised(format!("{name} is not a complete record: {e}"), "expected a results.json of zonda bench")
    })
}

/// A percentage from 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|pct| (0.0..100.0).contains(pct));
    number.ok_or_else(|| "expected a percentage from 0 to 100".to_owned())
}
