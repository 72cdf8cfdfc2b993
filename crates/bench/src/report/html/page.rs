//! The page: its frame and its sections, top to bottom.

use super::elements::{card, escape, legend, list, note_of, section};
use super::{bars, plots, tables};
use crate::record::figure;
use crate::record::results::Record;
use crate::record::row::Status;
use crate::report::figures;
use crate::report::figures::{SubjectFigures, groups, rank_name};
use crate::report::findings;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// The report as an HTML document.
pub fn to_string(record: &Record) -> String {
    let subjects = figures::subjects(record);
    let mut main = header(record);
    main.push_str(&tiles(record, &subjects));
    section(&mut main, "Recommendation", &card(&list(&record.recommendation)));
    section(&mut main, "Ranking", &bars::ranking(record));
    section(&mut main, "Throughput by scenario", &bars::throughput(record, &subjects));
    section(&mut main, "Limits and latency", &side_by_side(record, &subjects));
    section(&mut main, "Timeline of each run", &time_lines(record, &subjects));
    section(&mut main, "Memory", &bars::memory(record, &subjects));
    section(&mut main, "Figures", &tables::results(record, &subjects));
    section(&mut main, "Agreement with the reference", &tables::agreement(record, &subjects));
    section(&mut main, "Quality", &tables::quality(record, &subjects));
    let facts = [
        ("Insights", findings::insights(record).into_iter().skip(record.recommendation.len()).collect()),
        ("Latency", findings::latency(record)),
        ("Scenario patterns", findings::patterns(record)),
        ("Hardware", findings::hardware(record)),
        ("Against the simulated baseline", findings::against_baseline(record)),
        ("Methodology", findings::methodology(record)),
    ];
    let facts: String = facts
        .into_iter()
        .filter(|(_, sentences): &(_, Vec<String>)| !sentences.is_empty())
        .map(|(title, sentences)| format!("<div class=\"card\"><h3>{title}</h3>{}</div>", list(&sentences)))
        .collect();
    section(&mut main, "Findings", &format!("<div class=\"grid\">{facts}</div>"));
    let warnings: Vec<String> = record.warnings.iter().map(|w| w.message.clone()).collect();
    if !warnings.is_empty() {
        section(&mut main, "Warnings", &format!("<div class=\"banner\">{}</div>", list(&warnings)));
    }
    section(&mut main, "Machine and program", &machine(record));
    section(&mut main, "Every run", &tables::raw(record, &subjects));
    page(&main)
}

