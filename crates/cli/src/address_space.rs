//! The limit on the process's address space (`ulimit -v`).

/// Turns backtraces off where the address space is limited. Rust's standard library allocates while it prints one, and if it
/// finds no memory for that, it waits for ever for a lock that it holds itself: the process would hang instead of ending.
///
/// # Safety
/// No other thread may run yet.
#[cfg(unix)]
pub unsafe fn turn_backtraces_off_if_limited() {
    use rustix::process::{Resource, getrlimit};
    if getrlimit(Resource::As).current.is_none() {
        return;
    }
    for name in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: the caller guarantees that no other thread reads the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// For systems without such a limit.
///
/// # Safety
/// None is needed.
#[cfg(not(unix))]
pub unsafe fn turn_backtraces_off_if_limited() {}
