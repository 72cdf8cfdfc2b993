//! Keeping a process to its cores. Linux; elsewhere it is said that it can't be.

use std::collections::BTreeSet;

/// Keeps this process, and the threads it will start, to some CPUs; returns them.
///
/// # Errors
/// Why it can't be kept there.
#[cfg(target_os = "linux")]
pub(crate) fn keep_to(cpus: &[usize]) -> Result<Vec<usize>, String> {
    if cpus.is_empty() {
        return Err("the system does not say which CPUs there are".into());
    }
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set is alive and of the size given; 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    Ok(cpus.to_vec())
}

/// Keeps this process to some CPUs; returns them.
///
/// # Errors
/// Always: this system has no call for it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_to(_cpus: &[usize]) -> Result<Vec<usize>, String> {
    Err("this system does not pin processes".into())
}

/// Why other processes may run on these CPUs too; `None` if the kernel keeps them free (`isolcpus`).
pub(crate) fn shared(cpus: &[usize]) -> Option<String> {
    let free = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let free = parse_list(&free);
    let others: Vec<String> = cpus.iter().filter(|cpu| !free.contains(cpu)).map(usize::to_string).collect();
    (!others.is_empty()).then(|| {
        format!(
            "the kernel lets others run on CPU {} (its parameter isolcpus keeps CPUs free)",
            others.join(", ")
        )
    })
}

/// Linux's lists of CPUs: `0-3,8`.
fn parse_list(text: &str) -> BTreeSet<usize> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend(first..=last.min(first + 4096));
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-2,8\n"), BTreeSet::from([0, 1, 2, 8]));
        assert!(parse_list("\n").is_empty() && parse_list("a-b").is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_kept_or_told_why_not() {
        std::thread::spawn(|| {
            assert!(keep_to(&[]).unwrap_err().contains("which CPUs"));
            let allowed = allowed();
            assert_eq!(keep_to(&allowed[..1]).unwrap(), allowed[..1]);
            assert_eq!(tests::allowed(), allowed[..1]);
        })
        .join()
        .unwrap();
    }

    #[cfg(target_os = "linux")]
    fn allowed() -> Vec<usize> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        parse_list(list).into_iter().collect()
    }
}
