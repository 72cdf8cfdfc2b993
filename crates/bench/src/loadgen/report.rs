//! The report of a load: as text, and as `results.csv` and `results.json`.

use super::drive::Driven;
use super::figures::{Row, Spread, Summary, row, summary};
use super::plan::{Arrivals, LatencyBounds, LoadPlan};
use super::request::{Asked, Outcome};
use crate::BenchError;
use crate::report::csv::COLUMNS;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Version of the JSON's shape.
pub const SCHEMA_VERSION: u32 = 1;

/// Columns of `results.csv` after those of all the bench's files.
const MORE_COLUMNS: [&str; 7] =
    ["measured_at", "due_ms", "late_ms", "cached_tokens", "itl_p50_ms", "itl_p99_ms", "good"];

/// The report: `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadgenReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// `serve`, unlike the records of `zonda bench`.
    pub kind: &'static str,
    /// Always `http`.
    pub measured_at: &'static str,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// The user interrupted it.
    pub partial: bool,
    /// The plan.
    pub config: LoadPlan,
    /// All requests together.
    pub summary: Summary,
    /// Every request, in the order in which they were due.
    pub rows: Vec<Row>,
}

impl LoadgenReport {
    /// Computes the figures of a finished load.
    pub fn new(config: LoadPlan, driven: &Driven) -> LoadgenReport {
        let asked: Vec<&Asked> = driven.asked.iter().filter(|a| a.outcome != Outcome::Interrupted).collect();
        let rows: Vec<Row> = asked.iter().map(|a| row(a, &config.bounds)).collect();
        LoadgenReport {
            schema_version: SCHEMA_VERSION,
            kind: "serve",
            measured_at: "http",
            started: OffsetDateTime::from(driven.started).format(&Rfc3339).unwrap_or_default(),
            partial: driven.partial,
            summary: summary(&asked, &rows, driven.wall.as_secs_f64()),
            config,
            rows,
        }
    }

