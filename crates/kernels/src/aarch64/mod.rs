//! The AArch64 instruction sets: NEON, which every such CPU has, and its later extensions.

pub mod dots;
pub mod neon;
