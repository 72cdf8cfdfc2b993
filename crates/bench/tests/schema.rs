//! The committed schema matches the types, and old and new records conform to it.

mod fixture;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zonda_bench::record::schema;
use zonda_bench::report;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn the_committed_schema_is_the_generated_one() {
    let committed = std::fs::read_to_string(root("docs/results.schema.json")).unwrap();
    // Compared by value: the order of keys depends on the JSON library's features in this build.
    let [committed, generated] =
        [committed, schema::to_string()].map(|text| serde_json::from_str::<Value>(&text).unwrap());
    let regenerate = "cargo run -p zonda-bench --example schema > docs/results.schema.json";
    assert!(committed == generated, "docs/results.schema.json is out of date: {regenerate}");
}

/// The violations in a document.
fn errors(document: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema::schema()).unwrap();
    validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

/// Every `results.json` below a folder.
fn records(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let below = entries.flat_map(|path| match path.is_dir() {
        true => records(&path),
        false => vec![path],
    });
    below.filter(|path| path.ends_with("results.json")).collect()
}

#[test]
fn the_committed_records_conform() {
    let records = records(&root("benchmarks/record"));
    assert!(!records.is_empty());
    for path in records {
        let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(errors(&document), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn new_records_conform_and_broken_ones_do_not() {
    let text = report::json::to_string(&fixture::record()).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(errors(&document), Vec::<String>::new());
    let broken = |pointer: &str, value: Value| {
        let mut document = document.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        errors(&document)
    };
    assert_eq!(broken("/schema_version", json!(2)).len(), 1);
    assert!(broken("/rows/0/ttft_ms", json!("12 ms"))[0].contains("/rows/0/ttft_ms"));
    assert!(!broken("/rows/0/status", json!({ "outcome": "fine" })).is_empty());
    assert!(!broken("/warnings/0", json!({ "message": "no kind" })).is_empty());
}
