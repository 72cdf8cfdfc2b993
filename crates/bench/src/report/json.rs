//! `results.json`: the whole record, laid out so that it can be read and compared line by line.

use crate::record::results::Record;
use serde_json::Value;
use std::io;

/// The record as JSON: one line per top-level key, and in lists one line per entry (a run with the time of each of
/// its tokens would fill a screen otherwise).
///
/// # Errors
/// Never for a record whose figures are finite; the serialiser's type asks for it.
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