    /// Writes `results.csv` and `results.json` into a folder, which is made if needed; returns their paths.
    ///
    /// # Errors
    /// If the folder or a file can't be written.
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>, BenchError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |e: std::io::Error| BenchError::Write { path, why: e.to_string() }
        };
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
        let json = serde_json::to_string_pretty(self).map_err(std::io::Error::other);
        let mut written = Vec::new();
        for (name, text) in [("results.csv", self.csv()), ("results.json", json)] {
            let path = dir.join(name);
            text.and_then(|text| zonda_engine::files::write(&path, text.as_bytes()))
                .map_err(failed(&path))?;
            written.push(path);
        }
        Ok(written)
    }

    /// A line per request: the bench's columns, then those of a load. Missing values are empty cells.
    ///
    /// # Errors
    /// Never for a report in memory; the writer's type asks for it.
    pub fn csv(&self) -> std::io::Result<String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let columns: Vec<&str> = COLUMNS.iter().chain(&MORE_COLUMNS).copied().collect();
        out.write_record(&columns)?;
        for row in &self.rows {
            out.write_record(columns.iter().map(|column| self.cell(row, column)))?;
        }
        let bytes = out.into_inner().map_err(|e| std::io::Error::other(e.to_string()))?;
        String::from_utf8(bytes).map_err(std::io::Error::other)
    }

    fn cell(&self, row: &Row, column: &str) -> String {
        let figure = |v: Option<f64>| v.map(|v| format!("{v:.4}")).unwrap_or_default();
        let count = |v: Option<usize>| v.map(|v| v.to_string()).unwrap_or_default();
        match column {
            "scenario" => scenario(&self.config.arrivals),
            "tokens" => self.config.max_tokens.to_string(),
            "run" => "1".to_owned(),
            "total_ms" => figure(row.total_ms),
            "ttft_ms" => figure(row.ttft_ms),
            "tpt_ms" => figure(row.tpt_ms),
            "throughput" => figure(row.throughput),
            "generated" => count(row.generated),
            "model" => self.config.model.clone().unwrap_or_default(),
            "prompt_tokens" => count(row.prompt_tokens),
            "decode_tps" => figure(row.tpt_ms.filter(|t| *t > 0.0).map(|t| 1e3 / t)),
            "finish_reason" if row.status != "ok" => row.status.clone(),
            "finish_reason" => row.finish_reason.clone().unwrap_or_default(),
            "order" => row.order.to_string(),
            "measured_at" => row.measured_at.to_owned(),
            "due_ms" => figure(Some(row.due_ms)),
            "late_ms" => figure(Some(row.late_ms)),
            "cached_tokens" => count(row.cached_tokens),
            "itl_p50_ms" => figure(row.itl_ms.map(|i| i[0])),
            "itl_p99_ms" => figure(row.itl_ms.map(|i| i[2])),
            "good" => row.good.to_string(),
            // The client doesn't know the server's backend, weights and memory.
            _ => String::new(),
        }
    }

    /// The report as text.
    pub fn render(&self) -> String {
        let s = &self.summary;
        let mut out = String::new();
        if self.partial {
            let _ = writeln!(out, "Interrupted: what follows is not all that was planned.\n");
        }
        let model = self.config.model.as_deref().unwrap_or("its model");
        let _ = writeln!(
            out,
            "{} ({model}), {}, about {} prompt tokens, {} tokens an answer\n",
            self.config.url,
            describe(&self.config.arrivals),
            self.config.prompt_tokens,
            self.config.max_tokens
        );
        let _ = writeln!(out, "{:<22}{} of {} in {:.2} s", "complete", s.complete, s.requests, s.wall_s);
        let _ = writeln!(out, "{:<22}{:.3} /s", "requests", s.requests_per_s);
        if let (Some(n), Some(rate)) = (s.generated, s.tokens_per_s) {
            let _ = writeln!(out, "{:<22}{rate:.1} /s ({n})", "generated tokens");
        }
        if let Some(n) = s.prompt_tokens {
            let cached = s.cached_tokens.map(|c| format!(", {c} of them cached")).unwrap_or_default();
            let _ = writeln!(out, "{:<22}{n}{cached}", "prompt tokens");
        }
        if s.complete > 0 {
            let share = 100.0 * s.good as f64 / s.requests as f64;
            let within = bounds(&self.config.bounds);
            let _ =
                writeln!(out, "{:<22}{:.3} /s, {share:.1}% of requests {within}", "goodput", s.goodput_per_s);
        }
        let _ = writeln!(out, "\n{:<22}{:>10}{:>10}{:>10}{:>10}", "ms", "p50", "p90", "p99", "max");
        for (name, spread) in [
            ("first token (TTFT)", s.ttft_ms),
            ("gaps (ITL)", s.itl_ms),
            ("per token (TpT)", s.tpt_ms),
            ("whole answer", s.total_ms),
            ("client's own delay", s.late_ms),
        ] {
            if let Some(Spread { p50, p90, p99, max, .. }) = spread {
                let _ = writeln!(out, "{name:<22}{p50:>10.2}{p90:>10.2}{p99:>10.2}{max:>10.2}");
            }
        }
        if !s.failures.is_empty() {
            let _ = writeln!(out, "\nFailed");
            for (why, n) in &s.failures {
                let _ = writeln!(out, "{n:>7}  {why}");
            }
        }
        out
    }
}

fn scenario(arrivals: &Arrivals) -> String {
    match arrivals {
        Arrivals::Open { rate } => format!("open-{rate}"),
        Arrivals::Closed { concurrency } => format!("closed-{concurrency}"),
    }
}

fn describe(arrivals: &Arrivals) -> String {
    match arrivals {
        Arrivals::Open { rate } => format!("{rate} requests/s at random times"),
        Arrivals::Closed { concurrency: 1 } => "1 client".to_owned(),
        Arrivals::Closed { concurrency } => format!("{concurrency} clients"),
    }
}

