//! The types of a machine's measured peaks. The crate with the kernels measures them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rate with one core working, and with all threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rate {
    /// One core, the others idle.
    pub one_core: f64,
    /// All threads together.
    pub all_threads: f64,
}

/// The machine's peaks in one measurement, with the same keys as in `zonda doctor --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Peaks {
    /// Threads behind [`Rate::all_threads`].
    pub threads: usize,
    /// The instruction set of the measurement.
    pub instruction_set: String,
    /// Read bandwidth of half a GiB of memory, about the weights of a small model, in bytes per second.
    pub read_bytes_per_s: Rate,
    /// Read bandwidth of 4 GiB of memory, as for large models; `None` if it was not measured. It is lower if the page tables no
    /// longer fit a cache, especially in virtual machines, which look up each page twice.
    #[serde(default)]
    pub read_large_bytes_per_s: Option<Rate>,
    /// Products of bytes summed in 32 bits, in operations per second; a multiply-add counts as two.
    pub int8_ops_per_s: Rate,
    /// `bf16` pairs summed in `f32`, likewise; `None` if no instruction does that.
    pub bf16_ops_per_s: Option<Rate>,
    /// `f32`, likewise.
    pub f32_ops_per_s: Rate,
}
