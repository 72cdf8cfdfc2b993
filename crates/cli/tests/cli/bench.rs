//! `zonda bench` and `zonda bench compare`: what they measure and write, and what happens when they are interrupted.

#[cfg(unix)]
use crate::common::ran;
use crate::common::{Sandbox, has_keys, tiny};
use serde_json::Value;
#[cfg(unix)]
use std::io::{BufRead as _, BufReader};
#[cfg(unix)]
use std::process::{Command, Stdio};

#[test]
fn bench_measures_and_writes_the_results() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "t.gguf"]).ok();
    let args =
        ["bench", "-m", "t.gguf", "--scenario", "short", "--runs", "1", "--out", "r", "--json", "--quick"];
    let document = sandbox.run(&args).json();
    has_keys(&document, &["machine", "config", "rows", "summary", "ranking", "warnings"]);
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "the model on native, and the mock");
    assert!(rows.iter().all(|r| r["generated"] == 20), "{rows:?}");
    let ranking = document["ranking"].to_string();
    assert!(ranking.contains("native") && !ranking.contains("mock"), "{ranking}");
    let csv = std::fs::read_to_string(sandbox.path("r/results.csv")).unwrap();
    let head = "backend,scenario,tokens,run,total_ms,ttft_ms,tpt_ms,throughput,generated,\
                model,format,quant,prompt_tokens,prefill_tps,decode_tps,load_ms,peak_rss_mb,finish_reason,order,\
                 speculate,drafted,accepted,acceptance,ppl,ppl_stderr,kl_mean";
    assert_eq!(csv.lines().next().unwrap(), head);
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("r/results.json")).unwrap()).unwrap();
    assert_eq!(file, document);
    // Records are shared, so paths inside the store begin with `$ZONDA_HOME`.
    let gate_cache = document["config"]["gate_cache"].as_str().unwrap();
    assert!(gate_cache == "$ZONDA_HOME/agreement", "{gate_cache}");

    let llama_bench = [
        "bench",
        "-m",
        "t.gguf",
        "--backend",
        "native",
        "--pp",
        "32",
        "--tg",
        "8",
        "--quick",
        "--out",
        "r2",
        "--runs",
        "1",
    ];
    let table = sandbox.run(&llama_bench).ok();
    assert!(table.out.contains("pp32") && table.out.contains("tg8"), "{table:?}");

    sandbox
        .run(&["bench", "--scenario", "tall", "--backend", "mock"])
        .fails(2, &["tall", "short, medium, code, long"]);
    sandbox.run(&["bench", "--runs", "0", "--backend", "mock"]).fails(2, &["0 runs"]);
    sandbox.run(&["bench", "--backend", "mlx"]).fails(1, &["mlx", "native, mock"]);
    sandbox.run(&["bench", "-m", "none.gguf"]).fails(1, &["none.gguf"]);
    // The default model is absent, and downloads are forbidden.
    sandbox.run(&["bench"]).fails(1, &["smollm2-135m", "ZONDA_OFFLINE"]);
    // A context of 128 tokens is too small for a scenario: the run and the command fail with the reason.
    let small = sandbox.run(&[
        "bench",
        "-m",
        tiny().to_str().unwrap(),
        "--backend",
        "native",
        "--scenario",
        "long",
        "--runs",
        "1",
        "--quick",
        "--out",
        "r3",
    ]);
    assert_eq!(small.code, 1, "{small:?}");
    assert!(small.err.contains("runs failed"), "{small:?}");
}

