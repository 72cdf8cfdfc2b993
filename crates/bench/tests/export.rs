//! Tables, CSV and sentences made from fixed figures, compared with snapshots.

mod fixture;

use fixture::{quality, record};
use zonda_bench::analyse::{recommend, summary};
use zonda_bench::experiment::row;
use zonda_bench::record::Verdict;
use zonda_bench::record::Warning;
use zonda_bench::record::*;
use zonda_bench::report;

#[test]
fn the_table_matches_its_snapshot() {
    insta::assert_snapshot!("table_120", report::render_table(&record(), 120, false));
    insta::assert_snapshot!("table_80", report::render_table(&record(), 80, false));
}

#[test]
fn colour_only_on_request() {
    assert!(!report::render_table(&record(), 120, false).contains('\x1b'));
    assert!(report::render_table(&record(), 120, true).contains("\x1b[1m"));
}

#[test]
fn the_csv_matches_its_snapshot() {
    insta::assert_snapshot!("csv", report::csv::to_string(&record()).unwrap());
}

#[test]
fn a_missing_figure_is_an_empty_cell_and_never_zero() {
    let text = report::csv::to_string(&record()).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(
        reader.headers().unwrap().iter().collect::<Vec<_>>(),
        [&report::csv::COLUMNS[..], &report::csv::QUALITY_COLUMNS].concat()
    );
    let mut failed = 0;
    for line in reader.records() {
        let line = line.unwrap();
        let cell = |name: &str| {
            let at = report::csv::COLUMNS.iter().position(|c| *c == name).unwrap();
            line[at].to_owned()
        };
        if cell("finish_reason") != "length" {
            failed += 1;
            for figure in
                ["total_ms", "ttft_ms", "tpt_ms", "throughput", "generated", "prefill_tps", "peak_rss_mb"]
            {
                assert_eq!(cell(figure), "", "{figure}");
            }
        } else {
            let number = |name: &str| cell(name).parse::<f64>().unwrap();
            let n = number("generated");
            let total = number("ttft_ms") + (n - 1.0) * number("tpt_ms");
            assert!((total - number("total_ms")).abs() < 0.01 * number("total_ms"));
        }
    }
    assert_eq!(failed, 2);
}

#[test]
fn every_sentence_follows_from_the_figures() {
    let record = record();
    let ranks: Vec<_> =
        record.ranking.iter().map(|r| (r.rank, r.key.format.as_deref(), r.scenarios.join(","))).collect();
    assert_eq!(ranks, [(1, Some("gguf"), "short".into()), (2, Some("safetensors"), "short".into())]);
    let gguf = 20.0 / (0.0193 + 19.0 * 0.005001);
    assert!((record.ranking[0].score_tps / gguf - 1.0).abs() < 0.01, "{}", record.ranking[0].score_tps);
    insta::assert_snapshot!("recommendation", record.recommendation.join("\n"));
}

/// Scores within 2% are reported as a tie.
#[test]
fn close_scores_are_reported_as_a_tie() {
    let mut record = record();
    for row in record.rows.iter_mut().filter(|r| r.subject == 1 && r.status == Status::Ok) {
        let order = row.order;
        *row = row::filled(
            row::empty(&record.config, None, 1, 0, row.run, Status::Ok),
            fixture::report(48, 20, 19_300, 5_040, 560),
            false,
        );
        row.order = order;
    }
    let cells = summary::cells(&record.config, &record.rows);
    let ranking = summary::ranking(&record.config, &cells, &record.processes, &record.rows);
    assert_eq!(ranking[1].verdict, Some(Verdict::Tie), "{ranking:?}");
    let said = recommend::recommendation(&cells, &ranking, &[], &record.config).join(" ");
    assert!(said.contains("no relevant difference"), "{said}");
}

/// The quality loss of the fastest subject is reported only if two perplexities are known.
#[test]
fn the_quality_cost_of_speed_is_reported() {
    let record = record();
    let said = |of: &[(usize, Option<f64>)]| {
        let quality: Vec<_> = of.iter().map(|&(subject, ppl)| quality(subject, ppl)).collect();
        recommend::recommendation(&record.summary, &record.ranking, &quality, &record.config).join(" ")
    };
    assert_eq!(record.ranking[0].subject, 0, "the fastest");
    let costs = said(&[(0, Some(20.6)), (1, Some(20.0))]);
    assert!(costs.contains("on novel.txt") && costs.contains("20.60, 3.0% above the 20.00 of"), "{costs}");
    let fine = said(&[(0, Some(20.05)), (1, Some(20.0))]);
    assert!(fine.contains("no loss of quality") && fine.contains("is 20.05, the lowest 20.00"), "{fine}");
    for unknown in [&[(0, Some(20.6))][..], &[(0, None), (1, Some(20.0))], &[]] {
        let said = said(unknown);
        assert!(!said.contains("perplexity"), "{said}");
    }
}

/// An outlier is marked, causes a warning, and still counts.
#[test]
fn an_outlier_is_marked_and_still_counts() {
    let record = record();
    let mut rows: Vec<Row> = (1..=6)
        .map(|run| {
            let tpt = if run == 4 { 9_000 } else { 5_000 + run as u64 * 10 };
            let row = row::empty(&record.config, None, 0, 0, run, Status::Ok);
            row::filled(row, fixture::report(48, 20, 19_300, tpt, 170), false)
        })
        .collect();
    let warnings = summary::warnings(&record.config, &record.processes, &mut rows);
    assert_eq!(rows.iter().map(|r| r.outlier).collect::<Vec<_>>(), [false, false, false, true, false, false]);
    assert!(
        warnings.iter().any(|w| matches!(w, Warning::Outlier { run: 4, times, .. } if *times < 0.7)),
        "{warnings:?}"
    );
    let cells = summary::cells(&record.config, &rows);
    assert_eq!(cells[0].runs, 6);
    assert!(cells[0].tpt_ms.as_ref().unwrap().max > 8.9);
}

/// Two forms of one model must get the same ids; otherwise one warning per scenario is given.
#[test]
fn different_ids_for_the_same_model_cause_a_warning() {
    let mut record = record();
    let warnings = |rows: &mut Vec<Row>| {
        let all = summary::warnings(&record.config, &record.processes, rows);
        all.into_iter().filter(|w| matches!(w, Warning::SameModelDifferentIds { .. })).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&mut record.rows), []);
    for row in record.rows.iter_mut().filter(|r| r.subject == 1 && r.prompt_sha256.is_some()) {
        row.prompt_sha256 = Some("f".repeat(64));
    }
    let expected = Warning::SameModelDifferentIds {
        scenario: "short".into(),
        first: "native · smollm2-135m (gguf)".into(),
        second: "native · smollm2-135m (safetensors)".into(),
    };
    assert_eq!(warnings(&mut record.rows), [expected]);
}

/// Unequal prompt lengths cause a warning only among models that are ranked together.
#[test]
fn unequal_prompts_are_reported_per_shape() {
    let unequal = |shape: &str| {
        let mut record = record();
        for process in record.processes.iter_mut().filter(|p| p.subject == 1) {
            process.load.as_mut().unwrap().shape = shape.to_owned();
        }
        for row in record.rows.iter_mut().filter(|r| r.subject == 1) {
            row.prompt_tokens = row.prompt_tokens.map(|n| n + 1);
        }
        let warnings = summary::warnings(&record.config, &record.processes, &mut record.rows);
        warnings.iter().filter(|w| matches!(w, Warning::UnequalPrompts { .. })).count()
    };
    assert_eq!((unequal("30 layers, width 576"), unequal("2 layers, width 64")), (1, 0));
}
