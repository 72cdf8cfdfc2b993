//! Whole experiments with real child processes: this test program starts itself as the child, with a mock backend that
//! fails on request.

mod child;
mod failures;
mod gate;
mod good;

use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use zonda_bench::{BenchConfig, Launcher, Plan, Progress, Record, Runs, Silent, Subject, Update};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("__bench-child") {
        return zonda_bench::child_main(&child::TestHost);
    }
    let tests: Vec<(&str, fn())> =
        good::TESTS.iter().chain(failures::TESTS).chain(gate::TESTS).copied().collect();
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A subject of the test's child; [`child::open`] interprets `option`.
fn subject(name: &str, option: &str) -> Subject {
    Subject {
        backend: name.into(),
        model: "tiny".into(),
        path: None,
        format: Some("gguf".into()),
        synthetic: false,
        options: BTreeMap::from([("child".into(), option.into())]),
    }
}

/// The harness's own mock.
fn mock() -> Subject {
    Subject { backend: "mock".into(), model: "mock".into(), format: None, synthetic: true, ..subject("", "") }
}

fn config(subjects: Vec<Subject>) -> BenchConfig {
    let runs = Runs::Fixed(2);
    BenchConfig { subjects, runs, timeout_s: 60, gate: false, peaks: false, ..BenchConfig::default() }
}

fn launcher() -> Launcher {
    Launcher::current_exe().expect("the test program knows its path")
}

fn run(config: BenchConfig) -> Record {
    run_with(config, &mut Silent)
}

fn run_with(config: BenchConfig, progress: &mut dyn Progress) -> Record {
    zonda_bench::run(&Plan::new(config).unwrap(), &launcher(), progress).unwrap()
}

/// Stops the experiment after this many rows.
struct StopAfter {
    rows: usize,
    seen: usize,
}

impl Progress for StopAfter {
    fn update(&mut self, update: Update<'_>) {
        self.seen += usize::from(matches!(update, Update::Row(_)));
    }
    fn interrupted(&self) -> bool {
        self.seen >= self.rows
    }
}

/// A launcher of some other program.
fn other(program: &str, args: &[&str]) -> Launcher {
    Launcher {
        program: PathBuf::from(program),
        args: args.iter().map(Into::into).collect(),
        envs: Vec::new(),
    }
}
