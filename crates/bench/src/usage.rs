//! What this process uses: memory, CPU time, context switches.

use crate::record::ProcessUsage;

/// Marks the beginning of a span; [`Span::end`] gives what was used since.
#[derive(Debug)]
pub struct Span {
    cpu_ms: Option<f64>,
    energy: Option<Vec<energy::Counter>>,
    switches: Option<(u64, u64)>,
}

impl Span {
    /// Begins here. On Linux the highest-memory mark is reset, so that the span's own peak is seen.
    pub fn begin() -> Span {
        // "5" resets VmHWM (proc(5), clear_refs). Where it isn't allowed the mark is of the process so far.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let (cpu_ms, switches, _) = system::usage();
        Span { cpu_ms, energy: energy::counters(), switches }
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
            energy_j: self.energy.zip(energy::counters()).and_then(|(then, now)| energy::joules(&then, &now)),
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

mod energy {
    //! RAPL, as Linux's powercap shows it: a counter of microjoules for each package, which starts again at its range.
    //! Since 2020 only root may read it (CVE-2020-8694).

    use std::fs;
    use std::path::Path;

    /// A package's counter and the value after which it starts again, in microjoules.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Counter {
        pub value: u64,
        pub range: u64,
    }

    /// The packages' counters; `None` if there are none or they may not be read.
    pub fn counters() -> Option<Vec<Counter>> {
        read(Path::new("/sys/class/powercap"))
    }

    pub(super) fn read(dir: &Path) -> Option<Vec<Counter>> {
        let number = |path: std::path::PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let mut folders: Vec<_> = fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
        folders.sort();
        let package = |folder: &&std::path::PathBuf| {
            fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim().starts_with("package-"))
        };
        let counters: Option<Vec<_>> = folders
            .iter()
            .filter(package)
            .map(|f| {
                let range = number(f.join("max_energy_range_uj"))?;
                Some(Counter { value: number(f.join("energy_uj"))?, range })
            })
            .collect();
        counters.filter(|c| !c.is_empty())
    }

    /// Energy between two readings, in joules; `None` if they are not of the same counters.
    pub fn joules(then: &[Counter], now: &[Counter]) -> Option<f64> {
        let one = |(then, now): (&Counter, &Counter)| {
            let again = if now.value < then.value { now.range } else { 0 };
            (now.value + again).checked_sub(then.value)
        };
        let sum: Option<u64> = then.iter().zip(now).map(one).sum();
        sum.filter(|_| then.len() == now.len()).map(|microjoules| microjoules as f64 / 1e6)
    }
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

    #[test]
    fn energy_of_packages_that_start_again() {
        let dir = tempfile::tempdir().unwrap();
        let domain = |folder: &str, name: &str, value: &str| {
            let folder = dir.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            for (file, text) in [("name", name), ("energy_uj", value), ("max_energy_range_uj", "1000000\n")] {
                std::fs::write(folder.join(file), text).unwrap();
            }
        };
        domain("intel-rapl:0", "package-0\n", "900000\n");
        domain("intel-rapl:0:0", "core\n", "5\n");
        domain("intel-rapl:1", "package-1\n", "7\n");
        let then = energy::read(dir.path()).unwrap();
        assert_eq!(then.len(), 2, "a core's energy is part of its package's");
        let now =
            [energy::Counter { value: 400_000, ..then[0] }, energy::Counter { value: 1_000_007, ..then[1] }];
        assert_eq!(energy::joules(&then, &now), Some(0.5 + 1.0));
        assert_eq!(energy::joules(&then, &now[..1]), None);
        assert_eq!(energy::read(&dir.path().join("none")), None);
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
