//! The resources of this process: CPU time, context switches, memory, and the energy used by the machine meanwhile.

use crate::{energy, sys};

/// The resources used between [`Span::begin`] and [`Span::end`]. Unknown figures are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Peak resident memory of the process in bytes.
    pub peak_bytes: Option<u64>,
    /// User and system time of all threads, in ms.
    pub cpu_ms: Option<f64>,
    /// Context switches because a thread waited.
    pub voluntary_switches: Option<u64>,
    /// Context switches because the system preempted it.
    pub involuntary_switches: Option<u64>,
    /// Energy used by the processor packages for everything that ran, in joules.
    pub energy_j: Option<f64>,
}

/// Marks the beginning of a span.
#[derive(Debug)]
pub struct Span {
    usage: Option<sys::Usage>,
    energy: Option<Vec<energy::Counter>>,
}

impl Span {
    /// Begins a span. On Linux the peak memory is reset, so that the span's own peak is measured.
    pub fn begin() -> Span {
        // "5" resets VmHWM (proc(5), clear_refs). If that is not allowed, the peak is that of the process so far.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Span { usage: sys::usage(), energy: energy::counters() }
    }

    /// The resources used since the beginning.
    pub fn end(self) -> Used {
        let now = sys::usage();
        let both = self.usage.zip(now);
        Used {
            peak_bytes: peak_bytes().or(now.and_then(|now| now.peak_bytes)),
            cpu_ms: both.map(|(then, now)| (now.cpu_ms - then.cpu_ms).max(0.0)),
            voluntary_switches: both.map(|(then, now)| now.switches.0.saturating_sub(then.switches.0)),
            involuntary_switches: both.map(|(then, now)| now.switches.1.saturating_sub(then.switches.1)),
            energy_j: self.energy.zip(energy::counters()).and_then(|(then, now)| energy::joules(&then, &now)),
        }
    }
}

/// `VmHWM` of Linux's `/proc/self/status`, in bytes.
fn peak_bytes() -> Option<u64> {
    vm_hwm(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn vm_hwm(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(vm_hwm("Name:\tx\nVmHWM:\t   1024 kB\nVmRSS:\t 8 kB\n"), Some(1 << 20));
        assert_eq!(vm_hwm("VmHWM:\tmuch kB"), None);
        assert_eq!(vm_hwm(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn touched_memory_is_counted() {
        let span = Span::begin();
        let before = Span::begin().end().peak_bytes.unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        drop(block);
        let used = span.end();
        assert!(used.peak_bytes.unwrap() >= before + (48 << 20), "{used:?}, before {before}");
        assert!(used.cpu_ms.is_some() && used.voluntary_switches.is_some());
    }
}
