//! A soak: `zonda serve` under mixed load, with every answer checked and the process watched.
//!
//! `cargo test` runs a few seconds of it on the mock. `make soak TIME=1800` runs it for so many seconds, shared by the models in
//! `ZONDA_SOAK_MODELS` (files, separated by commas; `mock`), and also checks that memory, threads and the time to the first token
//! do not grow. `ZONDA_SOAK_PROGRAM` is the program to test, if not the one that cargo built. All traffic stays on 127.0.0.1.

mod common;
mod soak {
    pub mod client;
    pub mod jobs;
    pub mod run;
    pub mod watch;
}

use soak::run::{Plan, soak};
use std::time::Duration;

#[test]
fn some_seconds_of_mixed_load_show_no_fault() {
    let plan = Plan { model: "mock".into(), time: Duration::from_secs(4), ..Plan::default() };
    let report = soak(&plan);
    assert!(report.faults.is_empty(), "{report}");
    assert!(report.kinds.len() >= 12 && report.answered() > 50, "{report}");
}

/// The soak itself must be able to fail: here every expected answer is that of another model.
#[test]
fn answers_of_another_model_are_found() {
    let time = Duration::from_secs(2);
    let plan = Plan { model: "mock".into(), time, other_seed: true, ..Plan::default() };
    let report = soak(&plan);
    assert!(report.faults.iter().any(|fault| fault.contains("expected")), "{report}");
}

#[test]
#[ignore = "takes as long as ZONDA_SOAK_TIME says; `make soak` runs it"]
fn for_a_long_time() {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let seconds: u64 = setting("ZONDA_SOAK_TIME", "1800").parse().expect("ZONDA_SOAK_TIME: whole seconds");
    let models = setting("ZONDA_SOAK_MODELS", "mock");
    let models: Vec<&str> = models.split(',').collect();
    let mut faults = 0;
    for model in &models {
        let time = Duration::from_secs(seconds.min(24 * 3600)) / models.len() as u32;
        let program = std::env::var_os("ZONDA_SOAK_PROGRAM").map(Into::into);
        let plan = Plan { model: (*model).to_owned(), time, trends: true, program, ..Plan::default() };
        let report = soak(&plan);
        println!("{report}");
        faults += report.faults.len();
    }
    assert_eq!(faults, 0, "faults");
}
