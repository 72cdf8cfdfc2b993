//! The cost of one token with a model as a backend holds it: bytes read and operations done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cost of one token. Only matrices count, since norms and biases are a ten-thousandth of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelCost {
    /// All parameters of the model.
    pub parameters: u64,
    /// Parameters that a prompt token is multiplied with: the matrices of the layers, with only the experts in use. The output
    /// head is left out, since only a prompt's last token passes through it.
    pub prefill_parameters: u64,
    /// Parameters that a generated token is multiplied with: the same plus the output head.
    pub decode_parameters: u64,
    /// Bytes of these as the backend holds them, which are read for every generated token.
    pub decode_bytes: u64,
    /// Bytes of one position's keys and values in all layers, which are read for every later token.
    pub kv_bytes: u64,
    /// The arithmetic of the products with most weights.
    pub arithmetic: Arithmetic,
}

/// A type of arithmetic with a measured peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Products of bytes summed in 32 bits, for quantised weights.
    Int8,
    /// `bf16` pairs summed in `f32`; `f32` if no instruction does that.
    Bf16,
    /// `f32`.
    F32,
}
