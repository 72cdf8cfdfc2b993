//! `results.json`: the whole record, formatted for reading and comparing line by line.

use crate::record::results::Record;
use serde_json::Value;
use std::io;

/// The record as JSON: one line per top-level key, and one line per entry of a list (otherwise a run with the times of its
/// tokens would fill a screen).
///
/// # Errors
/// Never for a record with finite figures; the serialiser's type requires a `Result`.
pub fn to_string(record: &Record) -> io::Result<String> {
    let Value::Object(keys) = serde_json::to_value(record)? else {
        return Err(io::Error::other("a record is not a JSON object"));
    };
    let lines: Vec<String> = keys
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Array(list) if !list.is_empty() => {
                    let entries: Vec<String> = list.iter().map(|entry| format!("    {entry}")).collect();
                    format!("[\n{}\n  ]", entries.join(",\n"))
                }
                other => other.to_string(),
            };
            format!("  {}: {value}", Value::from(key.as_str()))
        })
        .collect();
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
}
