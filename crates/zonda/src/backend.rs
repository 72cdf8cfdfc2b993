//! The one place that names backends: all of them, those in this build, and how each is opened.

mod configure;
mod kind;
// The check is plain Rust, so it is tested in builds without llama.cpp too.
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
