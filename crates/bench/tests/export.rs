//! Tables, CSV and sentences from fixed figures, compared with snapshots.

use std::collections::BTreeMap;
use std::time::Duration;
use zonda_bench::ceilings::Ceilings;
use zonda_bench::clock::TimeLine;
use zonda_bench::machine::Machine;
use zonda_bench::record::*;
use zonda_bench::stats::Verdict;
use zonda_bench::warning::Warning;
use zonda_bench::{BenchConfig, Record, Scenario, Subject, Work, export, recommend, row, summary};
use zonda_engine::forward::BackendInfo;

fn subject(backend: &str, format: Option<&str>) -> Subject {
    Subject {
        backend: backend.into(),
        model: if backend == "mock" { "mock".into() } else { "smollm2-135m".into() },
        path: None,
        format: format.map(str::to_owned),
        synthetic: backend == "mock",
        options: BTreeMap::new(),
    }
}

fn load(backend: &str, weights: &str, load_ms: f64) -> LoadReport {
    LoadReport {
        backend: BackendInfo {
            name: backend.into(),
            version: "0.1.0".into(),
            device: "cpu".into(),
            isa: "avx512".into(),
            threads: 2,
            weights: weights.into(),
            kv_type: "f16".into(),
        },
        shape: "30 layers, width 576".into(),
        context: 2048,
        has_tokenizer: true,
        load_ms,
        facts: None,
        kept_to: None,
        not_kept: None,
        usage: ProcessUsage::default(),
    }
}

/// A run of `n` tokens: the first after `ttft`, then one each `tpt` microseconds.
fn report(prompt_tokens: usize, n: usize, ttft: u64, tpt: u64, peak_mb: u64) -> RunReport {
    let mut timeline = TimeLine::new();
    for i in 0..n as u64 {
        timeline.push(Duration::from_micros(ttft + i * tpt), 1).unwrap();
    }
    RunReport {
        timeline,
        prompt_tokens,
        cached_tokens: 0,
        prefill_ms: ttft as f64 / 1e3 - 1.0,
        finish_reason: "length".into(),
        prompt_sha256: format!("{prompt_tokens:064x}"),
        ids: vec![7; n],
        text: "word".repeat(n),
        usage: ProcessUsage { peak_rss: Some(peak_mb << 20), ..ProcessUsage::default() },
    }
}

/// Two real subjects and the mock on two scenarios, two runs each; the second subject crashed in `long`.
fn record() -> Record {
    let work: Vec<Work> = Scenario::builtin()
        .into_iter()
        .filter(|s| s.name == "short" || s.name == "long")
        .map(Work::Scenario)
        .collect();
    let subjects =
        vec![subject("native", Some("gguf")), subject("native", Some("safetensors")), subject("mock", None)];
    let config = BenchConfig { subjects, work, ..BenchConfig::default() };
    let loads = [load("native", "q4_1", 85.25), load("native", "f32", 410.0), load("mock", "", 0.5)];
    let mut processes = Vec::new();
    let mut rows = Vec::new();
    for run in 1..=2 {
        for (subject, loaded) in loads.iter().enumerate() {
            let file_cached = (subject < 2).then_some(if run == 1 { 0.0 } else { 1.0 });
            let load = LoadReport { load_ms: loaded.load_ms / run as f64, ..loaded.clone() };
            for (work, prompt, n) in [(0, 48, 20), (1, 1472, 200)] {
                let row = |status| row::empty(&config, Some(&load), subject, work, run, status);
                let order = Some(rows.len() + 1);
                let mut row = match (subject, work, run) {
                    (1, 1, 1) => row(Status::Failed("the process was killed from outside (signal 9)".into())),
                    (1, 1, 2) => row(Status::NotRun("it failed in run 1: killed".into())),
                    _ => {
                        let (ttft, tpt, peak) = [(400, 5_000, 170), (900, 17_500, 560), (1, 2, 12)][subject];
                        let ttft = ttft * prompt as u64 + run as u64 * 100;
                        row::filled(row(Status::Ok), report(prompt, n, ttft, tpt + run as u64, peak), false)
                    }
                };
                row.order = order;
                rows.push(row);
            }
            processes.push(Process {
                subject,
                run,
                load: Some(load),
                ready_ms: None,
                first_token_ms: None,
                file_cached,
                warmup: Vec::new(),
            });
        }
    }
    let cells = summary::cells(&config, &rows);
    let ranking = summary::ranking(&config, &cells, &processes, &rows);
    Record {
        schema_version: SCHEMA_VERSION,
        program: Program {
            name: "zonda-bench".into(),
            version: "0.1.0".into(),
            sha256: None,
            debug_build: false,
        },
        started: "2026-11-23T18:00:00Z".into(),
        finished: "2026-11-23T18:01:00Z".into(),
        partial: false,
        machine: Machine::default(),
        ceilings: Ceilings::default(),
        conditions: Conditions::default(),
        agreement: Vec::new(),
        unranked: Vec::new(),
        models: Vec::new(),
        recommendation: recommend::recommendation(&cells, &ranking, &config),
        overhead: summary::overhead(&cells),
        summary: cells,
        ranking,
        processes,
        rows,
        config,
        warnings: vec![Warning::HighLoad { load1: 1.5, cores: 2 }.into()],
    }
}