fn page(main: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>Benchmark report</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{main}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

fn header(record: &Record) -> String {
    let m = &record.machine;
    let mut about: Vec<String> = m.cpu.iter().cloned().collect();
    about.extend(m.physical_cores.map(|n| figures::count(n, "core")));
    about.push(record.started.clone());
    let mut out =
        format!("<header><h1>Benchmark report</h1><p>{}</p></header>\n", escape(&about.join(" · ")));
    if record.partial {
        out.push_str("<p class=\"banner\"><b>Interrupted.</b> The figures are valid but incomplete.</p>\n");
    }
    if record.program.debug_build {
        out.push_str(
            "<p class=\"banner\"><b>Debug build.</b> Its figures do not apply to a release build.</p>\n",
        );
    }
    if !subjects_ran(record) {
        out.push_str(
            "<p class=\"banner\">No real backend has figures: the page shows the harness alone.</p>\n",
        );
    }
    out
}

fn subjects_ran(record: &Record) -> bool {
    figures::good(record).next().is_some()
}

/// The key figures at the top.
fn tiles(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let mut tiles: Vec<(String, &str, String)> = Vec::new();
    for group in groups(record).iter().take(2) {
        let what = format!("fastest: {}", rank_name(group[0]));
        tiles.push((figure(group[0].score_tps), "tokens/s", what));
    }
    let real = || subjects.iter().filter(|s| !s.synthetic);
    let cells = || real().flat_map(|s| s.cells.iter().map(move |c| (s, c)));
    let soonest = cells().filter_map(|(s, c)| Some((c.ttft_ms.as_ref()?.median, s, c)));
    if let Some((ms, s, c)) = soonest.min_by(|a, b| a.0.total_cmp(&b.0)) {
        tiles.push((figure(ms), "ms", format!("lowest TTFT: {}, {}", s.name, c.scenario)));
    }
    let nearest = cells().filter_map(|(s, c)| Some((c.decode_share.as_ref()?.median, s)));
    if let Some((share, s)) = nearest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        tiles.push((
            format!("{:.0}", 100.0 * share),
            "%",
            format!("of the memory bandwidth in decode: {}", s.name),
        ));
    }
    let least = real().filter_map(|s| Some((s.peak_mb()?, s)));
    if let Some((mb, s)) = least.min_by(|a, b| a.0.total_cmp(&b.0)) {
        tiles.push((figure(mb), "MiB", format!("least memory: {}", s.name)));
    }
    let good = record.rows.iter().filter(|r| r.status == Status::Ok).count();
    tiles.push((
        format!("{good}"),
        "",
        format!("of {} have figures", figures::count(record.rows.len(), "run")),
    ));
    if let Some(o) = &record.overhead {
        tiles.push((figure(o.per_token_us), "µs", "harness overhead per token (mock)".into()));
    }
    let tiles = tiles.iter().map(|(value, unit, what)| {
        format!("<div class=\"tile\"><b>{value} <small>{unit}</small></b><span>{}</span></div>", escape(what))
    });
    format!("<div class=\"tiles\">{}</div>\n", tiles.collect::<String>())
}

/// The roofline and the gaps between tokens.
fn side_by_side(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let roofline = plots::roofline(record, subjects).map(|plot| {
        let note = "Circles: decode, squares: prefill (weights counted as read once a prompt). The roofs are this machine's \
                    measured peaks; a point on its roof can't get faster on this machine.";
        card(&format!("<h3>Roofline</h3>{plot}{}", note_of(note)))
    });
    let gaps = plots::gaps(record, subjects).map(|plot| {
        let note = "All good runs of all scenarios. Marks: 50th, 90th and 99th percentile.";
        card(&format!("<h3>Time between tokens</h3>{plot}{}", note_of(note)))
    });
    let cards: String = [roofline, gaps].into_iter().flatten().collect();
    if cards.is_empty() { cards } else { format!("<div class=\"grid\">{cards}</div>") }
}

fn time_lines(record: &Record, subjects: &[SubjectFigures<'_>]) -> String {
    let plots: String = record
        .config
        .work
        .iter()
        .filter_map(|w| Some((w.name(), plots::time_lines(record, subjects, &w.name())?)))
        .map(|(name, plot)| format!("<div class=\"card\"><h3>{}</h3>{plot}</div>", escape(&name)))
        .collect();
    if plots.is_empty() {
        return String::new();
    }
    let shown = legend(subjects.iter().filter(|s| !s.synthetic && s.measured()));
    format!("{shown}<div class=\"grid\">{plots}</div>")
}

fn machine(record: &Record) -> String {
    let facts: String = findings::machine(record)
        .iter()
        .map(|(label, value)| format!("<dt>{label}</dt><dd>{}</dd>", escape(value)))
        .collect();
    let files: Vec<String> = record
        .models
        .iter()
        .flat_map(|m| &m.files)
        .map(|f| format!("{}: {} bytes, sha256 {}", f.name, f.bytes, f.sha256))
        .collect();
    let mut files_once: Vec<String> = Vec::new();
    for file in files {
        if !files_once.contains(&file) {
            files_once.push(file);
        }
    }
    let files = if files_once.is_empty() {
        String::new()
    } else {
        format!("<h3>Model files</h3>{}", list(&files_once))
    };
    card(&format!("<dl>{facts}</dl>{files}"))
}
