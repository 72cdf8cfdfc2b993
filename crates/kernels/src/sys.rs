//! The calls of the system's C library that the kernels need, behind safe functions. Linux only.
#![cfg(target_os = "linux")]

use std::io;

/// Asks for huge pages behind `bytes` at `at`. Waits until it is done; what the memory holds does not change.
///
/// # Errors
/// If the system doesn't know the request (`InvalidInput`) or refuses it.
pub(crate) fn collapse(at: *const u8, bytes: usize) -> io::Result<()> {
    // SAFETY: the call changes no content and no protection of memory; for addresses that are not mapped it fails.
    match unsafe { libc::madvise(at.cast_mut().cast(), bytes, libc::MADV_COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
