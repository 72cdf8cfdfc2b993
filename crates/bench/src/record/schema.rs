//! The JSON schema of `results.json`, generated from the types of the record. `docs/results.schema.json` is the result; a test
//! keeps it up to date.

use super::results::{Record, SCHEMA_VERSION};
use serde_json::{Value, json};

/// The schema of the record's current version. Keys may be added within a version, so unlisted keys are allowed.
///
/// # Panics
/// Never: a derived schema is an object.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Record).to_value();
    schema["title"] = json!(format!("zonda bench results.json, version {SCHEMA_VERSION}"));
    schema["properties"]["schema_version"]["const"] = json!(SCHEMA_VERSION);
    schema
}

/// The same as the text of a file, without the markup of links to Rust items.
pub fn to_string() -> String {
    format!("{:#}\n", schema()).replace("[`", "`").replace("`]", "`")
}
