//! The tensor formats that Zonda reads, with their block sizes and GGUF's numbers for them.
//!
//! Source: the GGUF specification and ggml's type numbering; block layouts are in [`crate::blocks`] and
//! [`crate::grids`].

use std::fmt;
use std::str::FromStr;

/// How a tensor's values are stored.
///
/// Quantised types store values in blocks along a row: [`DType::block_len`] values in
/// [`DType::block_bytes`] bytes. Float types are blocks of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types)] // the names are the documentation: ggml's own
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    MXFP4,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    Q1_0,
    Q2_0,
    NVFP4,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ1_S,
    IQ1_M,
    F8_E4M3,
}

/// Stands in [`DType`]'s table where GGUF has no number.
const NOT_IN_GGUF: u32 = u32::MAX;

impl DType {
    /// Every type, floats first.
    pub const ALL: [DType; 29] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::MXFP4,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::TQ1_0,
        DType::TQ2_0,
        DType::Q1_0,
        DType::Q2_0,
        DType::NVFP4,
        DType::IQ2_XXS,
        DType::IQ2_XS,
        DType::IQ2_S,
        DType::IQ3_XXS,
        DType::IQ3_S,
        DType::IQ1_S,
        DType::IQ1_M,
        DType::F8_E4M3,
    ];

    /// `(name, values per block, bytes per block, ggml type number)`: the one table behind the accessors.
    const fn row(self) -> (&'static str, usize, usize, u32) {
        match self {
            DType::F32 => ("f32", 1, 4, 0),
            DType::F16 => ("f16", 1, 2, 1),
            DType::BF16 => ("bf16", 1, 2, 30),
            DType::Q4_0 => ("q4_0", 32, 18, 2),
            DType::Q4_1 => ("q4_1", 32, 20, 3),
            DType::Q5_0 => ("q5_0", 32, 22, 6),
            DType::Q5_1 => ("q5_1", 32, 24, 7),
            DType::Q8_0 => ("q8_0", 32, 34, 8),
            DType::Q2_K => ("q2_k", 256, 84, 10),
            DType::Q3_K => ("q3_k", 256, 110, 11),
            DType::Q4_K => ("q4_k", 256, 144, 12),
            DType::Q5_K => ("q5_k", 256, 176, 13),
            DType::Q6_K => ("q6_k", 256, 210, 14),
            DType::MXFP4 => ("mxfp4", 32, 17, 39),
            DType::IQ4_NL => ("iq4_nl", 32, 18, 20),
            DType::IQ4_XS => ("iq4_xs", 256, 136, 23),
            DType::TQ1_0 => ("tq1_0", 256, 54, 34),
            DType::TQ2_0 => ("tq2_0", 256, 66, 35),
            DType::Q1_0 => ("q1_0", 128, 18, 41),
            DType::Q2_0 => ("q2_0", 64, 18, 42),
            DType::NVFP4 => ("nvfp4", 64, 36, 40),
            DType::IQ2_XXS => ("iq2_xxs", 256, 66, 16),
            DType::IQ2_XS => ("iq2_xs", 256, 74, 17),
            DType::IQ2_S => ("iq2_s", 256, 82, 22),
            DType::IQ3_XXS => ("iq3_xxs", 256, 98, 18),
            DType::IQ3_S => ("iq3_s", 256, 110, 21),
            DType::IQ1_S => ("iq1_s", 256, 50, 19),
            DType::IQ1_M => ("iq1_m", 256, 56, 29),
            DType::F8_E4M3 => ("f8_e4m3", 128, 132, NOT_IN_GGUF),
        }
    }

    /// The lower-case name on the command line: `q4_0`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Values in a block; a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        self.row().1
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        self.row().2
    }

    /// The number GGUF stores for this type; it has none for those that are not [`DType::in_gguf`].
    pub const fn ggml_id(self) -> u32 {
        self.row().3
    }

    /// Whether GGUF has this type. The others are types of SafeTensors folders.
    pub const fn in_gguf(self) -> bool {
        self.ggml_id() != NOT_IN_GGUF
    }

    /// The type with this GGUF number, if it is supported.
    pub fn from_ggml_id(id: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.in_gguf() && t.ggml_id() == id)
    }

    /// True for the formats of blocks that share a scale.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// The size of `values` values in bytes; `None` if they don't fill whole blocks or the size overflows.
    pub fn bytes_for(self, values: usize) -> Option<usize> {
        if !values.is_multiple_of(self.block_len()) {
            return None;
        }
        (values / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A type name that is not in [`DType::ALL`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown tensor type {0:?}; expected one of {names}", names = DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        DType::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownDType(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for t in DType::ALL {
            assert_eq!(t.name().parse(), Ok(t));
            assert_eq!(DType::from_ggml_id(t.ggml_id()), Some(t).filter(|t| t.in_gguf()));
        }
        assert!("q9_9".parse::<DType>().is_err());
        assert_eq!(DType::from_ggml_id(4), None);
    }

    #[test]
    fn sizes_need_whole_blocks() {
        assert_eq!(DType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(DType::Q4_0.bytes_for(33), None);
        assert_eq!(DType::F32.bytes_for(usize::MAX), None);
    }
}
