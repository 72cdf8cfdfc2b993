//! The layout of each quantised type in a packed panel, as one row of constants. [`crate::pack`] (which writes panels) and
//! [`crate::matmul()`] (which reads them) both use it, so each has one code path for all types.

use crate::grids::{BlockIQ1M, BlockIQ1S, BlockIQ2S, BlockIQ2XXS, BlockIQ3S, BlockIQ3XXS, GridBlock};

/// How the scales of a panel are stored, apart from the 8-bit multiples of K-quants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// `f16`.
    F16,
    /// Bytes `e` for `2^(e − 127)`.
    E8M0,
    /// Bytes of the unsigned float with four bits of exponent and three of mantissa, divided by 256: the bits of an `f16` without
    /// its seven lowest ones.
    E4M3,
}

/// A quantised type's panel layout, as compile-time constants of the inner loop.
///
/// A value is `unit · (scale · (code − zero) − min)`, codes unsigned, scale and min shared by `SUB` consecutive values. Types
/// with a table have what it says in place of `code`.
pub trait Format: Send + Sync + 'static {
    /// Bits of a code in the panel's low plane: 1, 2, 4 or 8.
    const LOW: usize;
    /// Bits of a code in the high plane: 0, 1 or 2.
    const HIGH: usize;
    /// The zero point: 0, or a power of two up to 128.
    const ZERO: u8;
    /// The sign of a stored min: 0.0 without mins, 1.0 for `value = … + m`, −1.0 for `… − m`.
    const MIN_SIGN: f32;
    /// Values that share a scale: 16, or a multiple of 32.
    const SUB: usize;
    /// Whether scales are 8-bit multiples of an `f16` shared by a block (K-quants).
    const SUPER: bool;
    /// Whether the 8-bit scales are signed.
    const SIGNED: bool;
    /// Bits by which a code is shifted up before it is multiplied.
    const SHIFT: usize = 0;
    /// What stands for each code of up to four bits, with the zero point added.
    const TABLE: Option<[u8; 16]> = None;
    /// Bits of what is multiplied: of the codes, or of the table's entries. Up to 6, or 8 ([`crate::simd::dots_between`]).
    const BITS: usize = Self::LOW + Self::HIGH + Self::SHIFT;
    /// How scales are stored.
    const SCALE: Scale = Scale::F16;
    /// A factor of all values: it is multiplied once into each finished sum.
    const UNIT: f32 = 1.0;

    /// Values in a stored block.
    const BLOCK: usize = if Self::SUPER {
        256
    } else if Self::SUB < 32 {
        32
    } else {
        Self::SUB
    };
    /// Scales in a stored block.
    const SUBS: usize = Self::BLOCK / Self::SUB;
    /// Whether values have mins.
    const HAS_MIN: bool = Self::MIN_SIGN != 0.0;
    /// Bytes of codes per 32 values × 16 rows.
    const CODE_BYTES: usize = 64 * (Self::LOW + Self::HIGH);
    /// Bytes of scales (and mins) per stored block × 16 rows.
    const HEADER_BYTES: usize = {
        assert!(Self::SUB == 16 || Self::SUB.is_multiple_of(32));
        assert!(Self::BLOCK.is_multiple_of(32) && Self::BLOCK.is_multiple_of(Self::SUB));
        assert!(
            Self::SUB <= 32 || !(Self::SUPER || Self::HAS_MIN),
            "long runs have one scale and nothing else"
        );
        assert!(Self::ZERO == 0 || Self::ZERO.is_power_of_two());
        assert!(matches!(Self::BITS, 1..=6 | 8));
        assert!(Self::TABLE.is_none() || Self::LOW + Self::HIGH <= 4);
        let scales = match (Self::SUPER, Self::SCALE) {
            (true, Scale::F16) => 32 + 16 * Self::SUBS,
            (false, Scale::F16) => {
                assert!(Self::SUBS == 1, "one f16 per block");
                32
            }
            (false, Scale::E8M0 | Scale::E4M3) => 16 * Self::SUBS,
            (true, _) => panic!("multiples of an f16 only"),
        };
        scales * if Self::HAS_MIN { 2 } else { 1 }
    };
}

macro_rules! formats {
    ($($name:ident: $low:literal + $high:literal, zero $zero:literal, min $min:expr, sub $sub:expr, super $super:expr, signed $signed:expr $(, $constant:ident: $type:ty = $value:expr)*;)*) => {
        $(
            #[doc = concat!("The panel layout of `", stringify!($name), "`.")]
            #[allow(non_camel_case_types)]
            #[derive(Debug)]
            pub enum $name {}
            impl Format for $name {
                const LOW: usize = $low;
                const HIGH: usize = $high;
                const ZERO: u8 = $zero;
                const MIN_SIGN: f32 = $min;
                const SUB: usize = $sub;
                const SUPER: bool = $super;
                const SIGNED: bool = $signed;
                $(const $constant: $type = $value;)*
            }
        )*
    };
}

