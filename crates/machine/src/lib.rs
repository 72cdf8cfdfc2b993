//! The computer that a model runs on: facts and a few settings. It does not depend on models and does not judge: other crates
//! derive warnings from these facts.
//!
//! * [`cpus`]: the CPUs and cores that this process may use, pinning threads to them, the default number of threads;
//! * [`memory`]: how much memory this process can get within the machine and its control groups;
//! * [`page_cache`]: how much of a file the system keeps in memory;
//! * [`load`]: other work on the machine, and time taken by a hypervisor;
//! * [`heat`]: temperature and throttling;
//! * [`usage`]: CPU time, memory and context switches of this process;
//! * `signals`: the signals that end a process (Unix only);
//! * [`energy`]: joules used by the processor packages (RAPL);
//! * [`Machine`]: the description of the machine in records;
//! * [`Peaks`] and [`Rate`]: the machine's peaks.
//!
//! Everything is available on Linux. Elsewhere the functions return `None`, an empty list or an error, as documented.

pub mod cpus;
pub mod energy;
mod files;
pub mod heat;
pub mod load;
mod machine;
pub mod memory;
pub mod page_cache;
mod peaks;
mod sys;
pub mod usage;

pub use machine::Machine;
pub use peaks::{Peaks, Rate};
#[cfg(unix)]
pub use sys::signals;
