//! Predictions from records: which records are used, the shares derived from them, and the errors of past predictions.

mod fixture;

use zonda_bench::Record;
use zonda_bench::analyse::predict::check::Check;
use zonda_bench::analyse::predict::past::{Basis, Past, Source};
use zonda_bench::analyse::predict::{Form, built_in};
use zonda_bench::machine::Machine;
use zonda_bench::record::Stats;
use zonda_bench::record::{Arithmetic, ModelCost};
use zonda_bench::record::{Peaks, Rate, Roofline};
use zonda_convert::SynthSpec;

/// SmolLM2's shapes, in a record of a machine whose ideal times are 1 ms per prompt token and 2 ms per generated token. For
/// prefill only `long` counts, with 1,472 tokens; `short` has too few.
fn record(form: &Form, started: &str, prefill_tps: f64, decode_tps: f64) -> Record {
    let mut record = fixture::record();
    record.started = started.into();
    let rate = |all_threads| Rate { one_core: all_threads / 2.0, all_threads };
    let peaks = Peaks {
        threads: 2,
        instruction_set: "avx512".into(),
        read_bytes_per_s: rate(500.0 * form.cost.decode_bytes as f64),
        read_large_bytes_per_s: None,
        int8_ops_per_s: rate(1000.0 * form.cost.prefill_ops()),
        bf16_ops_per_s: None,
        f32_ops_per_s: rate(1e12),
    };
    record.roofline = Roofline { before: Some(peaks), ..Roofline::default() };
    for process in record.processes.iter_mut().filter(|p| p.subject == 0) {
        let load = process.load.as_mut().unwrap();
        load.backend.weights = form.weights.clone();
        load.shape = form.shape.clone();
        load.cost = Some(form.cost);
    }
    for cell in record.summary.iter_mut().filter(|c| c.subject == 0) {
        cell.prefill_tps = Stats::of(&[prefill_tps], 1);
        cell.decode_tps = Stats::of(&[decode_tps], 1);
        cell.decode_share = Stats::of(&[0.5], 1);
    }
    record
}

fn form() -> Form {
    let spec = SynthSpec::find("smollm2-135m").unwrap().spec;
    Form::mixed(&spec, "gguf", "q8_0".parse().unwrap()).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-4
}

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
    // 2 ms minus 30 × 576 values at 2.3 ns and 50.87 MOP of attention at half of 1 TFLOPS are 1.85851 ms.
    assert!(near(share.prefill, 1.0 / 1.85851), "{share:?}");
    // 4 ms minus 0.42 ms for the layers and 36.2 or 1.34 MB of keys and values at 0.41 of 71.4 GB/s; the result lies between both cells.
    assert!(near(share.decode, (2.0 / 2.34347 + 2.0 / 3.53438) / 2.0), "{share:?}");
    let new = || Source::Record { record: "new".into() };
    assert_eq!(basis, Basis { prefill: new(), decode: new() });
    // The records have nothing on llama.cpp.
    let built_in = past.efficiency("llama-cpp", &form).unwrap();
    assert_eq!(built_in.0, built_in::shares("llama-cpp", "q8_0").unwrap().share);
    assert!(
        matches!(built_in.1.prefill, Source::BuiltIn { measured } if measured.contains("docs/kernels.md"))
    );
    assert_eq!(past.efficiency("mlx", &form), None);

    let measured = past.measured("native", &form).unwrap();
    let prefill = measured.prefill.unwrap();
    assert_eq!((prefill.prompt_tokens, prefill.tps, measured.record.as_str()), (1472, 500.0, "new"));
    // A record does not predict itself. The other one is used, in which products took 9.85851 ms.
    assert!(near(prefill.predicted_tps.unwrap(), 100.0) && near(prefill.error.unwrap(), -0.8), "{prefill:?}");
    assert_eq!(measured.decode.map(|d| (d.prompt_tokens, d.tps)), Some((48, 250.0)));
    assert_eq!(past.measured("native", &Form { format: "safetensors".into(), ..form.clone() }), None);
    let larger = ModelCost { decode_bytes: 1, arithmetic: Arithmetic::Int8, ..form.cost };
    assert_eq!(past.measured("native", &Form { cost: larger, ..form }), None);
}

/// Perplexities are compared with the lowest of the same shape in the same record, which is the newest that has any.
#[test]
fn quality_comes_from_one_record() {
    let (form, q4_0) = (
        form(),
        Form::mixed(&SynthSpec::find("smollm2-135m").unwrap().spec, "safetensors", "q4_0".parse().unwrap()),
    );
    let q4_0 = q4_0.unwrap();
    let with = |started: &str, of: [Option<f64>; 2]| {
        let mut record = record(&form, started, 400.0, 200.0);
        for process in record.processes.iter_mut().filter(|p| p.subject == 1) {
            let load = process.load.as_mut().unwrap();
            load.backend.weights = q4_0.weights.clone();
            load.shape = q4_0.shape.clone();
            load.cost = Some(q4_0.cost);
        }
        record.quality = (0..2).map(|subject| fixture::quality(subject, of[subject])).collect();
        record
    };
    let records = [
        ("old", with("2026-01-01T00:00:00Z", [Some(10.0), Some(12.0)])),
        ("new", with("2026-02-01T00:00:00Z", [Some(20.0), Some(20.6)])),
        ("none", with("2026-03-01T00:00:00Z", [None, None])),
    ];
    let past = Past::of(&Machine::default(), records.map(|(name, r)| (name.to_owned(), r)));
    let (fine, coarse) = (past.quality("native", &form).unwrap(), past.quality("native", &q4_0).unwrap());
    assert_eq!((fine.ppl, fine.loss, fine.record.as_str()), (20.0, 0.0, "new"));
    assert!(coarse.ppl == 20.6 && near(coarse.loss, 0.03) && coarse.text == "novel.txt", "{coarse:?}");
    assert_eq!(past.quality("llama-cpp", &form), None);
    assert_eq!(past.quality("native", &Form { shape: "another".into(), ..form }), None);
}

