//! The report's tables: figures per backend, agreement, and every run, which sorts by any column.

use super::elements::{card, escape, note_of, swatch};
use crate::record::figure;
use crate::record::results::Record;
use crate::record::row::{Row, Status};
use crate::record::statistic::Stats;
use crate::record::summary::Cell;
use crate::report::figures;
use crate::report::figures::SubjectFigures;
use std::fmt::Write;

type Pick = fn(&Cell) -> Option<&Stats>;

/// How a column's figures are shown.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Figure,
    /// A share of a limit, shown only if the record has any.
    Share,
}

/// Columns of a backend's table.
const FIGURES: [(&str, Shown, Pick); 8] = [
    ("TTFT ms", Shown::Figure, |c| c.ttft_ms.as_ref()),
    ("TpT ms", Shown::Figure, |c| c.tpt_ms.as_ref()),
    ("total ms", Shown::Figure, |c| c.total_ms.as_ref()),
    ("tokens/s", Shown::Figure, |c| c.throughput.as_ref()),
    ("prefill/s", Shown::Figure, |c| c.prefill_tps.as_ref()),
    ("of limit", Shown::Share, |c| c.prefill_share.as_ref()),
    ("decode/s", Shown::Figure, |c| c.decode_tps.as_ref()),
    ("of limit", Shown::Share, |c| c.decode_share.as_ref()),
];

/// A table per backend and model, with the Avg row.
pub fn results(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    subjects.iter().map(|s| card(&one(record, s))).collect()
}

fn one(record: &Record, s: &SubjectFigures<'_>) -> String {
    let shares = s.cells.iter().any(|c| c.prefill_share.is_some() || c.decode_share.is_some());
    let columns = || FIGURES.iter().filter(move |(_, shown, _)| shares || *shown != Shown::Share);
    let mut out = format!("<h3>{}{}</h3>", swatch(s.index), escape(&s.name));
    if s.synthetic {
        out.push_str("<p class=\"note\">Synthetic: the harness's own overhead, not ranked.</p>");
    }
    out.push_str("<div class=\"scroll\"><table><thead><tr><th>scenario</th><th>prompt</th><th>output</th>");
    for (name, ..) in columns() {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("<th>ITL ms: p50, p90, p99</th><th>runs</th></tr></thead><tbody>");
    for c in &s.cells {
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td>",
            escape(&c.scenario),
            count(c.prompt_tokens),
            count(c.generated)
        );
        for (_, shown, pick) in columns() {
            let text = match shown {
                Shown::Figure => with_spread(pick(c)),
                Shown::Share => percent(pick(c).map(|s| s.median)),
            };
            let _ = write!(out, "<td>{text}</td>");
        }
        let gaps = c.itl_ms.map(|q| q.map(figure).join(" · ")).unwrap_or_default();
        let runs =
            if c.failed == 0 { c.runs.to_string() } else { format!("{} of {}", c.runs, c.runs + c.failed) };
        let _ = write!(out, "<td>{gaps}</td><td>{runs}</td></tr>");
        if let Some(why) = &c.why {
            let span = 5 + columns().count();
            let _ = write!(
                out,
                "<tr class=\"bad\"><td class=\"wrap\" colspan=\"{span}\">{}</td></tr>",
                escape(why)
            );
        }
    }
    out.push_str("<tr class=\"avg\"><td>Avg</td><td></td><td></td>");
    for (_, shown, pick) in columns() {
        let text = match shown {
            Shown::Figure => s.average(*pick).map(figure).unwrap_or_default(),
            Shown::Share => percent(s.average(*pick)),
        };
        let _ = write!(out, "<td>{text}</td>");
    }
    out.push_str("<td></td><td></td></tr></tbody></table></div>");
    let mut facts = Vec::new();
    facts.extend(figures::load_ms(record, s.index).map(|ms| format!("load {} ms", figure(ms))));
    facts.extend(
        s.cells.iter().find_map(|c| c.cold_start_ms).map(|ms| format!("cold start {} ms", figure(ms))),
    );
    let load = record.processes.iter().filter(|p| p.subject == s.index).find_map(|p| p.load.as_ref());
    facts.extend(load.map(|l| {
        let b = &l.backend;
        let kind: Vec<String> = [
            format!("{} {}", b.name, b.version),
            b.device.clone(),
            b.isa.clone(),
            figures::count(b.threads, "thread"),
            if b.kv_type.is_empty() { String::new() } else { format!("KV {}", b.kv_type) },
        ]
        .into_iter()
        .filter(|t| !t.trim().is_empty())
        .collect();
        kind.join(", ")
    }));
    out.push_str(&note_of(&facts.join(" · ")));
    out
}

fn percent(share: Option<f64>) -> String {
    share.map(|share| format!("{:.0}%", 100.0 * share)).unwrap_or_default()
}

fn with_spread(stats: Option<&Stats>) -> String {
    let Some(s) = stats else { return String::new() };
    match s.ci_pct().or(s.spread_pct()) {
        Some(pct) => format!("{} <small>±{pct:.0}%</small>", figure(s.median)),
        None => figure(s.median),
    }
}

