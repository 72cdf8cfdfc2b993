//! A record as text for the terminal: a table per backend and model, the ranking, the warnings, the recommendation.

use crate::analyse::stats::median;
use crate::record::figure;
use crate::record::process::Process;
use crate::record::quality::Quality;
use crate::record::results::Record;
use crate::record::statistic::{Stats, Verdict};
use crate::record::summary::{Cell, Rank};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;

/// Minimum width of terminals that show the prefill and decode rates and the spread of every figure.
const WIDE: u16 = 100;
/// Columns of the longest bar in the ranking.
const BAR: f64 = 30.0;

/// The record as text, at most `width` columns wide if the words fit; `color` adds ANSI styles.
pub fn render_table(record: &Record, width: u16, color: bool) -> String {
    let style = Style { color };
    let mut out = String::new();
    if record.partial {
        let _ = writeln!(out, "{}\n", style.bad("Interrupted: the figures are incomplete."));
    }
    for subject in 0..record.config.subjects.len() {
        let cells: Vec<&Cell> = record.summary.iter().filter(|c| c.subject == subject).collect();
        subject_table(&mut out, record, &cells, width, style);
    }
    let _ = writeln!(
        out,
        "{}",
        style.faint(
            "Medians ± half their 95% interval (below three runs: half the range).\n\
             TTFT: time to the first token; TpT: time per token after it; tokens/s: output tokens / total time."
        )
    );
    if record.roofline.best().is_some() && width >= WIDE {
        let limits =
            "Percentages: shares of the machine's arithmetic peak (prefill) and memory bandwidth (decode).";
        let _ = writeln!(out, "{}", style.faint(limits));
    }
    ranking(&mut out, &record.ranking, width, style);
    for u in &record.unranked {
        let name = u.key.to_string();
        let _ = writeln!(out, "{}", style.bad(&format!("not ranked: {name}: {}", u.why)));
    }
    if let Some(o) = &record.overhead {
        let _ = writeln!(
            out,
            "\nHarness overhead (mock, not ranked): {} ms to the first token, {} µs per token, {} runs.",
            figure(o.ttft_ms),
            figure(o.per_token_us),
            o.runs
        );
    }
    if !record.warnings.is_empty() {
        let _ = writeln!(out, "\n{}", style.strong("Warnings"));
        for warning in &record.warnings {
            let _ = writeln!(out, "- {}", warning.message);
        }
    }
    // Last, so that it is visible below any number of warnings.
    let _ = writeln!(out, "\n{}", style.strong("Recommendation"));
    for sentence in &record.recommendation {
        let _ = writeln!(out, "{sentence}");
    }
    out
}

fn subject_table(out: &mut String, record: &Record, cells: &[&Cell], width: u16, style: Style) {
    let Some(first) = cells.first() else { return };
    let name = first.key.to_string();
    let mut heading = vec![style.strong(&name)];
    heading.extend(loads(&record.processes, first.subject));
    heading.extend(agreement(record, first.subject));
    heading.extend(record.quality(first.subject).and_then(Quality::describe));
    let peaks = cells.iter().filter_map(|c| c.peak_rss_mb.as_ref()).map(|p| p.max);
    heading.extend(peaks.reduce(f64::max).map(|mb| format!("peak {} MiB", figure(mb))));
    let _ = writeln!(out, "{}", heading.join("  ·  "));

    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let mut header = vec!["scenario", "prompt", "output", "TTFT ms", "TpT ms", "total ms", "tokens/s"];
    if width >= WIDE {
        header.extend(["prefill/s", "decode/s"]);
    }
    header.push("runs");
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for cell in cells {
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let mut line = vec![cell.scenario.clone(), count(cell.prompt_tokens), count(cell.generated)];
        let times = [&cell.ttft_ms, &cell.tpt_ms, &cell.total_ms];
        line.extend(times.map(if width >= WIDE { with_spread } else { alone }));
        line.push(with_spread(&cell.throughput));
        if width >= WIDE {
            line.push(with_share(&cell.prefill_tps, &cell.prefill_share));
            line.push(with_share(&cell.decode_tps, &cell.decode_share));
        }
        line.push(match cell.failed {
            0 => cell.runs.to_string(),
            failed => format!("{} of {}", cell.runs, cell.runs + failed),
        });
        table.add_row(line);
    }
    let _ = writeln!(out, "{table}");
    for cell in cells {
        if let Some(why) = &cell.why {
            let _ = writeln!(out, "  {}", style.bad(&format!("{}: {why}", cell.scenario)));
        }
    }
    out.push('\n');
}

