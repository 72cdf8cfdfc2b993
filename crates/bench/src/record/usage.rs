//! What processes used, and the state of the machine while they ran.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a process used over some span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessUsage {
    /// Highest resident memory within the span, in bytes (where the system can't reset the mark: of the process so far).
    pub peak_rss: Option<u64>,
    /// CPU time of all threads, user and system, in ms.
    pub cpu_ms: Option<f64>,
    /// Context switches the process asked for (waiting).
    pub voluntary_switches: Option<u64>,
    /// Context switches forced on it: another process wanted the core.
    pub involuntary_switches: Option<u64>,
    /// Energy that the processor's packages used meanwhile, other processes' share included, in joules (RAPL); `None`
    /// where the system doesn't let it be read.
    #[serde(default)]
    pub energy_j: Option<f64>,
}

/// What went on in the machine from the first run to the last. What can't be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conditions {
    /// Share of the cores' time that the hypervisor gave to others, in percent.
    pub steal_pct: Option<f64>,
    /// Load average over one minute at the end.
    pub load1_after: Option<f64>,
    /// The hottest thermal zone before the first run, in °C.
    pub celsius_before: Option<f64>,
    /// The hottest thermal zone after the last run, in °C.
    pub celsius_after: Option<f64>,
    /// How often the processor was slowed down for its heat meanwhile.
    pub throttles: Option<u64>,
}
