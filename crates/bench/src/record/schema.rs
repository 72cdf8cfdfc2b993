//! The JSON schema of `results.json`, generated from the types that are written. `docs/results.schema.json` is what comes
//! of it; a test keeps the two alike.

use crate::record::{Record, SCHEMA_VERSION};
use schemars::JsonSchema;
use serde_json::{Value, json};
use zonda_engine::forward::BackendInfo;

/// What runs a model: [`BackendInfo`], whose crate knows nothing of schemas.
#[derive(JsonSchema)]
#[allow(dead_code)] // stands for its shape only
#[schemars(rename = "BackendInfo")]
pub(crate) struct Backend {
    /// The backend's name on the command line: `native`, `llama-cpp`, `mlx`, `mock`.
    name: String,
    /// The backend's own version.
    version: String,
    /// What it computes on: `cpu`, or a GPU's name.
    device: String,
    /// The instruction set in use, such as `avx512`; empty where it means nothing.
    isa: String,
    /// Worker threads (1 for single-threaded backends).
    threads: usize,
    /// How the weights are held in memory: `q4_1`, `bf16`, or a mix such as `q4_k+q6_k`.
    weights: String,
    /// KV cache type: `f16`, `f32`, `q8_0`, `q4_0`.
    kv_type: String,
}

/// Fails to compile when the two part.
impl From<BackendInfo> for Backend {
    fn from(info: BackendInfo) -> Backend {
        let BackendInfo { name, version, device, isa, threads, weights, kv_type } = info;
        Backend { name, version, device, isa, threads, weights, kv_type }
    }
}

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
