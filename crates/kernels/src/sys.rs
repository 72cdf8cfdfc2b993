//! Safe functions for the kernels' calls of the C library. Linux only.
#![cfg(target_os = "linux")]

use std::io;

/// Requests huge pages for `bytes` of memory at `at`. Waits until it is done; the content does not change.
///
/// # Errors
/// If the system doesn't know the request (`InvalidInput`) or refuses it.
pub(crate) fn collapse(at: *const u8, bytes: usize) -> io::Result<()> {
    // SAFETY: the call changes neither content nor protection of memory; it fails for unmapped addresses.
    match unsafe { libc::madvise(at.cast_mut().cast(), bytes, libc::MADV_COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
