//! The machine that measures: what it is, and what may disturb it.

use crate::memory::Left;
use crate::record::Warning;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::time::Duration;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Instruction sets worth recording, as `/proc/cpuinfo` spells their beginnings.
const FLAGS: [&str; 14] = [
    "sse4_2",
    "avx",
    "fma",
    "f16c",
    "bmi2",
    "amx",
    "asimd",
    "neon",
    "sve",
    "sme",
    "i8mm",
    "bf16",
    "fphp",
    "hypervisor",
];
/// A process that uses more of a core than this, in percent, is named.
const BUSY_PCT: f32 = 20.0;

/// What the machine is. What can't be read is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Target architecture: `x86_64`, `aarch64`.
    pub arch: String,
    /// Physical cores.
    pub physical_cores: Option<usize>,
    /// Logical cores.
    pub logical_cores: usize,
    /// Caches of core 0, such as `L2 1024K`.
    pub caches: Vec<String>,
    /// Instruction sets that matter for inference.
    pub cpu_flags: Vec<String>,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Memory free for use when the experiment began, in bytes.
    pub available_bytes: u64,
    /// Memory limit of the control group in bytes, if there is one: the lowest of this process's groups.
    pub cgroup_memory_bytes: Option<u64>,
    /// What the control groups left this process of their limits when the experiment began, in bytes, if they have any.
    #[serde(default)]
    pub cgroup_available_bytes: Option<u64>,
    /// Cores' worth of time that the control group allows, if it limits it.
    pub cgroup_cpus: Option<f64>,
    /// Operating system and version.
    pub os: Option<String>,
    /// Kernel version.
    pub kernel: Option<String>,
    /// CPU frequency governor of core 0.
    pub governor: Option<String>,
    /// Load average over one minute when the experiment began; `None` where the system has none.
    pub load1: Option<f64>,
}

impl Machine {
    /// Looks at this machine.
    pub fn probe() -> Machine {
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_all();
        let left = Left::now();
        let named =
            |name: &str| system.cpus().first().map(|c| c.brand().trim().to_owned()).filter(|b| b != name);
        Machine {
            cpu: named("").or_else(|| cpuinfo("model name")),
            arch: std::env::consts::ARCH.into(),
            physical_cores: System::physical_core_count(),
            logical_cores: system.cpus().len(),
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
            cpu_flags: cpuinfo("flags")
                .or_else(|| cpuinfo("Features"))
                .map(|f| flags(&f))
                .unwrap_or_default(),
            memory_bytes: system.total_memory(),
            available_bytes: left.machine.unwrap_or(0),
            cgroup_memory_bytes: left.group_limit,
            cgroup_available_bytes: left.group,
            cgroup_cpus: line("/sys/fs/cgroup/cpu.max").and_then(|l| cpu_max(&l)),
            os: System::long_os_version(),
            kernel: System::kernel_version(),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load1: cfg!(unix).then(|| System::load_average().one),
        }
    }

    /// Memory that this process could get, in bytes, and who says so: the tighter of machine and control group, as
    /// [`Left::bytes`] has it.
    pub fn room(&self) -> (u64, &'static str) {
        match self.cgroup_available_bytes {
            Some(left) if left < self.available_bytes => (left, "the control group has room for"),
            _ => (self.available_bytes, "available are"),
        }
    }

    /// Size of the largest cache in bytes; 0 if none is known.
    pub fn last_cache_bytes(&self) -> u64 {
        self.caches.iter().filter_map(|c| cache_bytes(c)).max().unwrap_or(0)
    }

    /// What may disturb a measurement that begins now. Watches the other processes for a fifth of a second.
    pub fn check(&self) -> Vec<Warning> {
        let mut warnings = self.standing();
        warnings.extend(busy_processes());
        warnings
    }

    /// What follows from the machine's own figures.
    fn standing(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let cores = self.physical_cores.unwrap_or(self.logical_cores).max(1);
        if let Some(load1) = self.load1.filter(|&l| l > 0.5 * cores as f64) {
            warnings.push(Warning::HighLoad { load1, cores });
        }
        if let Some(governor) = self.governor.clone().filter(|g| g != "performance") {
            warnings.push(Warning::Governor { governor });
        }
        if cfg!(debug_assertions) {
            warnings.push(Warning::DebugBuild);
        }
        warnings
    }
}