/// The last lines on the terminal: the table, the ranking, the recommendation, and the path of the report.
#[test]
fn bench_ends_with_the_recommendation_and_the_path_of_the_report() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "t.gguf"]).ok();
    let args = ["bench", "-m", "t.gguf", "--scenario", "short", "--runs", "1", "--out", "r", "--quick"];
    let ran = sandbox.run(&args).ok();
    let place = |what: &str| ran.out.find(what).unwrap_or_else(|| panic!("no {what}: {ran:?}"));
    let order = ["tokens/s", "\nRanking", "native · t", "\nRecommendation\n"].map(place);
    assert!(place("│ short") < order[1] && order[1] < order[3], "{order:?}");
    let end = ran.out.split("\nRecommendation\n").last().unwrap();
    assert!(end.starts_with("native · t") && end.lines().count() == 1, "the recommendation is last: {end}");
    let last = ran.err.lines().last().unwrap();
    let report = last.strip_prefix("report: ").unwrap_or_else(|| panic!("{ran:?}"));
    assert!(sandbox.path(report).is_file(), "{last}");
}

/// The results of a quick bench of a tiny model, in the folder `out`.
fn measure(sandbox: &Sandbox, out: &str, more: &[&str]) -> Value {
    let args =
        ["bench", "-m", "t.gguf", "--backend", "native", "--tg", "16", "--out", out, "--json", "--quick"];
    sandbox.run(&[&args[..], more].concat()).json()
}

fn read(sandbox: &Sandbox, out: &str) -> Value {
    let text = std::fs::read_to_string(sandbox.path(out).join("results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The machine's limits, each run's share of them, and the comparison with the reference logits, which is kept for the next time.
#[test]
fn bench_compares_with_the_machines_limits_and_with_the_reference() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "t.gguf"]).ok();
    let bench = || {
        let args =
            ["bench", "-m", "t.gguf", "--pp", "32", "--tg", "8", "--runs", "1", "--out", "r", "--json"];
        sandbox.run(&args).json()
    };
    let first = bench();
    for side in ["before", "after"] {
        let read = first["ceilings"][side]["read_bytes_per_s"]["all_threads"].as_f64();
        assert!(read.is_some_and(|r| r > 1e6), "{}", first["ceilings"]);
    }
    let [agreed] = &first["agreement"].as_array().unwrap()[..] else { panic!("{}", first["agreement"]) };
    assert_eq!((&agreed["within"], &agreed["earlier"]), (&true.into(), &false.into()), "{agreed}");
    assert!(agreed["found"]["positions"].as_u64().unwrap() > 100, "{agreed}");
    assert!(agreed["found"]["error"].as_f64().unwrap() > 0.0, "activations of quantised weights are rounded");
    let facts = &first["processes"][0]["load"]["facts"];
    assert!(
        first["processes"].as_array().unwrap().iter().any(|p| p["load"]["facts"]["arithmetic"] == "int8"),
        "{facts}"
    );
    for row in first["rows"].as_array().unwrap().iter().filter(|r| r["backend"] == "native") {
        assert!(row["prefill_share"].as_f64().is_some_and(|s| s > 0.0), "{row}");
        assert!(row["decode_share"].is_null(), "a model that fits a cache is not read from memory: {row}");
    }
    let second = bench();
    let kept = &second["agreement"][0];
    assert_eq!((&kept["earlier"], &kept["found"]), (&true.into(), &agreed["found"]));
}

