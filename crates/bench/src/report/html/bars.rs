//! Bars made of text and boxes, readable on phones and by screen readers: ranking, throughput, memory.

use super::elements::{card, colour, escape, list, note_of, swatch};
use crate::record::figure;
use crate::record::results::Record;
use crate::record::statistic::Stats;
use crate::report::figures::{SubjectFigures, groups, rank_name};
use crate::report::markdown::against;
use std::fmt::Write;

/// One bar: its name, length, interval, and the label at its end. Lengths are in the figure's own unit.
struct Bar {
    subject: usize,
    name: String,
    aside: String,
    value: f64,
    interval: Option<[f64; 2]>,
    label: String,
}

fn bars(bars: &[Bar], most: f64) -> String {
    let pct = |v: f64| (100.0 * v / most.max(f64::MIN_POSITIVE)).clamp(0.0, 100.0);
    let mut out = String::from("<div class=\"bars\">");
    for bar in bars {
        let aside =
            if bar.aside.is_empty() { String::new() } else { format!(" <em>{}</em>", escape(&bar.aside)) };
        let whisker = bar.interval.map_or(String::new(), |[low, high]| {
            let (low, high) = (pct(low), pct(high));
            format!("<div class=\"whisker\" style=\"left:{low:.2}%;width:{:.2}%\"></div>", high - low)
        });
        let _ = write!(
            out,
            "<div class=\"who\">{}{}{aside}</div><div class=\"track\"><div class=\"fill\" style=\"width:{:.2}%;background:{}\">\
             </div>{whisker}</div><div class=\"val\">{}</div>",
            swatch(bar.subject),
            escape(&bar.name),
            pct(bar.value),
            colour(bar.subject),
            bar.label
        );
    }
    out + "</div>"
}

/// The ranking, one card per shape, and the unranked subjects.
pub fn ranking(record: &Record) -> String {
    let mut out = String::new();
    for group in groups(record) {
        let best = group[0].score_tps;
        let rows: Vec<Bar> = group
            .iter()
            .map(|r| Bar {
                subject: r.subject,
                name: format!("{}. {}", r.rank, rank_name(r)),
                aside: against(r.verdict, r.against_best.and_then(|a| a.ci95), r.score_tps / best),
                value: r.score_tps,
                interval: None,
                label: format!("{} <small>tokens/s</small>", figure(r.score_tps)),
            })
            .collect();
        let note = format!("Geometric mean of the medians over {}.", group[0].scenarios.join(", "));
        let title = format!("<h3>{}</h3>", escape(&group[0].shape));
        out.push_str(&card(&format!("{title}{}{}", bars(&rows, best), note_of(&note))));
    }
    let unranked: Vec<String> = record
        .unranked
        .iter()
        .map(|u| {
            let name = u.key.to_string();
            format!("{name}: {}", u.why)
        })
        .collect();
    if !unranked.is_empty() {
        out.push_str(&card(&format!("<h3 class=\"bad\">Not ranked</h3>{}", list(&unranked))));
    }
    out
}

/// Tokens/s of every backend, one card per scenario and scale, with intervals from three runs on.
pub fn throughput(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let mut cards = String::new();
    for work in &record.config.work {
        let scenario = work.name();
        let mut found: Vec<(&SubjectFigures<'_>, &Stats)> = subjects
            .iter()
            .filter(|s| !s.synthetic)
            .filter_map(|s| Some((s, s.cells.iter().find(|c| c.scenario == scenario)?.headline()?)))
            .collect();
        found.sort_by(|a, b| b.1.median.total_cmp(&a.1.median));
        let most =
            found.iter().map(|(_, s)| s.ci95.map_or(s.max, |c| c[1]).max(s.median)).fold(0.0, f64::max);
        let rows: Vec<Bar> = found
            .iter()
            .map(|(subject, stats)| Bar {
                subject: subject.index,
                name: subject.name.clone(),
                aside: String::new(),
                value: stats.median,
                interval: stats.ci95.or((stats.n == 2).then_some([stats.min, stats.max])),
                label: labelled(stats),
            })
            .collect();
        let failed: Vec<String> = subjects
            .iter()
            .filter_map(|s| {
                let why = s.cells.iter().find(|c| c.scenario == scenario)?.why.as_ref()?;
                Some(format!("{}: {why}", s.name))
            })
            .collect();
        if rows.is_empty() && failed.is_empty() {
            continue;
        }
        let failed = if failed.is_empty() {
            String::new()
        } else {
            format!("<div class=\"note bad\">{}</div>", list(&failed))
        };
        let _ = write!(
            cards,
            "<div class=\"card\"><h3>{}</h3>{}{failed}</div>",
            escape(&scenario),
            bars(&rows, most)
        );
    }
    if cards.is_empty() {
        return cards;
    }
    let note = "Medians; the whisker is the 95% interval of the median, with two runs their range, with one run there is none. \
                tokens/s: output / total latency, of pp rows the prefill rate.";
    format!("<div class=\"grid\">{cards}</div>{}", note_of(note))
}

fn labelled(stats: &Stats) -> String {
    let spread = stats.ci_pct().or(stats.spread_pct()).map(|p| format!(" <small>±{p:.1}%</small>"));
    format!("{} <small>tokens/s</small>{}", figure(stats.median), spread.unwrap_or_default())
}

/// Peak resident memory of every subject, next to the size of its files.
pub fn memory(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let rows: Vec<Bar> = subjects
        .iter()
        .filter_map(|s| {
            let mb = s.peak_mb()?;
            let files = record.models.iter().find(|m| m.subject == s.index).map(|m| &m.files);
            let bytes: u64 = files.into_iter().flatten().map(|f| f.bytes).sum();
            let aside = if bytes > 0 {
                format!("files {} MiB", figure(bytes as f64 / (1 << 20) as f64))
            } else {
                String::new()
            };
            let label = format!("{} <small>MiB</small>", figure(mb));
            Some(Bar { subject: s.index, name: s.name.clone(), aside, value: mb, interval: None, label })
        })
        .collect();
    let most = rows.iter().map(|r| r.value).fold(0.0, f64::max);
    if rows.is_empty() {
        return String::new();
    }
    card(&format!(
        "{}{}",
        bars(&rows, most),
        note_of("Highest resident memory of any good run: weights, KV cache, buffers, program.")
    ))
}
