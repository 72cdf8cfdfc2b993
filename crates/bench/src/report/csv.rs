//! `results.csv`: one line per run. The first nine columns are those of the baseline report.

use crate::record::results::Record;
use crate::record::row::{Row, Status};
use std::io;

/// The columns, in order.
pub const COLUMNS: [&str; 23] = [
    "backend",
    "scenario",
    "tokens",
    "run",
    "total_ms",
    "ttft_ms",
    "tpt_ms",
    "throughput",
    "generated",
    "model",
    "format",
    "quant",
    "prompt_tokens",
    "prefill_tps",
    "decode_tps",
    "load_ms",
    "peak_rss_mb",
    "finish_reason",
    "order",
    "speculate",
    "drafted",
    "accepted",
    "acceptance",
];

/// Appended columns: the subject's quality, the same in all its rows; empty if it was not measured.
pub const QUALITY_COLUMNS: [&str; 3] = ["ppl", "ppl_stderr", "kl_mean"];

/// The record's rows as CSV (RFC 4180, with a header). Missing figures are empty cells; for a run without figures,
/// `finish_reason` has the reason: `failed: …`, `not run: …`.
///
/// # Errors
/// Never for a record in memory; the writer's type requires a `Result`.
pub fn to_string(record: &Record) -> io::Result<String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(COLUMNS.iter().chain(&QUALITY_COLUMNS))?;
    for row in &record.rows {
        let options = record.config.subjects.get(row.subject).map(|s| &s.options);
        let speculate = options.and_then(|o| o.get("speculate")).map_or("off", String::as_str);
        out.write_record(line(row, speculate).into_iter().chain(quality(record, row)))?;
    }
    let bytes = out.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn quality(record: &Record, row: &Row) -> [String; 3] {
    let of = record.quality(row.subject);
    let figures = [of.and_then(|q| q.ppl), of.and_then(|q| q.stderr), of.and_then(|q| q.kl_mean)];
    figures.map(|v| v.map(|v| format!("{v:.6}")).unwrap_or_default())
}

fn line(row: &Row, speculate: &str) -> [String; 23] {
    let figure = |v: Option<f64>| v.map(|v| format!("{v:.4}")).unwrap_or_default();
    let count = |v: Option<usize>| v.map(|v| v.to_string()).unwrap_or_default();
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    [
        row.key.name.backend.clone(),
        row.scenario.clone(),
        row.tokens.to_string(),
        row.run.to_string(),
        figure(row.total_ms),
        figure(row.ttft_ms),
        figure(row.tpt_ms),
        figure(row.throughput),
        count(row.generated),
        row.key.name.model.clone(),
        text(&row.key.format),
        text(&row.key.quant),
        count(row.prompt_tokens),
        figure(row.prefill_tps),
        figure(row.decode_tps),
        figure(row.load_ms),
        figure(row.peak_rss_mb),
        match &row.status {
            Status::Ok => text(&row.finish_reason),
            other => other.to_string(),
        },
        count(row.order),
        speculate.to_owned(),
        count(row.drafted_tokens),
        count(row.accepted_tokens),
        figure(row.acceptance),
    ]
}
