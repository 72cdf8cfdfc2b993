//! What one token costs a model as a backend holds it: bytes read and operations done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one token costs. Only matrices count: norms and biases are a ten-thousandth of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelCost {
    /// All parameters of the model.
    pub parameters: u64,
    /// Parameters that a prompt token is multiplied with: the layers' matrices, of experts those that are used. The output
    /// head is left out, since only a prompt's last token goes through it.
    pub prefill_parameters: u64,
    /// Parameters that a generated token is multiplied with: the same and the output head.
    pub decode_parameters: u64,
    /// Bytes of these as the backend holds them: read for every generated token.
    pub decode_bytes: u64,
    /// Bytes of one position's keys and values in all layers: read for every later token.
    pub kv_bytes: u64,
    /// The type that the products of most weights are computed in.
    pub arithmetic: Arithmetic,
}

/// A type of arithmetic that the machine's peak was measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Bytes times bytes into 32 bits: quantised weights.
    Int8,
    /// `bf16` pairs into `f32`; `f32` where no instruction does that.
    Bf16,
    /// `f32`.
    F32,
}
