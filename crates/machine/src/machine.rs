//! The description of the machine: processor, caches, memory, limits, operating system.

use crate::cpus::parse_size;
use crate::files::line;
use crate::load;
use crate::memory::Available;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use sysinfo::System;

/// Prefixes of the instruction sets worth recording, as spelt in `/proc/cpuinfo`.
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

/// What the machine is. Figures that can't be read are `None`.
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
    /// Load average over one minute when the experiment began; `None` on systems that have none.
    pub load1: Option<f64>,
}

impl Machine {
    /// Reads the facts of this machine.
    pub fn probe() -> Machine {
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_all();
        let available = Available::now();
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
            available_bytes: available.machine.unwrap_or(0),
            cgroup_memory_bytes: available.group_limit,
            cgroup_available_bytes: available.group,
            cgroup_cpus: line("/sys/fs/cgroup/cpu.max").and_then(|l| cpu_max(&l)),
            os: System::long_os_version(),
            kernel: System::kernel_version(),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load1: load::load1(),
        }
    }

    /// Memory that this process can get, in bytes, and the beginning of a sentence that names the limit: the smaller of machine
    /// and control group, as in [`Available::bytes`].
    pub fn room(&self) -> (u64, &'static str) {
        match self.cgroup_available_bytes {
            Some(left) if left < self.available_bytes => (left, "the control group has room for"),
            _ => (self.available_bytes, "available are"),
        }
    }

    /// Size of the largest cache in bytes; 0 if none is known.
    pub fn last_cache_bytes(&self) -> u64 {
        self.caches.iter().filter_map(|c| parse_size(c.split_whitespace().last()?)).max().unwrap_or(0)
    }
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
    // `smep` is not an instruction set.
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
    fn the_largest_cache_is_used() {
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
    fn only_relevant_flags_are_kept() {
        assert_eq!(flags("fpu sse4_2 avx512_vnni smep tsc fma"), ["sse4_2", "avx512_vnni", "fma"]);
    }
}