/// Other processes that use a good part of a core right now.
fn busy_processes() -> Vec<Warning> {
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL.max(Duration::from_millis(200)));
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let own = std::process::id();
    let mut busy: Vec<_> = system
        .processes()
        .values()
        .filter(|p| p.pid().as_u32() != own && p.thread_kind().is_none() && p.cpu_usage() > BUSY_PCT)
        .map(|p| Warning::BusyProcess {
            name: p.name().to_string_lossy().into_owned(),
            pid: p.pid().as_u32(),
            cpu_pct: f64::from(p.cpu_usage()),
        })
        .collect();
    busy.sort_by_key(|w| match w {
        Warning::BusyProcess { cpu_pct, .. } => std::cmp::Reverse(*cpu_pct as u64),
        _ => std::cmp::Reverse(0),
    });
    busy.truncate(5);
    busy
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// The first value of a key in Linux's `/proc/cpuinfo`.
fn cpuinfo(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|l| {
        let (k, v) = l.split_once(':')?;
        (k.trim() == key).then(|| v.trim().to_owned())
    })
}

fn flags(all: &str) -> Vec<String> {
    // smep is no instruction set
    let telling = |f: &&str| *f != "smep" && FLAGS.iter().any(|p| f.starts_with(p));
    all.split_whitespace().filter(telling).map(str::to_owned).collect()
}

fn caches(dir: &Path) -> Vec<String> {
    let one = |index: usize| {
        let at = dir.join(format!("index{index}"));
        let kind = line(at.join("type"))?;
        let kind = match kind.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some(format!("L{}{kind} {}", line(at.join("level"))?, line(at.join("size"))?))
    };
    (0..8).map_while(one).collect()
}

/// The size in `L3 32768K`, in bytes.
fn cache_bytes(cache: &str) -> Option<u64> {
    let size = cache.split_whitespace().last()?;
    let (number, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// `200000 100000` means two cores; `max 100000` no limit.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::probe();
        assert!(machine.logical_cores > 0 && machine.memory_bytes > 0, "{machine:?}");
        assert!(machine.physical_cores.is_none_or(|p| p <= machine.logical_cores));
        assert_ne!(machine.cpu.as_deref(), Some(""));
    }

    #[test]
    fn warnings_follow_from_the_figures() {
        let busy = Machine { load1: Some(3.0), physical_cores: Some(4), ..Machine::default() };
        assert!(busy.standing().contains(&Warning::HighLoad { load1: 3.0, cores: 4 }));
        let governed = |by: &str| Machine {
            load1: Some(0.1),
            physical_cores: Some(4),
            governor: Some(by.into()),
            ..Machine::default()
        };
        let of_power = |w: &Warning| matches!(w, Warning::HighLoad { .. } | Warning::Governor { .. });
        assert!(!governed("performance").standing().iter().any(of_power));
        assert!(
            governed("powersave").standing().contains(&Warning::Governor { governor: "powersave".into() })
        );
    }

    #[test]
    fn the_largest_cache_counts() {
        let caches = ["L1d 48K", "L2 1024K", "L3 32M", "L3 much"].map(str::to_owned).to_vec();
        assert_eq!(Machine { caches, ..Machine::default() }.last_cache_bytes(), 32 << 20);
        assert_eq!(Machine::default().last_cache_bytes(), 0);
    }

    #[test]
    fn control_group_limits() {
        assert_eq!(cpu_max("200000 100000\n"), Some(2.0));
        assert_eq!(cpu_max("max 100000"), None);
        assert_eq!(cpu_max("1 0"), None);
    }

    #[test]
    fn only_telling_flags_are_kept() {
        assert_eq!(flags("fpu sse4_2 avx512_vnni smep tsc fma"), ["sse4_2", "avx512_vnni", "fma"]);
    }
}