formats! {
    Q4_0: 4 + 0, zero 8, min 0.0, sub 32, super false, signed false;
    Q4_1: 4 + 0, zero 0, min 1.0, sub 32, super false, signed false;
    Q5_0: 4 + 1, zero 16, min 0.0, sub 32, super false, signed false;
    Q5_1: 4 + 1, zero 0, min 1.0, sub 32, super false, signed false;
    Q8_0: 8 + 0, zero 128, min 0.0, sub 32, super false, signed false;
    Q2_K: 2 + 0, zero 0, min -1.0, sub 16, super true, signed false;
    Q3_K: 2 + 1, zero 4, min 0.0, sub 16, super true, signed true;
    Q4_K: 4 + 0, zero 0, min -1.0, sub 32, super true, signed false;
    Q5_K: 4 + 1, zero 0, min -1.0, sub 32, super true, signed false;
    Q6_K: 4 + 2, zero 32, min 0.0, sub 16, super true, signed true;
    MXFP4: 4 + 0, zero 16, min 0.0, sub 32, super false, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(crate::blocks::E2M1, 16)), BITS: usize = 5, SCALE: Scale = Scale::E8M0;
    IQ4_NL: 4 + 0, zero 128, min 0.0, sub 32, super false, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(crate::blocks::IQ4, 128)), BITS: usize = 8;
    IQ4_XS: 4 + 0, zero 128, min 0.0, sub 32, super true, signed true,
        TABLE: Option<[u8; 16]> = Some(from_zero(crate::blocks::IQ4, 128)), BITS: usize = 8;
    TQ2_0: 2 + 0, zero 1, min 0.0, sub 256, super false, signed false;
    Q1_0: 1 + 0, zero 1, min 0.0, sub 128, super false, signed false, SHIFT: usize = 1;
    Q2_0: 2 + 0, zero 1, min 0.0, sub 64, super false, signed false;
    NVFP4: 4 + 0, zero 16, min 0.0, sub 16, super false, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(crate::blocks::E2M1, 16)), BITS: usize = 5,
        SCALE: Scale = Scale::E4M3, UNIT: f32 = 128.0, BLOCK: usize = 64;
    IQ2_XXS: 2 + 1, zero 128, min 0.0, sub 32, super true, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(BlockIQ2XXS::LEVELS, 128)), BITS: usize = 8, UNIT: f32 = BlockIQ2XXS::UNIT;
    IQ2_S: 2 + 1, zero 128, min 0.0, sub 16, super true, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(BlockIQ2S::LEVELS, 128)), BITS: usize = 8, UNIT: f32 = BlockIQ2S::UNIT;
    IQ3_XXS: 4 + 0, zero 32, min 0.0, sub 32, super true, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(BlockIQ3XXS::LEVELS, 32)), BITS: usize = 6, UNIT: f32 = BlockIQ3XXS::UNIT;
    IQ3_S: 4 + 0, zero 16, min 0.0, sub 32, super true, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(BlockIQ3S::LEVELS, 16)), BITS: usize = 5, UNIT: f32 = BlockIQ3S::UNIT;
    IQ1_S: 2 + 0, zero 0, min -1.0, sub 32, super true, signed false, UNIT: f32 = BlockIQ1S::UNIT;
    IQ1_M: 2 + 1, zero 16, min 0.0, sub 16, super true, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(BlockIQ1M::LEVELS, 16)), BITS: usize = 5, UNIT: f32 = BlockIQ1M::UNIT;
}

/// Its values are those of TQ2_0, five to a byte.
#[allow(non_camel_case_types)]
pub type TQ1_0 = TQ2_0;

/// It has the levels and sub-blocks of IQ2_S.
#[allow(non_camel_case_types)]
pub type IQ2_XS = IQ2_S;

/// A table's entries with the zero point added.
const fn from_zero(table: [i8; 16], zero: i16) -> [u8; 16] {
    let (mut entries, mut i) = ([0; 16], 0);
    while i < 16 {
        entries[i] = (table[i] as i16 + zero) as u8;
        i += 1;
    }
    entries
}

/// `with_format!(dtype, F => expr)`: evaluates `expr` with `F` naming the format of a quantised [`crate::DType`].
/// Panics on float types, which callers handle separately.
macro_rules! with_format {
    ($dtype:expr, $f:ident => $body:expr) => {
        $crate::format::with_format!(@arms $dtype, $f => $body; Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K MXFP4
            IQ4_NL IQ4_XS TQ1_0 TQ2_0 Q1_0 Q2_0 NVFP4
            IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M)
    };
    (@arms $dtype:expr, $f:ident => $body:expr; $($name:ident)*) => {
        match $dtype {
            $($crate::DType::$name => {
                type $f = $crate::format::$name;
                $body
            })*
            float => unreachable!("{float} has no quantised panel"),
        }
    };
}
pub(crate) use with_format;
