//! The resources of this process in the form of records.

use crate::record::ProcessUsage;
use zonda_machine::usage::Used;

impl From<Used> for ProcessUsage {
    fn from(used: Used) -> ProcessUsage {
        ProcessUsage {
            peak_rss: used.peak_bytes,
            cpu_ms: used.cpu_ms,
            voluntary_switches: used.voluntary_switches,
            involuntary_switches: used.involuntary_switches,
            energy_j: used.energy_j,
        }
    }
}
