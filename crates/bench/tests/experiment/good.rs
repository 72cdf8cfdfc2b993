//! Experiments without failures.

use super::{config, mock, run, subject};
use std::collections::{BTreeMap, HashSet};
use zonda_bench::record::Warning;
use zonda_bench::record::{Row, Status};
use zonda_bench::{BenchConfig, Record, Runs, Scenario, Work};

pub const TESTS: &[(&str, fn())] = &[
    ("everything_in_the_plan_is_measured", everything_in_the_plan_is_measured),
    ("backends_are_interleaved", backends_are_interleaved),
    ("the_mock_is_never_ranked", the_mock_is_never_ranked),
    ("natural_lets_the_model_end_answers", natural_lets_the_model_end_answers),
    ("cached_prompt_tokens_are_not_computed", cached_prompt_tokens_are_not_computed),
    ("pp_and_tg_are_measured_without_scenarios", pp_and_tg_are_measured_without_scenarios),
    ("without_a_tokenizer_prompts_are_random_ids", without_a_tokenizer_prompts_are_random_ids),
    ("until_ci_ends_once_the_intervals_are_narrow", until_ci_ends_once_the_intervals_are_narrow),
    ("a_record_round_trips_through_json", a_record_round_trips_through_json),
];

/// Short scenarios.
fn quick(subjects: Vec<zonda_bench::Subject>) -> BenchConfig {
    let work = Scenario::builtin().into_iter().filter(|s| s.name != "long").map(Work::Scenario).collect();
    BenchConfig { work, ..config(subjects) }
}

fn everything_in_the_plan_is_measured() {
    let record = run(config(vec![subject("a", ""), mock()]));
    assert!(!record.partial);
    assert_eq!(record.rows.len(), 2 * 4 * 2);
    let orders: Vec<_> = record.rows.iter().map(|r| r.order).collect();
    assert_eq!(orders, (1..=16).map(Some).collect::<Vec<_>>());
    for row in &record.rows {
        assert_eq!(row.status, Status::Ok, "{row:?}");
        assert_eq!(row.generated, Some(row.tokens), "end-of-sequence is ignored");
        assert_eq!(row.finish_reason.as_deref(), Some("length"));
        assert_eq!(row.cached_tokens, Some(0), "the prefix cache is off");
        assert_eq!(row.ids.len(), row.tokens);
        assert!(!row.text.is_empty());
        let (total, ttft, tpt) = (row.total_ms.unwrap(), row.ttft_ms.unwrap(), row.tpt_ms.unwrap());
        let n = row.tokens as f64;
        assert!((ttft + (n - 1.0) * tpt - total).abs() < 1e-6, "{row:?}");
        assert!((row.throughput.unwrap() - n / total * 1e3).abs() < 1e-6);
        assert!((row.decode_tps.unwrap() * tpt - 1e3).abs() < 1e-6);
        assert!(row.prefill_tps.unwrap() > 0.0 && row.load_ms.unwrap() > 0.0);
    }
    // Greedy decoding of the same prompt: every run of a scenario gives the same tokens.
    let mut answers: BTreeMap<&str, HashSet<&[u32]>> = BTreeMap::new();
    for row in &record.rows {
        answers.entry(&row.scenario).or_default().insert(&row.ids);
    }
    assert!(answers.values().all(|a| a.len() == 1));
    for process in &record.processes {
        assert!(process.load.is_some());
        assert!(process.warmup.len() >= 3, "a prefill and at least two short answers: {process:?}");
        assert_eq!(process.warmup[0].prompt_tokens, 512);
    }
    assert!(!record.warnings.iter().any(|w| matches!(w.warning, Warning::UnequalPrompts { .. })));
    for cell in &record.summary {
        assert_eq!((cell.runs, cell.failed), (2, 0));
    }
}

fn backends_are_interleaved() {
    let subjects: Vec<_> = ["a", "b", "c"].map(|name| subject(name, "")).into();
    let mut c = quick(subjects);
    c.runs = Runs::Fixed(3);
    let record = run(c);
    let order: Vec<usize> = record.processes.iter().map(|p| p.subject).collect();
    assert_eq!(order.len(), 9, "one process for each subject in each block");
    for block in order.chunks(3) {
        let mut subjects = block.to_vec();
        subjects.sort_unstable();
        assert_eq!(subjects, [0, 1, 2]);
    }
    let runs: Vec<usize> = record.rows.iter().map(|r| r.run).collect();
    assert!(runs.is_sorted(), "a block ends before the next begins: {runs:?}");
    let scenarios: HashSet<Vec<&str>> =
        record.rows.chunks(3).map(|v| v.iter().map(|r| r.scenario.as_str()).collect()).collect();
    assert!(scenarios.len() > 1, "the order of scenarios changes too");
}

