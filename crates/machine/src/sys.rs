//! All calls of the system's C library, behind safe functions, and what takes their place on systems that lack them.

#[cfg(target_os = "linux")]
pub(crate) use linux::{affinity, evict, resident_pages, set_affinity};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{affinity, evict, resident_pages, set_affinity};
pub(crate) use process::usage;

/// What this process has used since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time of all threads, in ms.
    pub cpu_ms: f64,
    /// Voluntary and involuntary context switches.
    pub switches: (u64, u64),
    /// The most memory it ever held, in bytes.
    pub peak_bytes: Option<u64>,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;

    /// The logical CPUs that the calling thread may run on, in ascending order; empty if the system doesn't say.
    pub(crate) fn affinity() -> Vec<usize> {
        // SAFETY: all zeros is a valid, empty `cpu_set_t`.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set, of which the call writes at most the size given.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
            return Vec::new();
        }
        // SAFETY: every number is below `CPU_SETSIZE`, so within the set.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    /// Keeps the calling thread, and the threads that it will start, on some CPUs.
    pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
        // SAFETY: all zeros is a valid, empty `cpu_set_t`.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
            // SAFETY: the number is below `CPU_SETSIZE`, so within the set.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        // SAFETY: the set is live and of the size given; the call only reads it. 0 is the calling thread.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks the system to drop a file from the page cache.
    pub(crate) fn evict(file: &File) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `file` is borrowed; the call reads no memory of ours.
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
        // SAFETY: the mapping is read-only and none of its bytes is ever read, so a change of the file by another process
        // is never seen through it.
        let map = unsafe { memmap2::Mmap::map(file)? };
        // SAFETY: `sysconf` has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
        let mut pages = vec![0u8; map.len().div_ceil(page)];
        // SAFETY: the address is the start of a live mapping of `map.len()` bytes, and `pages` has a byte for each of its
        // pages, which is all that `mincore` writes.
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
    /// `SIGSEGV`: used memory that is not its own.
    pub const INVALID_MEMORY: i32 = libc::SIGSEGV;
    /// `SIGBUS`: used memory that has no storage behind it, such as a mapped file that was cut short.
    pub const BUS_ERROR: i32 = libc::SIGBUS;
    /// `SIGILL`: ran an instruction that the processor lacks.
    pub const ILLEGAL_INSTRUCTION: i32 = libc::SIGILL;
    /// `SIGABRT`: ended itself on an error.
    pub const ABORT: i32 = libc::SIGABRT;
}

#[cfg(unix)]
mod process {
    use super::Usage;

    /// What this process has used (`getrusage`); `None` if the system doesn't say.
    pub(crate) fn usage() -> Option<Usage> {
        // SAFETY: all zeros is a valid `rusage`, a plain C structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live `rusage`, which the call fills.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0 {
            return None;
        }
        let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        // kilobytes, but bytes on Apple's systems
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

    /// Not known on this system.
    pub(crate) fn usage() -> Option<Usage> {
        None
    }
}
