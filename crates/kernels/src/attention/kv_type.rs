//! [`KvType`]: how a page stores keys and values, and how many bytes they take.

use super::layout::{PAGE, halves_bytes, scale_at};
use crate::simd::LANES;

/// What a page holds of each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A key and a value.
    Both,
    /// A key, which also is the value (multi-head latent attention).
    Keys,
}

impl Holds {
    /// What a page holds if a position's value is its key, or if it is not.
    pub fn if_values_are_keys(values_are_keys: bool) -> Holds {
        if values_are_keys { Holds::Keys } else { Holds::Both }
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Two bytes per value.
    F16,
    /// Four bytes per value.
    F32,
    /// One byte per value and an `f16` scale per 32 values of a head, as in GGUF's Q8_0.
    Q8_0,
    /// Half a byte per value and an `f16` scale per 32 values of a head, the same size as GGUF's Q4_0. Keys and values are
    /// rotated: see [`KvType::rotated`].
    Q4_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 4] = [KvType::F16, KvType::F32, KvType::Q8_0, KvType::Q4_0];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// The type with this name.
    pub fn named(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kv| kv.name() == name)
    }

    /// Bytes of one page of one KV head: keys, values, and scales if the type has them.
    pub const fn page_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F16 => 2 * PAGE * head_dim * 2,
            KvType::F32 => 2 * PAGE * head_dim * 4,
            KvType::Q8_0 => scale_at(2 * PAGE * head_dim, head_dim, 2, 0, 0),
            KvType::Q4_0 => scale_at(halves_bytes(head_dim), head_dim, 2, 0, 0),
        }
    }

    /// Bytes of one page of one KV head that holds this.
    pub const fn page_bytes_of(self, holds: Holds, head_dim: usize) -> usize {
        match (holds, self) {
            (Holds::Both, _) => self.page_bytes(head_dim),
            (Holds::Keys, KvType::Q8_0 | KvType::Q4_0) => {
                scale_at(self.key_bytes(head_dim), head_dim, 1, 0, 0)
            }
            (Holds::Keys, KvType::F16 | KvType::F32) => self.key_bytes(head_dim),
        }
    }

    /// Bytes of the keys in a page, without scales.
    pub(super) const fn key_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F16 => PAGE * head_dim * 2,
            KvType::F32 => PAGE * head_dim * 4,
            KvType::Q8_0 => PAGE * head_dim,
            KvType::Q4_0 => head_dim * LANES,
        }
    }

    /// Whether queries, keys and values must be rotated by [`Hadamard`](super::Hadamard) before they are stored, and outputs
    /// rotated back: such coarse rounding allows no outliers.
    pub const fn rotated(self) -> bool {
        matches!(self, KvType::Q4_0)
    }
}
