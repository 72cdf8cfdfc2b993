//! The machine's peaks: memory bandwidth and arithmetic, measured before the first run and after the last.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Models of more bytes than this are held against the peak of reading large memory.
pub const LARGE: u64 = 1 << 30;

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
    /// Memory read, in bytes a second, out of half a GiB.
    pub read_bytes_per_s: Rate,
    /// Likewise out of 4 GiB, as large models are read; `None` if there was none to measure for.
    #[serde(default)]
    pub read_large_bytes_per_s: Option<Rate>,
    /// Bytes times bytes into 32 bits, in operations a second: a multiply-add is two.
    pub int8_ops_per_s: Rate,
    /// `bf16` pairs into `f32`, likewise; `None` where no instruction does that.
    pub bf16_ops_per_s: Option<Rate>,
    /// `f32`, likewise.
    pub f32_ops_per_s: Rate,
}

/// The machine's peaks before the first run and after the last one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Roofline {
    /// Before; `None` if not measured.
    pub before: Option<Peaks>,
    /// After; `None` if not measured, as after an interrupt.
    pub after: Option<Peaks>,
    /// Why a measurement is missing; `None` if it was not asked for, or none is.
    pub why: Option<String>,
}
