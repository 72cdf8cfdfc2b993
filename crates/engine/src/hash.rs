//! The hash that names files and distinguishes models: 64-bit FNV-1a. It protects against mistakes, not attackers.

/// Fowler, Noll and Vo's hash of 64 bits.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
