//! Comparing records, tested on a fake clock: runs of known true speed with seeded noise.

use std::collections::BTreeMap;
use std::time::Duration;
use zonda_bench::analyse::compare::{CompareError, Comparison, Metric, Options, compare, within};
use zonda_bench::analyse::summary;
use zonda_bench::eval::bounds::bound;
use zonda_bench::experiment::row;
use zonda_bench::machine::Machine;
use zonda_bench::record::GateResult;
use zonda_bench::record::TimeLine;
use zonda_bench::record::Verdict;
use zonda_bench::record::*;
use zonda_bench::rng::Rng;
use zonda_bench::{BenchConfig, Record, Scenario, Subject, Work, report};

/// The noise of each run, and the drift shared by all runs of a block.
const NOISE: f64 = 0.03;
const DRIFT: f64 = 0.05;

/// A normal deviate (Box and Muller).
fn normal(rng: &mut Rng) -> f64 {
    let mut uniform = || (rng.bits() >> 11) as f64 / (1u64 << 53) as f64;
    let (u, v) = (1.0 - uniform(), uniform());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn subject(backend: &str) -> Subject {
    Subject {
        backend: backend.into(),
        model: "m".into(),
        path: None,
        format: Some("gguf".into()),
        synthetic: backend == "mock",
        options: BTreeMap::new(),
    }
}

/// An experiment on the fake clock: `runs` blocks of `scenarios`, each subject's times `slower` times the usual.
fn experiment(subjects: &[(&str, f64)], scenarios: usize, runs: usize, drift: f64, rng: &mut Rng) -> Record {
    let work = Scenario::builtin().into_iter().take(scenarios).map(Work::Scenario).collect();
    let config = BenchConfig {
        subjects: subjects.iter().map(|(name, _)| subject(name)).collect(),
        work,
        ..BenchConfig::default()
    };
    let mut rows = Vec::new();
    for run in 1..=runs {
        let shared = drift * normal(rng);
        for (s, (_, slower)) in subjects.iter().enumerate() {
            for w in 0..scenarios {
                let mut time = |ms: f64| ms * slower * (shared + NOISE * normal(rng)).exp();
                let (ttft, tpt) = (time(40.0), time(10.0));
                let mut row =
                    row::filled(row::empty(&config, None, s, w, run, Status::Ok), report(ttft, tpt), false);
                row.order = Some(rows.len() + 1);
                rows.push(row);
            }
        }
    }
    let cells = summary::cells(&config, &rows);
    Record {
        schema_version: SCHEMA_VERSION,
        program: Program { name: "t".into(), version: "0".into(), sha256: None, debug_build: false },
        started: String::new(),
        finished: String::new(),
        partial: false,
        machine: Machine::default(),
        roofline: Default::default(),
        conditions: Conditions::default(),
        config,
        models: Vec::new(),
        agreement: Vec::new(),
        quality: Vec::new(),
        processes: Vec::new(),
        rows,
        summary: cells,
        ranking: Vec::new(),
        unranked: Vec::new(),
        overhead: None,
        recommendation: Vec::new(),
        warnings: Vec::new(),
    }
}

/// 16 tokens: the first after `ttft` ms, then one every `tpt` ms.
fn report(ttft: f64, tpt: f64) -> RunReport {
    let mut timeline = TimeLine::new();
    for i in 0..16 {
        timeline.push(Duration::from_secs_f64((ttft + f64::from(i) * tpt) / 1e3), 1).unwrap();
    }
    RunReport {
        drafted_tokens: 0,
        accepted_tokens: 0,
        timeline,
        prompt_tokens: 40,
        cached_tokens: 0,
        prefill_ms: ttft,
        finish_reason: "length".into(),
        prompt_sha256: String::new(),
        ids: vec![1; 16],
        text: String::new(),
        usage: ProcessUsage::default(),
    }
}

fn two(runs: usize, scenarios: usize, slower: f64, rng: &mut Rng) -> Comparison {
    let a = experiment(&[("x", 1.0)], scenarios, runs, 0.0, rng);
    let b = experiment(&[("x", slower)], scenarios, runs, 0.0, rng);
    compare(&a, &b, &Options::default()).unwrap()
}

fn called(comparison: &Comparison, metric: Metric) -> Verdict {
    comparison.rows.iter().find(|r| r.metric == metric).unwrap().verdict
}

#[test]
fn few_of_a_thousand_comparisons_of_equal_sides_are_called_different() {
    let mut rng = Rng::new(1, 1);
    for runs in [3, 5, 10] {
        for metric in [Metric::Throughput, Metric::PrefillTps] {
            let verdicts = (0..1000).map(|_| called(&two(runs, 1, 1.0, &mut rng), metric));
            let different = verdicts.filter(|v| matches!(v, Verdict::Less | Verdict::More)).count();
            println!(
                "the same, {runs} runs on either side, {}: {different} of 1000 called different",
                metric.name()
            );
            assert!(different <= 60, "{runs} runs: {different} of 1000 called different");
        }
    }
}

/// Twelve blocks, as the documentation recommends, because a pair gives one value where two records give two.
#[test]
fn pairs_within_a_record_tolerate_drift() {
    let mut rng = Rng::new(2, 2);
    let mut verdict = |slower| {
        let record = experiment(&[("x", 1.0), ("y", slower)], 1, 12, DRIFT, &mut rng);
        called(&within(&record, &Options::default()).unwrap(), Metric::PrefillTps)
    };
    let different = (0..1000).filter(|_| matches!(verdict(1.0), Verdict::Less | Verdict::More)).count();
    assert!(different <= 60, "{different} of 1000 called different");
    let found = (0..1000).filter(|_| verdict(1.05) == Verdict::Less).count();
    println!("12 blocks: {different} of 1000 called different, 5% slower found in {found} of 1000");
    assert!(found >= 900, "{found} of 1000 found");
}

/// With the documented number of runs: 10 on each side.
#[test]
fn five_percent_at_three_percent_noise_is_found() {
    let mut rng = Rng::new(3, 3);
    let found =
        (0..1000).filter(|_| called(&two(10, 1, 1.05, &mut rng), Metric::PrefillTps) == Verdict::Less);
    let found = found.count();
    println!("10 runs on either side: 5% slower found in {found} of 1000");
    assert!(found >= 900, "{found} of 1000 found");
}

/// Twelve figures are tested at once, yet at most one comparison in twenty raises a false alarm.
#[test]
fn the_regression_gate_rarely_raises_false_alarms() {
    let mut rng = Rng::new(4, 4);
    let alarms = (0..1000).filter(|_| !two(5, 4, 1.0, &mut rng).regressions().is_empty()).count();
    println!("12 figures tested at once, 5 runs: {alarms} of 1000 alarms");
    assert!(alarms <= 60, "{alarms} of 1000");
    let found = (0..200).filter(|_| !two(10, 4, 1.10, &mut rng).regressions().is_empty()).count();
    assert!(found >= 198, "a slowdown of 10%: found in {found} of 200");
}

#[test]
fn a_regression_exceeds_the_allowance_and_is_significant() {
    let mut rng = Rng::new(5, 5);
    let a = experiment(&[("x", 1.0), ("mock", 1.0)], 2, 8, 0.0, &mut rng);
    let b = experiment(&[("x", 1.2), ("mock", 3.0)], 2, 8, 0.0, &mut rng);
    let regressions = |pct| {
        let options = Options { regression_pct: pct, ..Options::default() };
        compare(&a, &b, &options).unwrap().regressions()
    };
    assert_eq!(regressions(5.0).len(), 6, "three figures of two scenarios; the mock's never count");
    assert_eq!(regressions(30.0), Vec::<String>::new());
    assert!(
        regressions(5.0)[0].starts_with("x · m (gguf), short, throughput at 8"),
        "{:?}",
        regressions(5.0)
    );
}

/// The same experiment twice: the intervals of a median nearly always overlap, and the table marks where they don't.
#[test]
fn overlap_is_reported() {
    let mut rng = Rng::new(6, 6);
    let same = two(10, 4, 1.0, &mut rng);
    assert!(same.rows.iter().all(|r| r.overlap == Some(true)), "{same:?}");
    assert!(
        report::comparison::render(&same, 120, false).contains("The intervals of all 12 figures overlap.")
    );
    let other = report::comparison::render(&two(10, 1, 1.5, &mut rng), 120, false);
    assert!(
        other.contains("The intervals of 0 of 3 figures overlap; no overlap: x · m (gguf), short,"),
        "{other}"
    );
    assert!(other.contains("slower"), "{other}");
    let few = two(2, 1, 1.0, &mut rng);
    assert!(few.rows.iter().all(|r| r.overlap.is_none()), "two runs have no interval of the median");
}

#[test]
fn incomparable_records_are_refused_or_named() {
    let mut rng = Rng::new(7, 7);
    let a = experiment(&[("x", 1.0), ("y", 1.0)], 2, 3, 0.0, &mut rng);
    let refused = |b: &Record| compare(&a, b, &Options::default()).unwrap_err();
    let with = |change: fn(&mut Record)| {
        let mut b = a.clone();
        change(&mut b);
        b
    };
    let moved = with(|b| b.machine.cpu = Some("another".into()));
    assert!(matches!(refused(&moved), CompareError::Machines { .. }));
    let any = Options { any_machine: true, ..Options::default() };
    let notes = compare(&a, &moved, &any).unwrap().notes;
    assert!(notes[0].contains("B on another"), "{notes:?}");
    assert!(matches!(refused(&with(|b| b.config.natural = true)), CompareError::Ways(_)));
    assert!(matches!(refused(&with(|b| b.config.cached = true)), CompareError::Ways(_)));
    let renamed = refused(&with(|b| b.config.subjects.iter_mut().for_each(|s| s.model = "n".into())));
    assert!(renamed.to_string().contains("only A has it"), "{renamed}");

    let named = |b: &Record, what: &str, why: &str, broke: bool| {
        let missing = compare(&a, b, &Options::default()).unwrap().missing;
        let found = missing.iter().find(|m| m.what == what && m.why.contains(why));
        assert_eq!(found.map(|m| m.broke), Some(broke), "{what}, {why}: {missing:?}");
    };
    let y = "y · m (gguf)";
    named(&with(|b| b.config.subjects[1].backend = "z".into()), y, "only A has it", false);
    let files = |sum: &str| {
        let file = ModelFile { name: "m".into(), bytes: 1, sha256: sum.into(), hashed: Hashed::All };
        vec![ModelFiles { subject: 1, files: vec![file] }]
    };
    let (mut first, mut second) = (a.clone(), a.clone());
    (first.models, second.models) = (files("1"), files("2"));
    let missing = compare(&first, &second, &Options::default()).unwrap().missing;
    assert!(missing[0].why.contains("SHA-256"), "{missing:?}");
    let longer = with(|b| {
        let Work::Scenario(s) = &mut b.config.work[1] else { panic!() };
        s.max_tokens += 1;
    });
    named(&longer, &format!("{y}, medium"), "prompt or length differs", false);
    let failed = with(|b| {
        let cell = b.summary.iter_mut().find(|c| c.subject == 1).unwrap();
        (cell.runs, cell.failed, cell.why) = (0, 3, Some("failed: it crashed".into()));
    });
    named(&failed, &format!("{y}, short"), "it crashed", true);
    let wrong = with(|b| {
        b.agreement = vec![GateResult {
            subject: 1,
            reference: "reference".into(),
            tokens: 0,
            found: None,
            bound: bound("q4_0", None, "f16"),
            within: Some(false),
            why: vec!["logits are far off".into()],
            earlier: false,
        }];
    });
    named(&wrong, y, "logits are far off", true);
    let alone = experiment(&[("x", 1.0), ("mock", 1.0)], 1, 3, 0.0, &mut rng);
    assert!(matches!(within(&alone, &Options::default()), Err(CompareError::Nothing(_))));
}
