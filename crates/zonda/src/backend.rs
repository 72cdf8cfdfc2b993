//! The one place that names backends: all of them, those in this build, and how each is opened.

mod choose;
mod configure;
mod fit;
mod kind;
// Plain Rust: builds without llama.cpp say what it could run, and test the checks.
mod llama_cpp_architectures;
mod llama_cpp_limits;
mod llama_cpp_vocabulary;
mod open;
mod status;

pub use choose::choose;
pub(crate) use fit::instead_of;
pub use fit::{Fit, unfit};
pub use kind::BackendKind;
pub(crate) use open::tokenizer;
pub use open::{MAX_THREADS, open};
#[cfg(feature = "native")]
pub use open::{calibrate, reference};
pub use status::{DeviceStatus, Status};

#[cfg(test)]
mod tests;
