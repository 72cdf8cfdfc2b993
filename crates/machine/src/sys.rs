//! Safe functions for all calls of the C library, and their replacements on systems without these calls.

#[cfg(target_os = "linux")]
pub(crate) use linux::{affinity, evict, resident_pages, set_affinity};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{affinity, evict, resident_pages, set_affinity};
pub(crate) use process::usage;

/// The resources that this process has used since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time of all threads, in ms.
    pub cpu_ms: f64,
    /// Voluntary and involuntary context switches.
    pub switches: (u64, u64),
    /// Peak resident memory in bytes.
    pub peak_bytes: Option<u64>,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;

    /// The logical CPUs that the calling thread may run on, in ascending order; empty if unknown.
    pub(crate) fn affinity() -> Vec<usize> {
        // SAFETY: all zeros is a valid, empty `cpu_set_t`.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set, and the call writes at most the given size.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
            return Vec::new();
        }
        // SAFETY: every number is below `CPU_SETSIZE`, so within the set.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    /// Restricts the calling thread, and the threads that it starts, to some CPUs.
    pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
        // SAFETY: all zeros is a valid, empty `cpu_set_t`.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
            // SAFETY: the number is below `CPU_SETSIZE`, so within the set.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        // SAFETY: the set is live and has the given size; the call only reads it. 0 is the calling thread.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks the system to drop a file from the page cache.
    pub(crate) fn evict(file: &File) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `file` is borrowed; the call accesses no memory of ours.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// `(pages in the page cache, all pages)` of a file.
    pub(crate) fn resident_pages(file: &File) -> io::Result<(usize, usize)> {
        if file.metadata()?.len() == 0 {
            return Ok((0, 0));
        }
        // SAFETY: the mapping is read-only and its bytes are never read, so changes of the file by other processes are not
        // visible through it.
        let map = unsafe { memmap2::Mmap::map(file)? };
        // SAFETY: `sysconf` has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
        let mut pages = vec![0u8; map.len().div_ceil(page)];
        // SAFETY: the address is the start of a live mapping of `map.len()` bytes, and `mincore` writes one byte for each of
        // its pages, for which `pages` has room.
        let failed = unsafe { libc::mincore(map.as_ptr() as *mut _, map.len(), pages.as_mut_ptr()) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((pages.iter().filter(|&&p| p & 1 == 1).count(), pages.len()))
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::fs::File;
    use std::io::{Error, ErrorKind, Result};

    pub(crate) fn affinity() -> Vec<usize> {
        Vec::new()
    }

    pub(crate) fn set_affinity(_: &[usize]) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this system does not pin threads"))
    }

    pub(crate) fn evict(_: &File) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub(crate) fn resident_pages(_: &File) -> Result<(usize, usize)> {
        Err(Error::from(ErrorKind::Unsupported))
    }
}

/// Signals that end a process, by number.
#[cfg(unix)]
pub mod signals {
    /// `SIGKILL`: killed from outside.
    pub const KILL: i32 = libc::SIGKILL;
    /// `SIGSEGV`: accessed memory that it does not have.
    pub const INVALID_MEMORY: i32 = libc::SIGSEGV;
    /// `SIGBUS`: accessed memory without storage behind it, such as a mapped file that was truncated.
    pub const BUS_ERROR: i32 = libc::SIGBUS;
    /// `SIGILL`: ran an instruction that the processor lacks.
    pub const ILLEGAL_INSTRUCTION: i32 = libc::SIGILL;
    /// `SIGABRT`: ended itself on an error.
    pub const ABORT: i32 = libc::SIGABRT;
}

#[cfg(unix)]
mod process {
    use super::Usage;

    /// The resources that this process has used (`getrusage`); `None` if unknown.
    pub(crate) fn usage() -> Option<Usage> {
        // SAFETY: all zeros is a valid `rusage`, a plain C structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live `rusage`, which the call fills.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0 {
            return None;
        }
        let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        // In kilobytes, but in bytes on Apple's systems.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        Some(Usage {
            cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
            switches: (count(usage.ru_nvcsw), count(usage.ru_nivcsw)),
            peak_bytes: count(usage.ru_maxrss).checked_mul(unit),
        })
    }
}

#[cfg(not(unix))]
mod process {
    use super::Usage;

    /// Unknown on this system.
    pub(crate) fn usage() -> Option<Usage> {
        None
    }
}
