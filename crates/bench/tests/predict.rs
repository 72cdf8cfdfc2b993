//! Predictions that rest on records: which are taken, what shares come of them, and how far off they were.

mod fixture;

use zonda_bench::Record;
use zonda_bench::facts::{Arithmetic, Facts};
use zonda_bench::machine::Machine;
use zonda_bench::predict::Form;
use zonda_bench::predict::past::{Basis, Past};
use zonda_bench::stats::Stats;
use zonda_engine::make::SynthSpec;

/// SmolLM2's shapes, as a record of a machine whose ideal time is 1 ms a prompt token and 2 ms a generated one.
fn record(form: &Form, started: &str, prefill_tps: f64, decode_tps: f64) -> Record {
    let mut record = fixture::record();
    record.started = started.into();
    for process in record.processes.iter_mut().filter(|p| p.subject == 0) {
        let load = process.load.as_mut().unwrap();
        load.backend.weights = form.weights.clone();
        load.shape = form.shape.clone();
        load.facts = Some(form.facts);
    }
    for cell in record.summary.iter_mut().filter(|c| c.subject == 0) {
        cell.prefill_tps = Stats::of(&[prefill_tps], 1);
        cell.prefill_share = Stats::of(&[prefill_tps * 1e-3], 1);
        cell.decode_tps = Stats::of(&[decode_tps], 1);
        cell.decode_share = Stats::of(&[decode_tps * 2e-3], 1);
    }
    record
}

fn form() -> Form {
    let spec = SynthSpec::find("smollm2-135m").unwrap().spec;
    Form::mixed(&spec, "gguf", "q8_0".parse().unwrap()).unwrap()
}

/// The overheads of 30 layers of 576 values are 0.12096 ms a prompt token and 0.42 ms a generated one.
#[test]
fn shares_come_from_the_newest_record_of_this_machine() {
    let form = form();
    let old = record(&form, "2026-01-01T00:00:00Z", 100.0, 50.0);
    let new = record(&form, "2026-02-01T00:00:00Z", 500.0, 250.0);
    let mut other = record(&form, "2026-03-01T00:00:00Z", 900.0, 450.0);
    other.machine = Machine { cpu: Some("another".into()), ..Machine::default() };
    let mut debug = record(&form, "2026-04-01T00:00:00Z", 900.0, 450.0);
    debug.program.debug_build = true;
    let records = [("old", old), ("new", new), ("other", other), ("debug", debug)];
    let past = Past::of(&Machine::default(), records.map(|(name, r)| (name.to_owned(), r)));
    assert_eq!(past.len(), 2);
    let (share, basis) = past.efficiency("native", &form).unwrap();
    // 1 ms of 2 ms − 0.12096, 2 ms of 4 ms − 0.42
    assert!(
        (share.prefill - 1.0 / 1.87904).abs() < 1e-9 && (share.decode - 2.0 / 3.58).abs() < 1e-9,
        "{share:?}"
    );
    assert_eq!(basis, Basis::Record { prefill: Some("new".into()), decode: Some("new".into()) });
    // nothing in them of llama.cpp
    assert_eq!(past.efficiency("llama-cpp", &form).unwrap().1, Basis::BuiltIn);
    assert_eq!(past.efficiency("mlx", &form), None);

    let measured = past.measured("native", &form).unwrap();
    assert_eq!((measured.prefill_tps, measured.decode_tps), (Some(500.0), Some(250.0)));
    assert_eq!(measured.record, "new");
    assert_eq!(past.measured("native", &Form { format: "safetensors".into(), ..form.clone() }), None);
    let larger = Facts { decode_bytes: 1, arithmetic: Arithmetic::Int8, ..form.facts };
    assert_eq!(past.measured("native", &Form { facts: larger, ..form }), None);
}

/// Each of two records is predicted from the other alone.
#[test]
fn past_predictions_are_held_against_what_was_measured() {
    let form = form();
    let records = || {
        let old = record(&form, "2026-01-01T00:00:00Z", 400.0, 200.0);
        let new = record(&form, "2026-02-01T00:00:00Z", 500.0, 250.0);
        [("old".to_owned(), old), ("new".to_owned(), new)]
    };
    let error = Past::of(&Machine::default(), records()).error();
    // one cell a record has a prompt long enough for prefill, both have enough generated tokens
    assert_eq!((error.prefill_cells, error.decode_cells), (2, 4));
    // prediction and measurement are 400 against 500 and the other way: 0.2 and 0.25 off
    assert!((error.prefill.unwrap() - 0.225).abs() < 1e-9, "{error:?}");
    assert!((error.decode.unwrap() - 0.225).abs() < 1e-9, "{error:?}");
    let same = records().map(|(name, _)| (name, record(&form, "2026-01-01T00:00:00Z", 400.0, 200.0)));
    let error = Past::of(&Machine::default(), same).error();
    assert!(error.prefill.unwrap() < 1e-9 && error.decode.unwrap() < 1e-9, "{error:?}");
    assert_eq!(Past::default().error().prefill, None);
}
