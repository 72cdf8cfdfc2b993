//! Experiments with failures: one row has the reason, and the rest is measured.

use super::{StopAfter, config, launcher, other, run, run_with, subject};
use std::process::{Command, Stdio};
use std::time::Duration;
use zonda_bench::experiment::process::{ChildError, ChildProcess, Watch};
use zonda_bench::experiment::protocol::{self, FrameError, FromChild, ToChild};
use zonda_bench::record::Warning;
use zonda_bench::record::{Record, Status};
use zonda_bench::{BenchConfig, BenchError, ChildSpec, Plan, Runs, Silent, Work};

pub const TESTS: &[(&str, fn())] = &[
    ("a_crash_costs_one_row", a_crash_costs_one_row),
    ("a_failed_load_gives_the_reason", a_failed_load_gives_the_reason),
    ("a_hang_is_stopped", a_hang_is_stopped),
    ("a_hanging_load_is_stopped", a_hanging_load_is_stopped),
    ("a_panic_in_the_warm_up_is_reported", a_panic_in_the_warm_up_is_reported),
    ("nan_is_reported", nan_is_reported),
    ("a_small_context_fails_only_the_long_scenario", a_small_context_fails_only_the_long_scenario),
    ("an_interrupt_leaves_a_valid_partial_record", an_interrupt_leaves_a_valid_partial_record),
    ("a_missing_program_is_an_error", a_missing_program_is_an_error),
    ("a_program_that_is_not_a_child_is_reported", a_program_that_is_not_a_child_is_reported),
    ("commands_in_the_wrong_order_are_refused", commands_in_the_wrong_order_are_refused),
    ("a_child_ends_with_its_parent", a_child_ends_with_its_parent),
];

/// `(backend, run, scenario, status)` of every failed row.
fn bad(record: &Record) -> Vec<(&str, usize, &str, &Status)> {
    let bad = record.rows.iter().filter(|r| r.status != Status::Ok);
    bad.map(|r| (r.key.name.backend.as_str(), r.run, r.scenario.as_str(), &r.status)).collect()
}

fn short(config: BenchConfig) -> BenchConfig {
    BenchConfig { work: vec![Work::Prompt(8), Work::Generate(8)], ..config }
}

fn a_crash_costs_one_row() {
    let record = run(config(vec![subject("frail", "abort in long"), subject("sound", "")]));
    assert_eq!(record.rows.len(), 16);
    let failed = Status::Failed("the process aborted (signal 6): GGML_ASSERT(n_past < n_ctx) failed".into());
    let not_run = Status::NotRun(format!("it failed in run 1: {}", &failed.to_string()["failed: ".len()..]));
    assert_eq!(bad(&record), [("frail", 1, "long", &failed), ("frail", 2, "long", &not_run)]);
    // They are ranked on the scenarios that both finished.
    assert!(record.ranking.iter().all(|r| r.scenarios == ["short", "medium", "code"]));
    let cell = record.summary.iter().find(|c| c.key.name.backend == "frail" && c.scenario == "long").unwrap();
    assert_eq!((cell.runs, cell.failed, &cell.throughput), (0, 2, &None));
    assert_eq!(cell.why.as_deref(), Some(failed.to_string().as_str()));
}

fn a_failed_load_gives_the_reason() {
    for (option, why) in [
        ("load error", "loading: tensor blk.3 is missing"),
        ("load abort", "loading: the process aborted (signal 6)"),
        ("load exit", "loading: the process ended with exit code 3: the licence file is upside down"),
    ] {
        let record = run(short(config(vec![subject("bad", option), subject("good", "")])));
        assert_eq!(record.rows.len(), 8);
        let bad = bad(&record);
        assert_eq!(bad.len(), 4, "{bad:?}");
        assert!(bad.iter().all(|(who, ..)| *who == "bad"));
        assert!(
            bad[..2]
                .iter()
                .all(|(_, run, _, s)| *run == 1 && s.to_string().starts_with(&format!("failed: {why}"))),
            "{bad:?}"
        );
        assert!(bad[2..].iter().all(|(_, run, _, s)| *run == 2 && matches!(s, Status::NotRun(_))));
        assert!(
            record.rows.iter().all(|r| r.order.is_some() == (r.key.name.backend == "good")),
            "a run that never began"
        );
        assert_eq!(
            record.processes.iter().filter(|p| p.load.is_none()).count(),
            1,
            "the load is not retried"
        );
        assert_eq!(record.ranking.len(), 1);
    }
}

fn a_hang_is_stopped() {
    let work = vec![Work::Generate(200)];
    let c =
        BenchConfig { work, timeout_s: 5, ..config(vec![subject("stuck", "hang"), subject("sound", "")]) };
    let record = run(c);
    let bad = bad(&record);
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert_eq!(bad[0].3.to_string(), "failed: no sign of life for 5 s (timeout); the process was stopped");
    assert_eq!(record.rows.iter().filter(|r| r.status == Status::Ok).count(), 2);
}

