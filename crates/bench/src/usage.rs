//! What this process uses: memory, CPU time, context switches.

use crate::record::ProcessUsage;

/// Marks the beginning of a span; [`Span::end`] gives what was used since.
#[derive(Debug)]
pub struct Span {
    cpu_ms: Option<f64>,
    switches: Option<(u64, u64)>,
}

impl Span {
    /// Begins here. On Linux the highest-memory mark is reset, so that the span's own peak is seen.
    pub fn begin() -> Span {
        // "5" resets VmHWM (proc(5), clear_refs). Where it isn't allowed the mark is of the process so far.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let (cpu_ms, switches, _) = system::usage();
        Span { cpu_ms, switches }
    }

    /// What was used since the beginning.
    pub fn end(self) -> ProcessUsage {
        let (cpu_ms, switches, peak) = system::usage();
        let since = |pick: fn((u64, u64)) -> u64| Some(pick(switches?).saturating_sub(pick(self.switches?)));
        ProcessUsage {
            peak_rss: peak_rss().or(peak),
            cpu_ms: cpu_ms.zip(self.cpu_ms).map(|(now, then)| (now - then).max(0.0)),
            voluntary_switches: since(|s| s.0),
            involuntary_switches: since(|s| s.1),
        }
    }
}

/// `VmHWM` of Linux's `/proc/self/status`, in bytes.
fn peak_rss() -> Option<u64> {
    vm_hwm(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn vm_hwm(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(unix)]
mod system {
    //! `getrusage`.

    /// CPU time in ms, (voluntary, involuntary) context switches, peak memory of the process in bytes.
    pub fn usage() -> (Option<f64>, Option<(u64, u64)>, Option<u64>) {
        // SAFETY: rusage is a plain C structure for which all zeros is a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live rusage that getrusage fills.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0 {
            return (None, None, None);
        }
        let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        // Kilobytes, except on Apple's systems, where it is bytes.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        (
            Some(ms(usage.ru_utime) + ms(usage.ru_stime)),
            Some((count(usage.ru_nvcsw), count(usage.ru_nivcsw))),
            count(usage.ru_maxrss).checked_mul(unit),
        )
    }
}

#[cfg(not(unix))]
mod system {
    //! Not known on this system.

    pub fn usage() -> (Option<f64>, Option<(u64, u64)>, Option<u64>) {
        (None, None, None)
    }
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
    fn memory_that_was_touched_is_seen() {
        let span = Span::begin();
        let before = Span::begin().end().peak_rss.unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        drop(block);
        let usage = span.end();
        assert!(usage.peak_rss.unwrap() >= before + (48 << 20), "{usage:?}, before {before}");
        assert!(usage.cpu_ms.is_some() && usage.voluntary_switches.is_some());
    }
}