fn the_mock_is_never_ranked() {
    let record = run(quick(vec![mock(), subject("a", "")]));
    assert!(record.rows.iter().all(|r| r.synthetic == (r.key.name.backend == "mock")));
    assert_eq!(record.ranking.iter().map(|r| r.key.name.backend.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(record.overhead.as_ref().is_some_and(|o| o.per_token_us > 0.0 && o.runs == 6));
    assert!(record.recommendation.iter().all(|s| !s.contains("mock")));

    let alone = run(quick(vec![mock()]));
    assert!(alone.ranking.is_empty());
    assert!(alone.recommendation[0].contains("nothing to recommend"));
}

fn natural_lets_the_model_end_answers() {
    let record = run(BenchConfig { natural: true, ..quick(vec![subject("a", "")]) });
    let stopped = |r: &Row| r.finish_reason.as_deref() == Some("stop") && r.generated.unwrap() < r.tokens;
    assert!(record.rows.iter().all(|r| r.status == Status::Ok));
    assert!(record.rows.iter().any(stopped), "the mock wants to end about every 64 tokens");
}

fn cached_prompt_tokens_are_not_computed() {
    let record = run(BenchConfig { cached: true, ..quick(vec![subject("a", "")]) });
    for row in &record.rows {
        let (cached, all) = (row.cached_tokens.unwrap(), row.prompt_tokens.unwrap());
        assert!(cached > all / 2 && cached < all, "{cached} of {all}");
    }
}

fn pp_and_tg_are_measured_without_scenarios() {
    let work = vec![Work::Prompt(64), Work::Generate(32)];
    for option in ["", "no tokenizer"] {
        let record = run(BenchConfig { work: work.clone(), ..config(vec![subject("a", option)]) });
        assert_eq!(record.rows.len(), 4);
        for row in &record.rows {
            assert_eq!(row.status, Status::Ok);
            match row.scenario.as_str() {
                "pp64" => {
                    assert_eq!((row.prompt_tokens, row.generated), (Some(64), Some(1)));
                    assert_eq!((row.throughput, row.tpt_ms, row.decode_tps), (None, None, None));
                    assert_eq!(row.headline(), row.prefill_tps);
                }
                "tg32" => {
                    assert_eq!((row.prompt_tokens, row.generated), (Some(1), Some(32)));
                    assert_eq!(row.headline(), row.throughput);
                }
                other => panic!("{other}"),
            }
        }
        assert!(!record.warnings.iter().any(|w| matches!(w.warning, Warning::RandomPrompt { .. })));
    }
}

fn without_a_tokenizer_prompts_are_random_ids() {
    let record = run(quick(vec![subject("with", ""), subject("without", "no tokenizer")]));
    let has = |test: fn(&Warning) -> bool| record.warnings.iter().any(|w| test(&w.warning));
    assert!(has(|w| matches!(w, Warning::RandomPrompt { subject } if subject.starts_with("without"))));
    assert!(has(|w| matches!(w, Warning::UnequalPrompts { .. })));
    assert!(
        !has(|w| matches!(w, Warning::SameModelDifferentIds { .. })),
        "random ids are expected to differ"
    );
    let nominal: BTreeMap<String, usize> =
        Scenario::builtin().into_iter().map(|s| (s.name, s.nominal_prompt_tokens)).collect();
    for row in record.rows.iter().filter(|r| r.key.name.backend == "without") {
        assert_eq!(row.prompt_tokens, Some(nominal[&row.scenario]));
        assert!(row.text.is_empty());
    }
}

fn until_ci_ends_once_the_intervals_are_narrow() {
    let rows = |pct, max| {
        let runs = Runs::UntilCi { pct, min: 3, max };
        let work = vec![Work::Generate(16)];
        run(BenchConfig { runs, work, ..config(vec![subject("a", "")]) }).rows.len()
    };
    assert!(rows(99.9, 40) < 40, "almost any interval is within ±99.9%");
    assert_eq!(rows(1e-9, 5), 5, "no interval is within ±1e-9%");
}

fn a_record_round_trips_through_json() {
    let record = run(quick(vec![subject("a", ""), subject("b", "load error"), mock()]));
    let dir = tempfile::tempdir().unwrap();
    let paths = zonda_bench::write_all(dir.path(), &record).unwrap();
    let names: Vec<_> = paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["results.csv", "results.json", "report.md", "report.html"]);
    let text = std::fs::read_to_string(&paths[1]).unwrap();
    assert!(serde_json::from_str::<Record>(&text).unwrap() == record, "what is read is not what was written");

    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["machine", "config", "rows", "summary", "ranking", "warnings"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["synthetic"] == true && r["backend"] == "mock"));
    let failed =
        rows.iter().find(|r| r["outcome"] == "failed" || r["status"]["outcome"] == "failed").unwrap();
    assert!(failed["total_ms"].is_null() && failed["throughput"].is_null());
    let good = rows.iter().find(|r| r["timeline"].is_array()).unwrap();
    assert_eq!(good["timeline"].as_array().unwrap().len(), good["generated"].as_u64().unwrap() as usize);
    assert!(json["warnings"].as_array().unwrap().iter().all(|w| w["message"].is_string()));

    let csv = std::fs::read_to_string(&paths[0]).unwrap();
    assert_eq!(csv.lines().count(), 1 + record.rows.len());
    assert!(csv.starts_with(
        "backend,scenario,tokens,run,total_ms,ttft_ms,tpt_ms,throughput,generated,model,format,"
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), paths.len(), "no half-written file is left");
}
