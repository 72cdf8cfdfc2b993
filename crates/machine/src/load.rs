//! Other work on the machine: the load average, busy processes, and time stolen by a hypervisor.

use std::cmp::Reverse;
use std::time::Duration;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The load average over one minute; `None` on systems without one.
pub fn load1() -> Option<f64> {
    cfg!(unix).then(|| System::load_average().one)
}

/// A process that uses the CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct BusyProcess {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its share of one core, in percent.
    pub cpu_pct: f64,
}

/// Other processes that use more than `over_pct` percent of a core, the busiest first, at most five. Measures for a fifth of a
/// second.
pub fn busy_processes(over_pct: f32) -> Vec<BusyProcess> {
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL.max(Duration::from_millis(200)));
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let own = std::process::id();
    let mut busy: Vec<_> = system
        .processes()
        .values()
        .filter(|p| p.pid().as_u32() != own && p.thread_kind().is_none() && p.cpu_usage() > over_pct)
        .map(|p| BusyProcess {
            name: p.name().to_string_lossy().into_owned(),
            pid: p.pid().as_u32(),
            cpu_pct: f64::from(p.cpu_usage()),
        })
        .collect();
    busy.sort_by_key(|p| Reverse(p.cpu_pct as u64));
    busy.truncate(5);
    busy
}

/// Time stolen from this machine by the hypervisor, and total time, since the system started. Linux only.
#[derive(Clone, Copy, Debug)]
pub struct Steal {
    stolen: u64,
    all: u64,
}

impl Steal {
    /// The current counters; `None` if the system has none.
    pub fn now() -> Option<Steal> {
        Steal::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal …
    fn parse(text: &str) -> Option<Steal> {
        let fields: Vec<u64> = text
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map(|f| f.parse().ok())
            .collect::<Option<_>>()?;
        Some(Steal { stolen: *fields.get(7)?, all: fields.iter().sum() })
    }

    /// The share of the time between two readings that was stolen, in percent; `None` if no time passed.
    pub fn pct(before: Steal, after: Steal) -> Option<f64> {
        let all = after.all.checked_sub(before.all).filter(|&n| n > 0)?;
        Some(100.0 * after.stolen.saturating_sub(before.stolen) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = Steal::parse("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1").unwrap();
        let after = Steal::parse("cpu  60 0 20 110 0 0 0 10 0 0\n").unwrap();
        assert_eq!(Steal::pct(before, after), Some(10.0));
        assert_eq!(Steal::pct(before, before), None);
        for bad in ["", "cpu  1 2", "intr 5", "cpu  a b c d e f g h"] {
            assert!(Steal::parse(bad).is_none(), "{bad:?}");
        }
    }
}
