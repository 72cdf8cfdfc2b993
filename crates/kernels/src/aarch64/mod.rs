//! The AArch64 instruction sets: NEON, which every such CPU has, and what later ones add to it.

pub mod dots;
pub mod neon;
