//! The one place that names backends: which there are, which are in this build, and how each is opened.

mod configure;
mod kind;
// The check is plain Rust: it is tested in builds without llama.cpp too.
#[cfg(any(feature = "llama-cpp", test))]
mod llama_cpp_limits;
mod open;
mod status;

pub use kind::{BackendKind, choose};
pub use open::{MAX_THREADS, open};
#[cfg(feature = "native")]
pub use open::{calibrate, reference};
pub use status::{DeviceStatus, Status};

#[cfg(test)]
mod tests;
