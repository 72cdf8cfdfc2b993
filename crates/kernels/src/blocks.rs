//! The quantised blocks as GGUF lays them out in memory, one `#[repr(C)]` struct per type.
