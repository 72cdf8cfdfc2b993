//! The CPUs and cores that this process may use, pinning threads to them, and caches. On systems other than Linux the lists are
//! empty and the system places threads.

use crate::{files, sys};
use std::io;
use std::sync::OnceLock;

/// The logical CPUs that the process's affinity mask allows, in ascending order; empty if unknown.
pub fn allowed_cpus() -> Vec<usize> {
    allowed().cpus.clone()
}

/// The first allowed CPU of every physical core, in ascending order; empty if unknown.
pub fn allowed_cores() -> Vec<usize> {
    allowed().cores.clone()
}

/// The CPU to which each of `threads` threads is pinned. Empty if threads are not pinned: a single thread, or more threads
/// than cores.
pub fn pins(threads: usize) -> Vec<usize> {
    let mut cores = allowed_cores();
    if threads < 2 || threads > cores.len() {
        return Vec::new();
    }
    cores.truncate(threads);
    cores
}

/// The default number of threads: the physical cores allowed, capped by any CPU quota.
pub fn default_threads() -> usize {
    match allowed_cores().len() {
        0 => quota(),
        cores => cores.min(quota()),
    }
}

/// The number of CPUs that the process may use: the affinity mask, capped by any CPU quota (control groups v1 and v2).
pub fn quota() -> usize {
    // Read once, for the same reason as the mask.
    static QUOTA: OnceLock<usize> = OnceLock::new();
    *QUOTA.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// Pins the calling thread to one CPU. Errors are ignored, since pinning only stabilises the speed.
pub fn pin_current_thread(cpu: usize) {
    let _ = sys::set_affinity(&[cpu]);
}

/// Restricts the calling thread, and the threads that it starts, to some CPUs.
///
/// # Errors
/// If the system does not support it, or refuses.
pub fn keep_to(cpus: &[usize]) -> io::Result<()> {
    sys::set_affinity(cpus)
}

/// The CPUs that the kernel keeps free of other processes (`isolcpus`), in ascending order.
pub fn isolated() -> Vec<usize> {
    parse_list(&files::line("/sys/devices/system/cpu/isolated").unwrap_or_default())
}

/// Size of the first CPU's last-level cache in bytes; 0 if unknown.
pub fn last_cache_bytes() -> usize {
    let size = |index: usize| files::line(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
    let sizes = (0..).map_while(size).filter_map(|text| parse_size(&text));
    sizes.max().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}

struct Allowed {
    cpus: Vec<usize>,
    cores: Vec<usize>,
}

fn allowed() -> &'static Allowed {
    // Read once, because pinning a thread narrows the mask that threads started by it see.
    static ALLOWED: OnceLock<Allowed> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let cpus = sys::affinity();
        let cores = cpus.iter().copied().filter(|&cpu| first_sibling(cpu, &cpus)).collect();
        Allowed { cpus, cores }
    })
}

/// Whether no allowed hyper-thread of the same core has a lower number.
fn first_sibling(cpu: usize, allowed: &[usize]) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let Some(list) = files::line(path) else { return true };
    !parse_list(&list).into_iter().any(|sibling| sibling < cpu && allowed.contains(&sibling))
}

/// Parses the kernel's sizes: `32768K`, `32M` or a number of bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Parses the kernel's lists, such as `0-3,8`, into ascending numbers. Parts that are not numbers are skipped.
fn parse_list(list: &str) -> Vec<usize> {
    /// More CPUs than any machine has; limits the result of a malformed list.
    const MOST: usize = 4096;
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            cpus.extend(first..=last.min(first.saturating_add(MOST)));
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for none in ["", "\n", "x-3", "a-b"] {
            assert_eq!(parse_list(none), [0usize; 0], "{none:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_restricted_to_its_cpus() {
        std::thread::spawn(|| {
            let before = sys::affinity();
            keep_to(&before[..1]).unwrap();
            assert_eq!(sys::affinity(), before[..1]);
            assert!(keep_to(&[]).is_err(), "a thread can't run on no CPU");
        })
        .join()
        .unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_thread_has_a_core() {
        let (cpus, cores) = (allowed_cpus(), allowed_cores());
        assert!(!cores.is_empty() && cores.iter().all(|core| cpus.contains(core)));
        assert!((1..=cpus.len()).contains(&default_threads()));
        assert!(pins(1).is_empty() && pins(cores.len() + 1).is_empty());
    }
}