/// Whether each backend computes the function of its weights.
pub fn agreement(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    if record.agreement.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>backend</th><th>best token agrees</th><th>where decided</th><th>mean KL</th>\
         <th>positions</th><th class=\"text\">verdict</th></tr></thead><tbody>",
    );
    for a in &record.agreement {
        let name = subjects.iter().find(|s| s.index == a.subject).map_or("", |s| s.name.as_str());
        let pct = |v: f64| format!("{:.1}%", 100.0 * v);
        let found = a.found.as_ref();
        let (verdict, class) = match a.within {
            Some(true) => ("within its bounds".to_owned(), ""),
            Some(false) => (format!("out of bounds: {}", a.why.join("; ")), "bad"),
            None => (format!("not compared: {}", a.why.join("; ")), ""),
        };
        let _ = write!(
            out,
            "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"wrap\">{}</td></tr>",
            escape(name),
            found.map(|f| pct(f.top1)).unwrap_or_default(),
            found.and_then(|f| f.top1_decided).map(pct).unwrap_or_default(),
            found.map(|f| figure(f.kl_mean)).unwrap_or_default(),
            found.map(|f| f.positions.to_string()).unwrap_or_default(),
            escape(&verdict)
        );
    }
    out.push_str("</tbody></table></div>");
    let note = "Compared before timing, on the same token ids, with the reference logits of the file's own weights. “Where \
    decided” leaves out positions whose best two tokens are about equally probable.";
    card(&format!("{out}{}", note_of(note)))
}

/// How well each subject predicts a text.
pub fn quality(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let Some(text) = &record.config.quality else { return String::new() };
    let mut out = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>backend</th><th>perplexity</th><th>±</th><th>mean KL from reference</th>\
         <th>KL, 99% below</th><th>best token agrees</th><th>tokens</th><th class=\"text\"></th></tr></thead><tbody>",
    );
    for q in &record.quality {
        let name = subjects.iter().find(|s| s.index == q.subject).map_or("", |s| s.name.as_str());
        let _ = write!(out, "<tr><td>{}</td>", escape(name));
        for cell in [
            q.ppl.map(|v| format!("{v:.3}")),
            q.stderr.map(|v| format!("{v:.3}")),
            q.kl_mean.map(figure),
            q.kl_p99.map(figure),
            q.top1.map(|v| format!("{:.1}%", 100.0 * v)),
            q.tokens.map(|n| n.to_string()),
        ] {
            let _ = write!(out, "<td>{}</td>", cell.unwrap_or_default());
        }
        let _ = write!(out, "<td class=\"wrap\">{}</td></tr>", escape(q.why.as_deref().unwrap_or_default()));
    }
    out.push_str("</tbody></table></div>");
    let note = format!(
        "On {}, in windows of {} tokens, the second half of each scored. Lower is better; only subjects with one vocabulary \
         can be compared.",
        text.path.file_name().unwrap_or_default().to_string_lossy(),
        text.window
    );
    card(&format!("{out}{}", note_of(&note)))
}

/// All runs in execution order.
pub fn raw(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let mut out = String::from(
        "<details><summary>Show all runs (click a heading to sort)</summary><div class=\"scroll\"><table class=\"sort\"><thead><tr>",
    );
    for heading in [
        "order",
        "backend",
        "scenario",
        "run",
        "TTFT ms",
        "TpT ms",
        "total ms",
        "tokens/s",
        "prefill/s",
        "decode/s",
        "peak MiB",
        "ended",
    ] {
        let _ = write!(out, "<th>{heading}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for row in &record.rows {
        out.push_str(&raw_row(row, subjects));
    }
    out.push_str("</tbody></table></div></details>");
    card(&out)
}

fn raw_row(row: &Row, subjects: &[SubjectFigures<'_>]) -> String {
    let name = subjects.iter().find(|s| s.index == row.subject).map_or("", |s| s.name.as_str());
    let text = |v: Option<f64>| v.map(figure).unwrap_or_default();
    let ended = match &row.status {
        Status::Ok if row.outlier => format!("{}, outlier", row.finish_reason.as_deref().unwrap_or_default()),
        Status::Ok => row.finish_reason.clone().unwrap_or_default(),
        other => other.to_string(),
    };
    let class = if row.status == Status::Ok { "" } else { " class=\"bad\"" };
    let order = row.order.map(|n| n.to_string()).unwrap_or_default();
    let figures: String = [
        row.ttft_ms,
        row.tpt_ms,
        row.total_ms,
        row.throughput,
        row.prefill_tps,
        row.decode_tps,
        row.peak_rss_mb,
    ]
    .map(|v| format!("<td>{}</td>", text(v)))
    .concat();
    format!(
        "<tr{class}><td>{order}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td>{figures}<td class=\"wrap\">{}</td></tr>",
        escape(name),
        escape(&row.scenario),
        row.run,
        escape(&ended)
    )
}
