//! The machine's peaks: memory bandwidth and arithmetic, measured before the first run and after the last.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use zonda_machine::{Peaks, Rate};

/// Models of more bytes than this are compared with the peak of reading large memory.
pub const LARGE: u64 = 1 << 30;

/// The machine's peaks before the first run and after the last one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Roofline {
    /// Before the first run; `None` if not measured.
    pub before: Option<Peaks>,
    /// After the last run; `None` if not measured, as after an interrupt.
    pub after: Option<Peaks>,
    /// Why a measurement is missing; `None` if none is missing or none was requested.
    pub why: Option<String>,
}
