//! What a machine can do at most, as measured: the types. Measuring is done by whoever has the instructions.

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

/// What the machine reached in one measurement. The same keys as `zonda doctor --json` has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Peaks {
    /// Threads behind [`Rate::all_threads`].
    pub threads: usize,
    /// The instruction set that it was measured with.
    pub instruction_set: String,
    /// Memory read, in bytes a second, out of half a GiB: about the weights of a small model.
    pub read_bytes_per_s: Rate,
    /// Memory read out of 4 GiB, as large models are read; `None` if it was not measured. It is slower where looking up the
    /// addresses of pages no longer stays in a cache, as in virtual machines, whose pages are looked up twice.
    #[serde(default)]
    pub read_large_bytes_per_s: Option<Rate>,
    /// Bytes times bytes into 32 bits, in operations a second: a multiply-add is two.
    pub int8_ops_per_s: Rate,
    /// `bf16` pairs into `f32`, likewise; `None` where no instruction does that.
    pub bf16_ops_per_s: Option<Rate>,
    /// `f32`, likewise.
    pub f32_ops_per_s: Rate,
}