fn bounds(bounds: &LatencyBounds) -> String {
    let one = |name, bound: Option<f64>| bound.map(|ms| format!("{name} ≤ {ms} ms"));
    let all: Vec<String> =
        [one("TTFT", bounds.ttft_ms), one("99% of gaps", bounds.itl_ms)].into_iter().flatten().collect();
    if all.is_empty() { "complete (no bounds given)".to_owned() } else { format!("with {}", all.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::super::request::Refusal;
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn asked(index: usize, deliveries_ms: &[f64], outcome: Outcome) -> Asked {
        Asked {
            index,
            due_ms: 10.0 * index as f64,
            late_ms: 0.5,
            deliveries_ms: deliveries_ms.to_vec(),
            end_ms: 100.0,
            prompt_tokens: Some(20),
            cached_tokens: Some(5),
            generated: Some(deliveries_ms.len()),
            reasoning: 0,
            shows_reasoning: false,
            finish_reason: Some("length".to_owned()),
            outcome,
        }
    }

    fn report(bounds: LatencyBounds) -> LoadgenReport {
        let failed = Outcome::Failed(Refusal { status: Some(429), why: "the queue is full".to_owned() });
        let driven = Driven {
            asked: vec![
                asked(0, &[10.0, 20.0, 30.0], Outcome::Complete),
                asked(1, &[50.0, 60.0, 90.0], Outcome::Complete),
                asked(2, &[], failed),
                asked(3, &[1.0], Outcome::Interrupted),
            ],
            started: std::time::UNIX_EPOCH,
            wall: Duration::from_secs(2),
            partial: false,
        };
        LoadgenReport::new(LoadPlan { bounds, ..plan() }, &driven)
    }

    #[test]
    fn figures_add_up() {
        let report = report(LatencyBounds::default());
        let s = &report.summary;
        assert_eq!((s.requests, s.complete, s.good), (3, 2, 2));
        assert_eq!((s.requests_per_s, s.generated, s.tokens_per_s), (1.0, Some(6), Some(3.0)));
        assert_eq!((s.prompt_tokens, s.cached_tokens), (Some(40), Some(10)));
        assert_eq!(s.failures, BTreeMap::from([("429: the queue is full".to_owned(), 1)]));
        assert_eq!(s.ttft_ms.unwrap().p50, 30.0);
        assert_eq!((s.itl_ms.unwrap().n, s.itl_ms.unwrap().max), (4, 30.0));
        assert_eq!(report.rows[1].tpt_ms, Some(20.0));
        assert_eq!(report.rows[0].throughput, Some(100.0));
        assert_eq!(report.rows[2].ttft_ms, None);
        let text = report.render();
        for part in ["2 of 3 in 2.00 s", "3.0 /s (6)", "10 of them cached", "429: the queue is full"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn goodput_counts_answers_within_the_bounds() {
        let good = |ttft_ms, itl_ms| report(LatencyBounds { ttft_ms, itl_ms }).summary.good;
        assert_eq!(good(Some(10.0), None), 1);
        assert_eq!(good(Some(50.0), Some(10.0)), 1);
        assert_eq!(good(Some(9.0), None), 0);
        assert_eq!(good(Some(50.0), Some(30.0)), 2);
    }

    #[test]
    fn the_files_have_the_benchs_columns_and_are_marked_http() {
        let dir = tempfile::tempdir().unwrap();
        let written = report(LatencyBounds::default()).write(&dir.path().join("new")).unwrap();
        let csv = std::fs::read_to_string(&written[0]).unwrap();
        let mut lines = csv.lines();
        assert!(
            lines
                .next()
                .unwrap()
                .starts_with("backend,scenario,tokens,run,total_ms,ttft_ms,tpt_ms,throughput,generated")
        );
        let first = lines.next().unwrap();
        assert!(
            first.starts_with(",closed-2,4,1,30.0000,10.0000,10.0000,100.0000,3,")
                && first.contains(",http,"),
            "{first}"
        );
        assert!(csv.contains("failed: the queue is full"), "{csv}");
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&written[1]).unwrap()).unwrap();
        assert_eq!(json["measured_at"], "http");
        assert_eq!(json["rows"][0]["measured_at"], "http");
        assert_eq!(json["rows"].as_array().unwrap().len(), 3);
    }
}