#[test]
fn two_records_are_compared() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "t.gguf"]).ok();
    let record = measure(&sandbox, "a", &["--runs", "3"]);
    assert_eq!((&record["ceilings"]["before"], &record["agreement"]), (&Value::Null, &Value::Array(vec![])));
    measure(&sandbox, "b", &["--until-ci", "99%"]);
    let [a, b] = ["a/results.json", "b/results.json"];
    let document = sandbox.run(&["bench", "compare", a, b, "--json"]).json();
    has_keys(&document, &["rows", "missing", "notes", "regressions"]);
    let rows = document["rows"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["metric"] == "decode_tps" && r["a"]["runs"] == 3), "{document}");
    assert!(rows.iter().all(|r| r["b"]["runs"].as_u64().unwrap() >= 5 && r["paired"] == false), "{document}");
    let table = sandbox.run(&["bench", "compare", a, b]).ok();
    assert!(table.out.contains("tg16") && table.out.contains("B/A"), "{table:?}");

    // Figures that don't depend on how busy the machine is: 100 ± 1, and a third of that.
    let steady = |path: &str, scale: f64| {
        let mut record = read(&sandbox, "a");
        for (i, row) in record["rows"].as_array_mut().unwrap().iter_mut().enumerate() {
            for figure in ["throughput", "decode_tps", "prefill_tps"] {
                row[figure] = (scale * (99.0 + i as f64)).into();
            }
        }
        std::fs::write(sandbox.path(path), record.to_string()).unwrap();
        record
    };
    steady("steady.json", 1.0);
    let mut slow = steady("slow.json", 1.0 / 3.0);
    let a = "steady.json";
    let gate = ["bench", "compare", a, "slow.json", "--fail-on-regression", "5"];
    sandbox.run(&gate).fails(1, &["slower by more than 5%", "tg16, decode_tps at 33.3%"]);
    sandbox.run(&["bench", "compare", "slow.json", a, "--fail-on-regression", "5"]).ok();
    sandbox.run(&["bench", "compare", a, "slow.json"]).ok();

    slow["machine"]["cpu"] = "another".into();
    std::fs::write(sandbox.path("moved.json"), slow.to_string()).unwrap();
    sandbox.run(&["bench", "compare", a, "moved.json"]).fails(1, &["different machines", "--any-machine"]);
    sandbox.run(&["bench", "compare", a, "moved.json", "--any-machine"]).ok();
    sandbox.run(&["bench", "compare", a]).fails(1, &["two backends or models"]);
    sandbox.run(&["bench", "compare", a, "none.json"]).fails(1, &["none.json"]);
    std::fs::write(sandbox.path("other.json"), "{\"rows\": []}").unwrap();
    sandbox.run(&["bench", "compare", a, "other.json"]).fails(1, &["other.json is not a record"]);
    sandbox.run(&["bench", "compare", a, b, "--fail-on-regression", "-5"]).fails(2, &[]);
    sandbox.run(&["bench", "--runs", "3", "--until-ci", "5"]).fails(2, &["--until-ci"]);
    sandbox.run(&["bench", "--until-ci", "0"]).fails(2, &["between 0 and 100"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_bench_leaves_a_partial_record() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["bench", "--backend", "mock", "--scenario", "short", "--runs", "10000", "--out", "r"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("20 tokens in") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before it was interrupted");
    }
    // From here on something must read the pipe, or the process blocks on it.
    let reader = std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = ran(child.wait_with_output().unwrap());
    reader.join().unwrap().unwrap();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.out.starts_with("Interrupted"), "{ran:?}");
    let record = read(&sandbox, "r");
    assert_eq!(record["partial"], true);
    let rows = record["rows"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() < 10_000 && rows.iter().all(|r| r["generated"] == 20));
    assert!(record["warnings"].as_array().unwrap().iter().any(|w| w["kind"] == "interrupted"));
}

/// Killing a child gives one row with the reason; everything else is measured.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_backend_costs_one_row() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q4_0", "-o", "t.gguf"]).ok();
    let mut command = sandbox.command();
    let args = ["bench", "-m", "t.gguf", "--tg", "512", "--runs", "1", "--out", "r", "--quick", "-q"];
    let bench = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let child = loop {
        let list = std::fs::read_to_string(&children).expect("the bench has not ended");
        if let Some(first) = list.split_whitespace().next() {
            break first.to_owned();
        }
        std::thread::yield_now();
    };
    assert!(Command::new("kill").args(["-KILL", &child]).status().unwrap().success());
    let ran = ran(bench.wait_with_output().unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    let record = read(&sandbox, "r");
    let outcomes: Vec<String> =
        record["rows"].as_array().unwrap().iter().map(|r| r["status"].to_string()).collect();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert_eq!(
        outcomes.iter().filter(|o| o.contains("killed from outside (signal 9)")).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(outcomes.iter().filter(|o| o.contains("\"ok\"")).count(), 1, "{outcomes:?}");
}
