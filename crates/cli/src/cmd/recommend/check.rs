//! `zonda recommend --check`: what would have been predicted of a record, held against what it measured.

use crate::output;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use zonda_bench::Record;
use zonda_bench::predict::check::{Check, Checked, Errors, Guess, Held};
use zonda_bench::predict::past::Off;
use zonda_bench::summary::{figure, subject_name};

/// Errors above this are named.
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

fn table(out: &mut String, cells: &[Checked]) {
    let head = ["", "scenario", "GB/s", "prefill", "decode"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for c in cells {
        rows.push(vec![
            subject_name(&c.backend, &c.model, c.format.as_deref(), Some(&c.weights)),
            c.scenario.clone(),
            c.read_bytes_per_s.map_or("-".to_owned(), |b| figure(b / 1e9)),
            held(c.prefill),
            held(c.decode),
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
fn held(held: Option<Held>) -> String {
    let Some(held) = held else { return "-".to_owned() };
    let guess = |g: Guess| format!("{} ({:+.0}%)", figure(g.tps), 100.0 * g.error);
    let built_in = held.built_in.map_or("unknown".to_owned(), guess);
    let others = held.others.map_or(String::new(), |g| format!(" | {}", guess(g)));
    format!("{}, {built_in}{others}", figure(held.measured))
}

fn sentence(out: &mut String, what: &str, errors: Errors) {
    let off = |what: &str, off: Off| match (off.median, off.worst) {
        (Some(median), Some(worst)) => format!(
            "{what} off by {:.0}% in the median of {} cells, {:.0}% at worst",
            100.0 * median,
            off.cells,
            100.0 * worst
        ),
        _ => format!("no {what} to hold them against"),
    };
    let worst = errors.prefill.worst.into_iter().chain(errors.decode.worst).reduce(f64::max);
    let end = match worst {
        Some(worst) if worst <= FAR => format!(": all within {:.0}%", 100.0 * FAR),
        _ => String::new(),
    };
    let (prefill, decode) = (off("prefill", errors.prefill), off("decode", errors.decode));
    let _ = writeln!(out, "{what}: {prefill}; {decode}{end}.");
}