fn with_spread(stats: &Option<Stats>) -> String {
    let Some(s) = stats else { return String::new() };
    match s.ci_pct().or(s.spread_pct()) {
        Some(pct) => format!("{} ±{pct:.0}%", figure(s.median)),
        None => figure(s.median),
    }
}

fn alone(stats: &Option<Stats>) -> String {
    stats.as_ref().map(|s| figure(s.median)).unwrap_or_default()
}

/// `4853 48%`: a rate and its share of the machine's limit, if known.
fn with_share(stats: &Option<Stats>, share: &Option<Stats>) -> String {
    match share {
        Some(share) => format!("{} {:.0}%", alone(stats), 100.0 * share.median),
        None => alone(stats),
    }
}

/// `KL 0.0046 from the reference`: the distance of the subject's logits from the reference logits of its weights.
fn agreement(record: &Record, subject: usize) -> Option<String> {
    let found = record.agreement.iter().find(|a| a.subject == subject)?.found?;
    Some(format!("KL {} from the reference", figure(found.kl_mean)))
}

/// `load 85.2 ms cold, 41.0 ms warm`: medians of each temperature.
fn loads(processes: &[Process], subject: usize) -> Option<String> {
    let of = |temperature: Option<&str>| {
        let times: Vec<f64> = processes
            .iter()
            .filter(|p| p.subject == subject && p.temperature() == temperature)
            .filter_map(|p| Some(p.load.as_ref()?.load_ms))
            .collect();
        median(&times)
    };
    let parts: Vec<String> = [Some("cold"), Some("warm"), None]
        .into_iter()
        .filter_map(|t| Some(format!("{} ms {}", figure(of(t)?), t.unwrap_or_default()).trim().to_owned()))
        .collect();
    (!parts.is_empty()).then(|| format!("load {}", parts.join(", ")))
}

fn ranking(out: &mut String, ranking: &[Rank], width: u16, style: Style) {
    let mut shape = None;
    let mut best = 0.0;
    let name = |r: &Rank| r.key.to_string();
    let widest = ranking.iter().map(|r| name(r).chars().count()).max().unwrap_or(0);
    for r in ranking {
        if shape != Some(&r.shape) {
            shape = Some(&r.shape);
            best = r.score_tps;
            let over = r.scenarios.join(", ");
            let _ = writeln!(out, "\n{} {}", style.strong("Ranking"), style.faint(&r.shape));
            let _ = writeln!(
                out,
                "{}",
                style.faint(&format!("geometric mean of the medians over {over}; 95% interval of the ratio"))
            );
        }
        let relative = r.score_tps / best.max(f64::MIN_POSITIVE);
        let bar = "█".repeat((BAR * relative).round().max(1.0) as usize);
        let bar = if usize::from(width) > widest + 40 { bar } else { String::new() };
        let against = match (r.verdict, r.against_best.and_then(|a| a.ci95)) {
            (None, _) => String::new(),
            (Some(Verdict::Tie), _) => "tie".into(),
            (Some(verdict), interval) => {
                let sure = if verdict == Verdict::Undecided { "?" } else { "" };
                let interval = interval.map(|[low, high]| format!("{:.0}–{:.0}%", 100.0 * low, 100.0 * high));
                format!("{}{sure}", interval.unwrap_or_default())
            }
        };
        let _ = writeln!(
            out,
            "{:>2}  {:<widest$}  {:>7} tokens/s  {:>3.0}% {against:<10}  {bar}",
            r.rank,
            name(r),
            figure(r.score_tps),
            100.0 * relative
        );
    }
}

#[derive(Clone, Copy)]
pub(super) struct Style {
    pub color: bool,
}

impl Style {
    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }
    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
}
