//! Which cores this process may use, and pinning threads to them. Linux; elsewhere threads are left to the system.

use std::sync::OnceLock;

/// The logical CPUs that the process's affinity mask allows, in ascending order. Empty where the system doesn't say.
pub fn allowed_cpus() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        linux::allowed().cpus.clone()
    }
    #[cfg(not(target_os = "linux"))]
    {
        Vec::new()
    }
}

/// The first allowed CPU of every physical core, in ascending order. Empty where the system doesn't say.
pub fn allowed_cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        linux::allowed().cores.clone()
    }
    #[cfg(not(target_os = "linux"))]
    {
        Vec::new()
    }
}

/// The CPU that each of `threads` threads is pinned to. Empty where threads are left to the system: a single one, or
/// more than there are cores.
pub fn pins(threads: usize) -> Vec<usize> {
    let mut cores = allowed_cores();
    if threads < 2 || threads > cores.len() {
        return Vec::new();
    }
    cores.truncate(threads);
    cores
}

/// How many threads to use unless told: physical cores allowed, capped by any CPU quota.
pub fn default_threads() -> usize {
    match allowed_cores().len() {
        0 => quota(),
        cores => cores.min(quota()),
    }
}

/// How many CPUs' worth of time the process may use: the affinity mask, capped by any CPU quota (cgroup v1 and v2).
pub fn quota() -> usize {
    // read once, for the same reason as the mask
    static QUOTA: OnceLock<usize> = OnceLock::new();
    *QUOTA.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// Size of the last cache before memory, as the first CPU sees it, in bytes; 0 where the system doesn't say.
pub fn last_cache_bytes() -> usize {
    #[cfg(target_os = "linux")]
    {
        linux::last_cache_bytes()
    }
    #[cfg(not(target_os = "linux"))]
    {
        0
    }
}

/// Memory that could be had without swapping, in bytes; `None` where the system doesn't say.
pub fn available_bytes() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        linux::available_bytes()
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

/// Keeps the calling thread on one CPU; a refusal is ignored, since pinning only steadies the speed.
pub fn pin_current_thread(cpu: usize) {
    #[cfg(target_os = "linux")]
    linux::pin_current_thread(cpu);
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::sync::OnceLock;

    pub struct Allowed {
        pub cpus: Vec<usize>,
        pub cores: Vec<usize>,
    }

    pub fn allowed() -> &'static Allowed {
        // read once: pinning a thread narrows the mask that its later children would see
        static ALLOWED: OnceLock<Allowed> = OnceLock::new();
        ALLOWED.get_or_init(|| {
            let cpus = affinity();
            let cores = cpus.iter().copied().filter(|&cpu| first_sibling(cpu, &cpus)).collect();
            Allowed { cpus, cores }
        })
    }

    fn affinity() -> Vec<usize> {
        // SAFETY: an all-zero cpu_set_t is a valid empty set, and the call writes at most its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
                return Vec::new();
            }
            (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
        }
    }

    /// Whether no allowed hyper-thread of the same core has a lower number.
    fn first_sibling(cpu: usize, allowed: &[usize]) -> bool {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let Ok(list) = fs::read_to_string(path) else { return true };
        !parse_list(&list).into_iter().any(|sibling| sibling < cpu && allowed.contains(&sibling))
    }

    pub fn last_cache_bytes() -> usize {
        let size = |index: usize| {
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()
        };
        (0..).map_while(size).filter_map(|text| parse_size(&text)).max().unwrap_or(0)
    }

    pub fn available_bytes() -> Option<usize> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1 << 10)
    }

    /// Parses the kernel's sizes: `32768K`.
    fn parse_size(text: &str) -> Option<usize> {
        let text = text.trim();
        let (digits, unit) = match text.strip_suffix('K') {
            Some(digits) => (digits, 1 << 10),
            None => (text.strip_suffix('M').unwrap_or(text), if text.ends_with('M') { 1 << 20 } else { 1 }),
        };
        digits.parse::<usize>().ok()?.checked_mul(unit)
    }

    /// Parses the kernel's list format: `0-3,8`.
    fn parse_list(list: &str) -> Vec<usize> {
        let number = |s: &str| s.trim().parse::<usize>().ok();
        list.split(',')
            .filter_map(|part| match part.split_once('-') {
                Some((a, b)) => Some(number(a)?..=number(b)?),
                None => number(part).map(|n| n..=n),
            })
            .flatten()
            .collect()
    }

    pub fn pin_current_thread(cpu: usize) {
        // SAFETY: the set is initialised, and the call only reads it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{parse_list, parse_size};

        #[test]
        fn kernel_sizes() {
            assert_eq!(parse_size("32768K\n"), Some(32 << 20));
            assert_eq!(parse_size("4M"), Some(4 << 20));
            assert_eq!(parse_size("64"), Some(64));
            assert_eq!(parse_size("none"), None);
        }

        #[test]
        fn kernel_lists() {
            assert_eq!(parse_list("0-2,5\n"), [0, 1, 2, 5]);
            assert_eq!(parse_list("7"), [7]);
            assert_eq!(parse_list(""), [0usize; 0]);
            assert_eq!(parse_list("x-3"), [0usize; 0]);
        }
    }
}