fn a_hanging_load_is_stopped() {
    let c = BenchConfig { timeout_s: 3, ..short(config(vec![subject("stuck", "load hang")])) };
    let record = run(c);
    assert!(record.rows.iter().all(|r| r.status != Status::Ok));
    assert!(record.rows[0].status.to_string().starts_with("failed: loading: no sign of life for 3 s"));
    assert!(record.recommendation[0].contains("nothing to recommend"));
}

fn a_panic_in_the_warm_up_is_reported() {
    let record = run(short(config(vec![subject("frail", "warm-up panic")])));
    let bad = bad(&record);
    assert_eq!(bad.len(), 4);
    let why = bad[0].3.to_string();
    assert!(why.starts_with("failed: warm-up: ") && why.contains("panic"), "{why}");
}

fn nan_is_reported() {
    let work = vec![Work::Generate(200)];
    let record = run(BenchConfig { work, runs: Runs::Fixed(1), ..config(vec![subject("wrong", "nan")]) });
    let why = record.rows[0].status.to_string();
    assert!(why.starts_with("failed: ") && why.to_lowercase().contains("nan"), "{why}");
    assert_eq!(record.rows[0].total_ms, None);
}

fn a_small_context_fails_only_the_long_scenario() {
    let record = run(BenchConfig { runs: Runs::Fixed(1), ..config(vec![subject("small", "small")]) });
    let bad = bad(&record);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].2, "long");
    assert!(bad[0].3.to_string().contains("700"), "{bad:?}");
}

fn an_interrupt_leaves_a_valid_partial_record() {
    let c = config(vec![subject("a", ""), subject("b", "")]);
    let record = run_with(c, &mut StopAfter { rows: 5, seen: 0 });
    assert!(record.partial);
    assert_eq!(record.rows.len(), 5);
    assert!(record.rows.iter().all(|r| r.status == Status::Ok));
    assert!(record.warnings.iter().any(|w| w.warning == Warning::Interrupted));
    assert_eq!(record.summary.iter().map(|c| c.runs).sum::<usize>(), 5);
    let dir = tempfile::tempdir().unwrap();
    let paths = zonda_bench::write_all(dir.path(), &record).unwrap();
    let json = std::fs::read_to_string(&paths[1]).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    assert!(zonda_bench::render_table(&record, 100, false).starts_with("Interrupted"));

    let nothing = run_with(config(vec![subject("a", "")]), &mut StopAfter { rows: 0, seen: 0 });
    assert!(nothing.partial && nothing.rows.is_empty());
}

fn a_missing_program_is_an_error() {
    let plan = Plan::new(config(vec![subject("a", "")])).unwrap();
    let error = zonda_bench::run(&plan, &other("/no/such/program", &[]), &mut Silent).unwrap_err();
    assert!(matches!(error, BenchError::Launch { .. }));
    assert!(error.to_string().starts_with("can't start /no/such/program: "), "{error}");
}

fn a_program_that_is_not_a_child_is_reported() {
    let plan = Plan::new(BenchConfig { timeout_s: 1, ..short(config(vec![subject("a", "")])) }).unwrap();
    for (program, args, why) in [
        ("true", &[][..], "starting: the process ended before it answered"),
        ("echo", &["hello, parent"], "starting: the child process does not follow the protocol: a frame of"),
        ("sleep", &["60"], "starting: no sign of life for 1 s"),
    ] {
        let record = zonda_bench::run(&plan, &other(program, args), &mut Silent).unwrap();
        let status = record.rows[0].status.to_string();
        assert!(status.starts_with(&format!("failed: {why}")), "{program}: {status}");
    }
}

struct Patient;

impl Watch for Patient {
    fn interrupted(&self) -> bool {
        false
    }
    fn tokens(&mut self, _: usize) {}
}

fn commands_in_the_wrong_order_are_refused() {
    let minute = Duration::from_secs(60);
    let spec =
        protocol::RunSpec { work: Work::Generate(1), max_tokens: 1, natural: false, cached: false, seed: 0 };
    let mut child = ChildProcess::start(&launcher()).unwrap();
    child.greet(minute, &mut Patient).unwrap();
    let answer = child.ask(&ToChild::Run(spec), minute, &mut Patient).unwrap();
    assert!(format!("{answer:?}").contains("no engine is open"), "{answer:?}");
    match child.ask(&ToChild::Quit, minute, &mut Patient) {
        Err(ChildError::Died(how)) => assert!(how.contains("before it answered"), "{how}"),
        other => panic!("{other:?}"),
    }
}

/// This holds even if the child's engine hangs: its command pipe is closed however the parent ends.
fn a_child_ends_with_its_parent() {
    let launcher = launcher();
    let mut child = Command::new(&launcher.program)
        .args(&launcher.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    protocol::read::<FromChild>(&mut stdout).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let spec = ChildSpec { subject: subject("stuck", "load hang"), work: Vec::new(), isolate: false };
    protocol::write(&mut stdin, &ToChild::Open(spec)).unwrap();
    drop(stdin);
    // This returns when the child closes its end of the pipe; a child that stays makes this test hang.
    assert!(matches!(protocol::read::<FromChild>(&mut stdout), Err(FrameError::Closed)));
    assert!(child.wait().unwrap().success());
}
