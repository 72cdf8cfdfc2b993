//! Experiments with the equivalence gate and the machine's peaks: a backend that computes wrongly is measured but not ranked.

use super::{StopAfter, config, mock, run, run_with, subject};
use zonda_bench::record::Warning;
use zonda_bench::record::{Record, Row, Status};
use zonda_bench::{BenchConfig, Subject, Work};

pub const TESTS: &[(&str, fn())] = &[
    ("a_fast_but_wrong_backend_is_shown_as_wrong", a_fast_but_wrong_backend_is_shown_as_wrong),
    ("a_backend_that_fails_in_the_gate_is_not_ranked", a_backend_that_fails_in_the_gate_is_not_ranked),
    (
        "without_reference_logits_subjects_are_ranked_unchecked",
        without_reference_logits_subjects_are_ranked_unchecked,
    ),
    ("a_comparison_is_kept_for_the_next_experiment", a_comparison_is_kept_for_the_next_experiment),
    ("quality_is_measured_for_every_subject", quality_is_measured_for_every_subject),
    ("peaks_are_measured_before_and_after", peaks_are_measured_before_and_after),
    ("an_interrupt_in_the_gate_leaves_a_valid_record", an_interrupt_in_the_gate_leaves_a_valid_record),
];

fn gated(subjects: Vec<Subject>) -> BenchConfig {
    BenchConfig {
        gate: true,
        peaks: true,
        work: vec![Work::Prompt(8), Work::Generate(8)],
        ..config(subjects)
    }
}

fn ranked(record: &Record) -> Vec<&str> {
    record.ranking.iter().map(|r| r.key.name.backend.as_str()).collect()
}

fn a_fast_but_wrong_backend_is_shown_as_wrong() {
    let record = run(gated(vec![subject("right", ""), subject("liar", "wrong"), mock()]));
    assert!(record.rows.iter().all(|r| r.status == Status::Ok && r.total_ms.is_some()), "all are measured");
    assert_eq!(ranked(&record), ["right"]);
    let [right, liar] = &record.agreement[..] else { panic!("the mock is exempt: {:?}", record.agreement) };
    let found = right.found.unwrap();
    assert_eq!((right.within, found.top1, found.kl_mean, found.error), (Some(true), 1.0, 0.0, 0.0));
    assert!(found.positions > 200 && right.reference == "the mock's own logits", "{right:?}");
    assert_eq!((liar.subject, liar.within), (1, Some(false)));
    let why = liar.why.join("; ");
    assert!(why.contains("the best token is the same") && why.contains("KL divergence"), "{why}");
    let [unranked] = &record.unranked[..] else { panic!("{:?}", record.unranked) };
    assert_eq!((unranked.key.name.backend.as_str(), &unranked.why), ("liar", &why));
    assert!(record.summary.iter().all(|c| c.not_ranked.is_some() == (c.key.name.backend == "liar")));
    let told = |w: &Warning| matches!(w, Warning::Disagrees { subject, .. } if subject.starts_with("liar"));
    assert!(record.warnings.iter().any(|w| told(&w.warning)));
    assert!(!record.recommendation.join(" ").contains("liar"));
}

fn quality_is_measured_for_every_subject() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.txt");
    std::fs::write(&path, "the warm wind of the mountains ".repeat(400)).unwrap();
    let mut text = zonda_bench::eval::quality::text_of(&path).unwrap();
    (text.windows, text.compared) = (3, 2);
    let unknown = Subject { model: "without reference".into(), ..subject("trusted", "") };
    let subjects = vec![subject("right", ""), subject("other", "wrong"), unknown, mock()];
    let record = run(BenchConfig { gate: false, peaks: false, quality: Some(text), ..gated(subjects) });
    let [right, other, trusted] = &record.quality[..] else { panic!("{:?}", record.quality) };
    assert_eq!((right.kl_mean, right.top1, right.kl_positions), (Some(0.0), Some(1.0), Some(2 * 255)));
    assert_eq!((right.tokens, right.text.as_str()), (Some(3 * 255), "text.txt"));
    assert!(other.kl_mean.unwrap() > 1.0 && other.ppl != right.ppl && right.why.is_none(), "{other:?}");
    assert_eq!((trusted.ppl, trusted.kl_mean), (right.ppl, None));
    assert!(trusted.why.as_ref().unwrap().contains("no room"), "{trusted:?}");
    assert!(record.warnings.iter().any(|w| matches!(w.warning, Warning::NoQuality { .. })));
    let csv = zonda_bench::report::csv::to_string(&record).unwrap();
    let ends = format!("{:.6},{:.6},0.000000", right.ppl.unwrap(), right.stderr.unwrap());
    assert!(csv.lines().any(|line| line.starts_with("right,") && line.ends_with(&ends)), "{csv}");
}

