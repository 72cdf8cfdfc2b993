//! `zonda recommend --check`: compares what a record measured with what would have been predicted.

use crate::output;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use zonda_bench::Record;
use zonda_bench::analyse::predict::check::{Check, CheckedCell, CheckedRate, PredictedRate};
use zonda_bench::analyse::predict::past::{ErrorSpread, Errors};
use zonda_bench::record::{SubjectKey, figure};

/// Larger errors are listed.
const FAR: f64 = 0.2;

/// The record at a path: a `results.json`, or a folder that holds one.
pub(super) fn find(place: &Path, files: Vec<PathBuf>) -> anyhow::Result<PathBuf> {
    match <[PathBuf; 1]>::try_from(files) {
        Ok([one]) => Ok(one),
        Err(files) => Err(crate::error::advised(
            format!("{} records at {}", files.len(), place.display()),
            "give one: a results.json that `zonda bench` wrote, or the folder that it is in",
        )),
    }
}

/// Prints a check.
pub(super) fn print(
    path: &Path,
    record: Record,
    others: Vec<(String, Record)>,
    json: bool,
) -> anyhow::Result<()> {
    let debug = record.program.debug_build;
    let check = Check::of(record, others);
    if json {
        return output::json(&serde_json::json!({ "record": path, "debug_build": debug, "check": check }));
    }
    let mut out = String::new();
    let debug = if debug { ", of a debug build" } else { "" };
    let _ = writeln!(
        out,
        "{}{debug}: tokens/s as measured, and as predicted from the built-in shares{}.\n",
        path.display(),
        if check.others.is_some() { " | from other records of the machine" } else { "" }
    );
    table(&mut out, &check.cells);
    out.push('\n');
    sentence(&mut out, "Built-in shares", check.built_in);
    if let Some(others) = check.others {
        sentence(&mut out, "Other records", others);
    }
    output::print(&out)
}

fn table(out: &mut String, cells: &[CheckedCell]) {
    let head = ["", "scenario", "GB/s", "prefill", "decode"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for c in cells {
        rows.push(vec![
            SubjectKey { name: c.name.clone(), format: c.format.clone(), quant: Some(c.weights.clone()) }
                .to_string(),
            c.scenario.clone(),
            c.read_bytes_per_s.map_or("-".to_owned(), |b| figure(b / 1e9)),
            rate(c.prefill),
            rate(c.decode),
        ]);
    }
    let widths: Vec<usize> =
        (0..5).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

/// `100, 103 (+3%) | 98.2 (-2%)`
fn rate(rate: Option<CheckedRate>) -> String {
    let Some(rate) = rate else { return "-".to_owned() };
    let predicted = |p: PredictedRate| format!("{} ({:+.0}%)", figure(p.tps), 100.0 * p.error);
    let built_in = rate.built_in.map_or("unknown".to_owned(), predicted);
    let others = rate.others.map_or(String::new(), |p| format!(" | {}", predicted(p)));
    format!("{}, {built_in}{others}", figure(rate.measured))
}

fn sentence(out: &mut String, what: &str, errors: Errors) {
    let off = |what: &str, off: ErrorSpread| match (off.median, off.worst) {
        (Some(median), Some(worst)) => format!(
            "{what} off by {:.0}% in the median of {} cells, {:.0}% at worst",
            100.0 * median,
            off.cells,
            100.0 * worst
        ),
        _ => format!("no {what} to compare them with"),
    };
    let worst = errors.prefill.worst.into_iter().chain(errors.decode.worst).reduce(f64::max);
    let end = match worst {
        Some(worst) if worst <= FAR => format!(": all within {:.0}%", 100.0 * FAR),
        _ => String::new(),
    };
    let (prefill, decode) = (off("prefill", errors.prefill), off("decode", errors.decode));
    let _ = writeln!(out, "{what}: {prefill}; {decode}{end}.");
}
