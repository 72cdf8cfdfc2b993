//! A comparison of records as text for the terminal.

use crate::analyse::compare::{Compared, Comparison, Side};
use crate::record::figure;
use crate::record::statistic::Verdict;
use crate::report::table::Style;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;

/// The comparison as text, at most `width` columns wide if the words fit; `color` adds ANSI styles.
pub fn render(comparison: &Comparison, width: u16, color: bool) -> String {
    let style = Style { color };
    let mut out = String::new();
    let mut rest = &comparison.rows[..];
    let same = |a: &Compared, b: &Compared| a.key == b.key;
    while let Some(first) = rest.first() {
        let (group, others) = rest.split_at(rest.iter().take_while(|row| same(row, first)).count());
        rest = others;
        let name = first.key.to_string();
        let _ = writeln!(out, "{}\n{}\n", style.strong(&name), table(group, width));
    }
    let _ = writeln!(
        out,
        "{}",
        style.faint(
            "tokens/s, medians ± half their 95% interval. B/A with its 95% interval: ratio of geometric means over the runs;\n\
             same: within ±2%; ?: undecided, the interval is too wide."
        )
    );
    if let Some(sentence) = overlap(&comparison.rows) {
        let _ = writeln!(out, "{sentence}");
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for missing in &comparison.missing {
        let line = format!("not compared: {}: {}", missing.what, missing.why);
        let _ = writeln!(out, "{}", if missing.broke { style.bad(&line) } else { line });
    }
    out
}

fn table(rows: &[Compared], width: u16) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(["scenario", "figure", "A", "B", "B/A", "95% interval", "B is"]);
    for column in table.column_iter_mut().skip(2).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        let interval = row.ci95.map(|[low, high]| format!("{low:.3}–{high:.3}")).unwrap_or_default();
        let verdict = match row.verdict {
            _ if row.regression => "slower: a regression",
            Verdict::Tie => "same",
            Verdict::Less => "slower",
            Verdict::More => "faster",
            Verdict::Undecided => "?",
        };
        table.add_row([
            row.scenario.clone(),
            row.metric.name().trim_end_matches("_tps").to_owned(),
            side(&row.a),
            side(&row.b),
            format!("{:.3}", row.ratio),
            interval,
            verdict.to_owned(),
        ]);
    }
    table
}

fn side(side: &Side) -> String {
    match side.ci95 {
        Some([low, high]) => format!("{} ±{:.1}%", figure(side.median), 50.0 * (high - low) / side.median),
        None => figure(side.median),
    }
}

/// Whether the intervals of the same cells overlap, as expected of a repeated experiment.
fn overlap(rows: &[Compared]) -> Option<String> {
    let known: Vec<&Compared> = rows.iter().filter(|row| row.overlap.is_some()).collect();
    let apart: Vec<String> =
        known.iter().filter(|row| row.overlap == Some(false)).map(|r| r.name()).collect();
    let (all, n) = (known.len(), known.len() - apart.len());
    match (all, apart.len()) {
        (0, _) => None,
        (_, 0) => Some(format!("The intervals of all {all} figures overlap.")),
        _ => {
            Some(format!("The intervals of {n} of {all} figures overlap; no overlap: {}.", apart.join("; ")))
        }
    }
}