fn a_backend_that_fails_in_the_gate_is_not_ranked() {
    for (option, expected) in [("abort in gate", "aborted (signal 6)"), ("nan in gate", "NaN or infinite")] {
        let record = run(gated(vec![subject("frail", option), subject("sound", "")]));
        assert_eq!(ranked(&record), ["sound"], "{option}");
        let why = &record.unranked[0].why;
        assert!(why.contains(expected), "{why}");
        assert!(record.rows.iter().all(|r| r.status == Status::Ok), "it is still timed");
    }
}

fn without_reference_logits_subjects_are_ranked_unchecked() {
    let large = Subject { model: "without reference".into(), ..subject("a", "") };
    let record = run(gated(vec![large]));
    assert_eq!((ranked(&record), record.agreement[0].within), (vec!["a"], None));
    let why = "no room for the reference logits";
    let told = |w: &Warning| matches!(w, Warning::NotCompared { why: told, .. } if told == why);
    assert!(record.warnings.iter().any(|w| told(&w.warning)), "{:?}", record.warnings);
}

fn a_comparison_is_kept_for_the_next_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    let experiment = |bytes: &[u8]| {
        std::fs::write(&model, bytes).unwrap();
        let with_file = |name, option| Subject { path: Some(model.clone()), ..subject(name, option) };
        let subjects = vec![with_file("right", ""), with_file("liar", "wrong")];
        let cache = Some(folder.path().join("cache"));
        let record = run(BenchConfig { gate_cache: cache, ..gated(subjects) });
        assert_eq!(ranked(&record), ["right"]);
        record.agreement.iter().map(|a| a.earlier).collect::<Vec<_>>()
    };
    assert_eq!(experiment(b"one"), [false, false]);
    assert_eq!(experiment(b"one"), [true, true]);
    assert_eq!(experiment(b"two"), [false, false], "another file is another model");
}

fn peaks_are_measured_before_and_after() {
    let record = run(gated(vec![subject("a", "")]));
    assert!(record.roofline.before.is_some() && record.roofline.before == record.roofline.after);
    assert!(record.rows.iter().all(|r| r.decode_share.is_none()), "what a token costs isn't known here");
    // Bandwidth is read before the first run and after each run: 2, 3, 4 … GB/s, so the later of two readings is the higher.
    let mut runs: Vec<_> = record.rows.iter().map(|r| (r.order, r.read_bytes_per_s)).collect();
    runs.sort_by_key(|(order, _)| *order);
    assert!(runs.iter().all(|(_, read)| read.is_some_and(|r| r >= 3e9)), "{runs:?}");
    assert!(runs.is_sorted_by(|a, b| a.1 < b.1), "{runs:?}");
    let mean = |r: &Row| r.read_mean_bytes_per_s.unwrap() - r.read_bytes_per_s.unwrap();
    assert!(
        record.rows.iter().all(|r| (mean(r) + 0.5e9).abs() < 1.0),
        "half of the step between two readings"
    );
    assert!(record.summary.iter().all(|c| c.read_bytes_per_s.is_some()));
    let without = Subject { model: "without memory".into(), ..subject("a", "") };
    let without = run(gated(vec![without]));
    assert!(without.rows.iter().all(|r| r.status == Status::Ok && r.read_bytes_per_s.is_none()));
    let told = |w: &&zonda_bench::record::Noted| w.message.contains("no room to read");
    assert_eq!(without.warnings.iter().filter(told).count(), 1);
    let alone = run(gated(vec![mock()]));
    assert_eq!(
        (alone.roofline.before, alone.agreement),
        (None, Vec::new()),
        "the mock has no limit to reach"
    );
}

fn an_interrupt_in_the_gate_leaves_a_valid_record() {
    let record = run_with(gated(vec![subject("a", "")]), &mut StopAfter { rows: 0, seen: 0 });
    assert!(record.partial && record.rows.is_empty() && record.agreement.is_empty());
}
