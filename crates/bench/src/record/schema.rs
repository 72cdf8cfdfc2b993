//! The JSON schema of `results.json`, generated from the types that are written. `docs/results.schema.json` is what comes
//! of it; a test keeps the two alike.

use super::results::{Record, SCHEMA_VERSION};
use serde_json::{Value, json};

/// The schema of the record's present version. Keys may be added within a version, so others than those listed are allowed.
///
/// # Panics
/// Never: a derived schema is an object.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Record).to_value();
    schema["title"] = json!(format!("zonda bench results.json, version {SCHEMA_VERSION}"));
    schema["properties"]["schema_version"]["const"] = json!(SCHEMA_VERSION);
    schema
}

/// The same as the text of a file, without the marks of links within this program.
pub fn to_string() -> String {
    format!("{:#}\n", schema()).replace("[`", "`").replace("`]", "`")
}
