//! The reports: Markdown is compared with a snapshot, HTML checked by its structure. They cover complete, interrupted and
//! failed experiments, the mock alone, and a single run.

mod fixture;

use fixture::record;
use zonda_bench::analyse::{recommend, summary};
use zonda_bench::record::*;
use zonda_bench::record::{Arithmetic, ModelCost};
use zonda_bench::record::{Peaks, Rate, Roofline};
use zonda_bench::{Record, report};

/// Adds the peaks of a machine and the cost of a token.
fn with_ceilings(mut record: Record) -> Record {
    let rate = |all| Rate { one_core: all / 2.0, all_threads: all };
    let peaks = Peaks {
        threads: 2,
        instruction_set: "avx512".into(),
        read_bytes_per_s: rate(70e9),
        read_large_bytes_per_s: None,
        int8_ops_per_s: rate(2e12),
        bf16_ops_per_s: None,
        f32_ops_per_s: rate(5e11),
    };
    record.roofline = Roofline { before: Some(peaks), ..Roofline::default() };
    let cost = ModelCost {
        parameters: 134_515_008,
        prefill_parameters: 106_168_320,
        decode_parameters: 134_479_872,
        decode_bytes: 96_436_224,
        kv_bytes: 23_040,
        arithmetic: Arithmetic::Int8,
    };
    for process in record.processes.iter_mut().filter(|p| p.subject != 2) {
        process.load.as_mut().expect("loaded").cost = Some(cost);
    }
    record
}

/// The same with only some of its rows.
fn only(mut record: Record, keep: impl Fn(&Row) -> bool) -> Record {
    record.rows.retain(|row| keep(row));
    record.summary = summary::cells(&record.config, &record.rows);
    record.ranking = summary::ranking(&record.config, &record.summary, &record.processes, &record.rows);
    record.overhead = summary::overhead(&record.summary);
    record.recommendation =
        recommend::recommendation(&record.summary, &record.ranking, &record.quality, &record.config);
    record
}

/// Every kind of record that a report must handle.
fn all() -> Vec<(&'static str, Record)> {
    let mut partial = with_ceilings(only(record(), |r| r.run == 1 && r.subject == 0));
    partial.partial = true;
    vec![
        ("whole", with_ceilings(record())),
        ("no ceilings", record()),
        ("partial", partial),
        ("one run", only(record(), |r| r.run == 1)),
        ("mock alone", only(record(), |r| r.synthetic)),
        ("failed", only(record(), |r| r.status != Status::Ok)),
        ("nothing", only(record(), |_| false)),
    ]
}

#[test]
fn the_markdown_matches_its_snapshot() {
    insta::assert_snapshot!("markdown", report::markdown::to_string(&with_ceilings(record())));
}

/// Tags without a closing tag.
fn is_void(tag: &str) -> bool {
    matches!(tag, "meta" | "br" | "!doctype")
}

/// Checks that every open tag is closed in order. Returns the number of tags.
fn well_formed(html: &str) -> usize {
    let (mut open, mut count) = (Vec::new(), 0);
    // The content of scripts and styles is not markup.
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        count += 1;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.to_owned()), "closed before {rest:.60}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
        if name == "script" || name == "style" {
            let close = rest.find(&format!("</{name}>")).expect("a script that ends");
            rest = &rest[close..];
        }
        if !is_void(&name) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<String>::new());
    count
}

#[test]
fn every_html_is_well_formed_and_loads_nothing() {
    for (what, record) in all() {
        let html = report::html::to_string(&record);
        assert!(well_formed(&html) > 100, "{what}");
        let page = html.split("<script>").next().expect("a page");
        for forbidden in ["http://", "https://", "src=", "href=", "url(", "@import", "NaN", "inf%"] {
            assert!(!page.contains(forbidden), "{what}: {forbidden}");
        }
        assert!(html.contains("default-src 'none'"), "{what}");
        let markdown = report::markdown::to_string(&record);
        assert!(!markdown.contains("NaN") && markdown.starts_with("# Benchmark report"), "{what}");
    }
}

#[test]
fn plots_are_shown_if_their_figures_are_known() {
    let html = report::html::to_string(&with_ceilings(record()));
    for heading in [
        "<h3>Roofline</h3>",
        "<h3>Time between tokens</h3>",
        "<h2>Timeline of each run</h2>",
        "<h2>Memory</h2>",
    ] {
        assert!(html.contains(heading), "{heading}");
    }
    // Circles are decode rates: two scenarios of the first subject, one of the second.
    assert_eq!((html.matches("<circle").count(), html.matches("<rect").count()), (3, 3));
    let bare = report::html::to_string(&record());
    assert!(!bare.contains("Roofline"));
    let mock = report::html::to_string(&only(record(), |r| r.synthetic));
    assert!(mock.contains("the harness alone") && !mock.contains("<h2>Ranking</h2>"));
}

/// Names and messages from outside are shown as text, whatever they contain.
#[test]
fn hostile_text_stays_text() {
    let evil = "<script>alert(\"x\")</script>'\u{1b}[31m|`x`";
    let mut record = with_ceilings(record());
    record.config.subjects[0].model = evil.into();
    record.config.subjects[1].backend = evil.into();
    for row in &mut record.rows {
        if let Status::Failed(why) = &mut row.status {
            *why = evil.into();
        }
        row.text = evil.into();
        row.finish_reason = row.finish_reason.as_ref().map(|_| evil.into());
    }
    record.machine.cpu = Some(evil.into());
    record.warnings[0].message = evil.into();
    let record = only(record, |_| true);
    let html = report::html::to_string(&record);
    well_formed(&html);
    assert_eq!(html.matches("<script>").count(), 1, "ours alone");
    assert!(html.contains("&lt;script&gt;") && !html.contains('\u{1b}'));
    let markdown = report::markdown::to_string(&record);
    assert!(!markdown.contains("<script") && !markdown.contains('\u{1b}'));
}