/// Each of two records is predicted from the other alone.
#[test]
fn past_predictions_are_compared_with_measurements() {
    let form = form();
    let records = || {
        let old = record(&form, "2026-01-01T00:00:00Z", 400.0, 200.0);
        let new = record(&form, "2026-02-01T00:00:00Z", 500.0, 250.0);
        [("old".to_owned(), old), ("new".to_owned(), new)]
    };
    let error = Past::of(&Machine::default(), records()).error();
    // In each record, one cell has a prompt long enough for prefill; both cells have enough generated tokens.
    assert_eq!((error.prefill.cells, error.decode.cells), (2, 4));
    // Prediction and measurement are 400 and 500, then the reverse: errors of 0.2 and 0.25.
    assert!(
        near(error.prefill.median.unwrap(), 0.225) && near(error.prefill.worst.unwrap(), 0.25),
        "{error:?}"
    );
    let same = records().map(|(name, _)| (name, record(&form, "2026-01-01T00:00:00Z", 400.0, 200.0)));
    let error = Past::of(&Machine::default(), same).error();
    assert!(error.prefill.worst.unwrap() < 1e-9, "{error:?}");
    assert_eq!(Past::default().error().prefill.median, None);
}

/// A record is compared with predictions from the built-in table and from the other records.
#[test]
fn a_record_is_checked_cell_by_cell() {
    let form = form();
    let old = || ("old".to_owned(), record(&form, "2026-01-01T00:00:00Z", 400.0, 200.0));
    let mut new = record(&form, "2026-02-01T00:00:00Z", 500.0, 250.0);
    let check = Check::of(new.clone(), [old(), ("new".to_owned(), new.clone())]);
    let cell = |check: &Check, scenario: &str| {
        check.cells.iter().find(|c| c.name.backend == "native" && c.scenario == scenario).unwrap().clone()
    };
    let long = cell(&check, "long");
    let (prefill, decode) = (long.prefill.unwrap(), long.decode.unwrap());
    assert_eq!((prefill.measured, decode.measured), (500.0, 250.0));
    assert!(near(prefill.others.unwrap().error, -0.2), "{check:?}");
    // Both cells of the other record give one share; their speeds are the same after 58 tokens and after 1,571.
    let short = cell(&check, "short").decode.unwrap();
    assert!(short.others.unwrap().error > -0.2 && decode.others.unwrap().error < -0.2, "{check:?}");
    // 1 ms at 0.65, and 0.14149 ms of other costs.
    let expected = 1000.0 / (1.0 / 0.65 + 0.14149);
    assert!((prefill.built_in.unwrap().tps / expected - 1.0).abs() < 1e-4, "{prefill:?}");
    assert_eq!(cell(&check, "short").prefill, None, "the prompt is too short");
    assert_eq!(Check::of(new.clone(), []).others, None);

    // If only a third of the memory bandwidth was available, decode is predicted from that.
    for cell in new.summary.iter_mut().filter(|c| c.subject == 0) {
        cell.read_bytes_per_s = Stats::of(&[500.0 * form.cost.decode_bytes as f64 / 3.0], 1);
    }
    let busy = cell(&Check::of(new, []), "short").decode.unwrap().built_in.unwrap().tps;
    // 6 ms at 0.95, 0.42 ms for the layers, and 1.34 MB of keys and values at the same share.
    let expected = 1000.0 / (6.0 / 0.95 + 0.42 + 6.0 / 0.95 * 23040.0 * 58.0 / form.cost.decode_bytes as f64);
    assert!((busy / expected - 1.0).abs() < 0.01, "{busy} {expected}");
}

/// The built-in shares predict the committed record. Most of them come from other measurements.
#[test]
fn the_committed_record_is_predicted_by_the_built_in_table() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../benchmarks/record/amd-epyc-zen5-2c/2026-11-24/results.json"
    );
    let record: Record = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let past = Past::of(&record.machine.clone(), [("it".to_owned(), record)]);
    let error = past.error();
    assert!(error.prefill.cells >= 10 && error.decode.cells >= 15, "{error:?}");
    assert!(error.prefill.median.unwrap() < 0.1 && error.decode.median.unwrap() < 0.2, "{error:?}");
    assert!(error.prefill.worst.unwrap() < 0.2, "{error:?}");
}
