//! Restricts a process to its cores. Linux only; other systems return an error.

use zonda_machine::cpus;

/// Restricts this process, and the threads that it starts, to some CPUs; returns them.
///
/// # Errors
/// The reason if it can't be restricted.
pub(crate) fn keep_to(cpus: &[usize]) -> Result<Vec<usize>, String> {
    if cfg!(target_os = "linux") && cpus.is_empty() {
        return Err("the system does not say which CPUs there are".into());
    }
    match cpus::keep_to(cpus) {
        Ok(()) => Ok(cpus.to_vec()),
        // Without the system's wording, so that records are the same everywhere.
        Err(_) if cfg!(not(target_os = "linux")) => Err("this system does not pin processes".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why other processes may run on these CPUs too; `None` if the kernel keeps them free (`isolcpus`).
pub(crate) fn shared(cpus: &[usize]) -> Option<String> {
    let free = cpus::isolated();
    let others: Vec<String> = cpus.iter().filter(|cpu| !free.contains(cpu)).map(usize::to_string).collect();
    (!others.is_empty()).then(|| {
        format!(
            "the kernel lets others run on CPU {} (its parameter isolcpus keeps CPUs free)",
            others.join(", ")
        )
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_kept_or_told_why_not() {
        std::thread::spawn(|| {
            assert!(keep_to(&[]).unwrap_err().contains("which CPUs"));
            let allowed = cpus::allowed_cpus();
            assert_eq!(keep_to(&allowed[..1]).unwrap(), allowed[..1]);
        })
        .join()
        .unwrap();
    }
}
