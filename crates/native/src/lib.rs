//! The pure-Rust CPU backend.
