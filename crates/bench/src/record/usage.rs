//! The resources that processes used, and the state of the machine while they ran.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The resources that a process used over a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessUsage {
    /// Peak resident memory within the span, in bytes (of the process so far, if the system can't reset the peak).
    pub peak_rss: Option<u64>,
    /// CPU time of all threads, user and system, in ms.
    pub cpu_ms: Option<f64>,
    /// Voluntary context switches (the process waited).
    pub voluntary_switches: Option<u64>,
    /// Involuntary context switches (another process got the core).
    pub involuntary_switches: Option<u64>,
    /// Energy used by the processor packages, including other processes, in joules (RAPL); `None` if it can't be read.
    #[serde(default)]
    pub energy_j: Option<f64>,
}

/// The state of the machine from the first run to the last. Unreadable figures are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conditions {
    /// Share of the cores' time that the hypervisor gave to other tenants, in percent.
    pub steal_pct: Option<f64>,
    /// Load average over one minute at the end.
    pub load1_after: Option<f64>,
    /// The hottest thermal zone before the first run, in °C.
    pub celsius_before: Option<f64>,
    /// The hottest thermal zone after the last run, in °C.
    pub celsius_after: Option<f64>,
    /// How often the processor throttled.
    pub throttles: Option<u64>,
}