#[test]
fn the_terminals_table() {
    insta::assert_snapshot!("table_120", export::render_table(&record(), 120, false));
    insta::assert_snapshot!("table_80", export::render_table(&record(), 80, false));
}

#[test]
fn colour_only_where_asked_for() {
    assert!(!export::render_table(&record(), 120, false).contains('\x1b'));
    assert!(export::render_table(&record(), 120, true).contains("\x1b[1m"));
}

#[test]
fn the_csv() {
    insta::assert_snapshot!("csv", export::csv::to_string(&record()).unwrap());
}

#[test]
fn a_missing_figure_is_an_empty_cell_and_never_zero() {
    let text = export::csv::to_string(&record()).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), export::csv::COLUMNS);
    let mut failed = 0;
    for line in reader.records() {
        let line = line.unwrap();
        let cell = |name: &str| {
            let at = export::csv::COLUMNS.iter().position(|c| *c == name).unwrap();
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
        record.ranking.iter().map(|r| (r.rank, r.format.as_deref(), r.scenarios.join(","))).collect();
    assert_eq!(ranks, [(1, Some("gguf"), "short".into()), (2, Some("safetensors"), "short".into())]);
    let gguf = 20.0 / (0.0193 + 19.0 * 0.005001);
    assert!((record.ranking[0].score_tps / gguf - 1.0).abs() < 0.01, "{}", record.ranking[0].score_tps);
    insta::assert_snapshot!("recommendation", record.recommendation.join("\n"));
}

/// Scores within 2% are a tie, and the sentence says so.
#[test]
fn a_tie_is_called_a_tie() {
    let mut record = record();
    for row in record.rows.iter_mut().filter(|r| r.subject == 1 && r.status == Status::Ok) {
        let order = row.order;
        *row = row::filled(
            row::empty(&record.config, None, 1, 0, row.run, Status::Ok),
            report(48, 20, 19_300, 5_040, 560),
            false,
        );
        row.order = order;
    }
    let cells = summary::cells(&record.config, &record.rows);
    let ranking = summary::ranking(&record.config, &cells, &record.processes, &record.rows);
    assert_eq!(ranking[1].verdict, Some(Verdict::Tie), "{ranking:?}");
    let said = recommend::recommendation(&cells, &ranking, &record.config).join(" ");
    assert!(said.contains("no difference that matters"), "{said}");
}

/// An outlier is marked, warned of, and still counted.
#[test]
fn an_outlier_is_marked_and_counted() {
    let record = record();
    let mut rows: Vec<Row> = (1..=6)
        .map(|run| {
            let tpt = if run == 4 { 9_000 } else { 5_000 + run as u64 * 10 };
            let row = row::empty(&record.config, None, 0, 0, run, Status::Ok);
            row::filled(row, report(48, 20, 19_300, tpt, 170), false)
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

/// Two forms of one model have to get the same ids; where they don't, it is said once a scenario.
#[test]
fn different_ids_for_the_same_model_are_warned_of() {
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
