//! `report.md`: the structure of the baseline report, with every sentence computed from the data.

use crate::record::figure;
use crate::record::quality::Quality;
use crate::record::results::Record;
use crate::record::statistic::{Stats, Verdict};
use crate::record::summary::Cell;
use crate::report::figures;
use crate::report::figures::{SubjectFigures, groups, rank_name};
use crate::report::findings;
use std::fmt::Write;

/// Characters in the longest bar of the ranking.
const BAR: f64 = 24.0;

/// The report as Markdown.
pub fn to_string(record: &Record) -> String {
    let subjects = figures::subjects(record);
    let mut out = String::from("# Benchmark report\n\n");
    if record.partial {
        out.push_str("**Interrupted: the figures are incomplete.**\n\n");
    }
    section(&mut out, "Methodology", &findings::methodology(record));
    out.push_str("| Machine | |\n|---|---|\n");
    for (label, value) in findings::machine(record) {
        let _ = writeln!(out, "| {label} | {} |", text(&value));
    }
    out.push_str("\n## Results\n\n");
    for subject in &subjects {
        results(&mut out, record, subject);
    }
    section(&mut out, "Key insights", &findings::insights(record));
    ranking(&mut out, record);
    latency(&mut out, record, &subjects);
    section(&mut out, "Scenario patterns", &findings::patterns(record));
    section(&mut out, "Hardware recommendations", &findings::hardware(record));
    section(&mut out, "How the simulated baseline differs", &findings::against_baseline(record));
    let warnings: Vec<String> = record.warnings.iter().map(|w| w.message.clone()).collect();
    section(&mut out, "Warnings", &warnings);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn section(out: &mut String, title: &str, sentences: &[String]) {
    if !sentences.is_empty() {
        let _ = writeln!(out, "## {title}\n");
        for sentence in sentences {
            let _ = writeln!(out, "- {}", text(sentence));
        }
        out.push('\n');
    }
}

/// The table of one backend with one model, with the Avg row.
fn results(out: &mut String, record: &Record, subject: &SubjectFigures<'_>) {
    let _ = writeln!(out, "### {}\n", text(&subject.name));
    if subject.synthetic {
        out.push_str("Synthetic: the overhead of the harness itself, not ranked.\n\n");
    }
    let reason = record.unranked.iter().find(|u| u.subject == subject.index);
    if let Some(unranked) = reason {
        let _ = writeln!(out, "**Not ranked: {}**\n", text(&unranked.why));
    }
    out.push_str("| Scenario | Prompt | Output | TTFT ms | TpT ms | Total ms | Tokens/s | Prefill/s | Decode/s | Runs |\n");
    out.push_str("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for c in &subject.cells {
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let runs = match c.failed {
            0 => c.runs.to_string(),
            failed => format!("{} of {}", c.runs, c.runs + failed),
        };
        let figures = FIGURES.map(|pick| with_spread(pick(c))).join(" | ");
        let _ = writeln!(
            out,
            "| {} | {} | {} | {figures} | {runs} |",
            text(&c.scenario),
            count(c.prompt_tokens),
            count(c.generated)
        );
    }
    let averages = FIGURES.map(|pick| subject.average(pick).map(figure).unwrap_or_default()).join(" | ");
    let _ = writeln!(out, "| **Avg** | | | {averages} | |\n");
    let mut facts = Vec::new();
    facts.extend(figures::load_ms(record, subject.index).map(|ms| format!("load {} ms", figure(ms))));
    facts.extend(subject.peak_mb().map(|mb| format!("peak memory {} MiB", figure(mb))));
    facts.extend(record.quality(subject.index).and_then(Quality::describe));
    if !facts.is_empty() {
        let _ = writeln!(out, "{}\n", facts.join(", "));
    }
    for c in subject.cells.iter().filter(|c| c.why.is_some()) {
        let _ = writeln!(out, "- {}: {}", text(&c.scenario), text(c.why.as_deref().unwrap_or_default()));
    }
    if subject.cells.iter().any(|c| c.why.is_some()) {
        out.push('\n');
    }
}

type Pick = fn(&Cell) -> Option<&Stats>;

/// The figures of a table, in order.
const FIGURES: [Pick; 6] = [
    |c| c.ttft_ms.as_ref(),
    |c| c.tpt_ms.as_ref(),
    |c| c.total_ms.as_ref(),
    |c| c.throughput.as_ref(),
    |c| c.prefill_tps.as_ref(),
    |c| c.decode_tps.as_ref(),
];

fn with_spread(stats: Option<&Stats>) -> String {
    let Some(s) = stats else { return String::new() };
    match s.ci_pct().or(s.spread_pct()) {
        Some(pct) => format!("{} ±{pct:.0}%", figure(s.median)),
        None => figure(s.median),
    }
}

fn ranking(out: &mut String, record: &Record) {
    if record.ranking.is_empty() && record.unranked.is_empty() {
        return;
    }
    out.push_str("## Ranking\n\n");
    for group in groups(record) {
        let best = group[0].score_tps;
        let _ = writeln!(
            out,
            "{}: geometric mean of the medians over {}.\n",
            text(&group[0].shape),
            text(&group[0].scenarios.join(", "))
        );
        out.push_str("| # | Backend | Tokens/s | | Against the best |\n|--:|---|--:|---|---|\n");
        for r in group {
            let bar = "█".repeat((BAR * r.score_tps / best).round().max(1.0) as usize);
            let _ = writeln!(
                out,
                "| {} | {} | {} | `{bar}` | {} |",
                r.rank,
                text(&rank_name(r)),
                figure(r.score_tps),
                against(r.verdict, r.against_best.and_then(|a| a.ci95), r.score_tps / best)
            );
        }
        out.push('\n');
    }
    for u in &record.unranked {
        let name = u.key.to_string();
        let _ = writeln!(out, "- not ranked: {}: {}", text(&name), text(&u.why));
    }
    if !record.unranked.is_empty() {
        out.push('\n');
    }
}

/// `71% (68 to 74%)`, `tie`; `undecided` if the interval is too wide.
pub fn against(verdict: Option<Verdict>, ci95: Option<[f64; 2]>, share: f64) -> String {
    let interval = ci95.map(|[low, high]| format!(" ({:.0} to {:.0}%)", 100.0 * low, 100.0 * high));
    let interval = interval.unwrap_or_default();
    match verdict {
        None => String::new(),
        Some(Verdict::Tie) => format!("tie{interval}"),
        Some(Verdict::Undecided) => format!("{:.0}%{interval}, undecided", 100.0 * share),
        Some(_) => format!("{:.0}%{interval}", 100.0 * share),
    }
}

fn latency(out: &mut String, record: &Record, subjects: &[SubjectFigures<'_>]) {
    let with_gaps: Vec<(&SubjectFigures<'_>, &Cell)> = subjects
        .iter()
        .flat_map(|s| s.cells.iter().filter(|c| c.itl_ms.is_some()).map(move |c| (s, *c)))
        .collect();
    if with_gaps.is_empty() {
        return;
    }
    out.push_str("## Latency comparison\n\n| Backend | Scenario | TTFT ms | ITL p50 ms | p90 | p99 |\n|---|---|--:|--:|--:|--:|\n");
    for (s, c) in with_gaps {
        let gaps = c.itl_ms.map(|q| q.map(figure).join(" | ")).unwrap_or_default();
        let ttft = c.ttft_ms.as_ref().map(|s| figure(s.median)).unwrap_or_default();
        let _ = writeln!(out, "| {} | {} | {ttft} | {gaps} |", text(&s.name), text(&c.scenario));
    }
    out.push('\n');
    let sentences = findings::latency(record);
    for sentence in &sentences {
        let _ = writeln!(out, "- {}", text(sentence));
    }
    if !sentences.is_empty() {
        out.push('\n');
    }
}

/// Escapes text, since names and messages come from files and other programs.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '`' | '*' | '[' | ']' | '\\' | '|' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
