//! The limit on open files and sockets of the process.

/// Raises the limit on open files and sockets as far as the system allows without privileges. Returns the new limit.
#[cfg(unix)]
pub fn raise() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    let current = limit.current.unwrap_or(MOST);
    if current >= wanted {
        return usize::try_from(current).unwrap_or(usize::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => usize::try_from(wanted).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, current, "the limit on open files stays as it is");
            usize::try_from(current).unwrap_or(usize::MAX)
        }
    }
}

/// For systems without such a limit.
#[cfg(not(unix))]
pub fn raise() -> usize {
    usize::MAX
}

/// The most that a server needs. macOS accepts no more than 10240.
#[cfg(unix)]
const MOST: u64 = 10_240;

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn the_limit_is_as_high_as_allowed() {
        let raised = super::raise() as u64;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit.current.unwrap_or(raised), raised);
        assert!(raised >= limit.maximum.unwrap_or(u64::MAX).min(super::MOST));
    }
}
