//! The layout of each quantised type in a packed panel, as one row of constants. [`crate::pack`] (which writes panels) and
//! [`crate::matmul()`] (which reads them) both use it, so each has one code path for all types.

use crate::DType;

/// A quantised type's panel layout, as compile-time constants of the inner loop.
///
/// A value is `scale · (code − zero) − min`, codes unsigned, scale and min shared by `SUB` consecutive values. Types with a
/// table have what it says in place of `code`.
pub trait Format: Send + Sync + 'static {
    /// The stored type.
    const DTYPE: DType;
    /// Bits of a code in the panel's low plane: 2, 4 or 8.
    const LOW: usize;
    /// Bits of a code in the high plane: 0, 1 or 2.
    const HIGH: usize;
    /// `log2(zero)`, or 0 without a zero point.
    const ZERO_LOG2: u32;
    /// The sign of a stored min: 0.0 without mins, 1.0 for `value = … + m`, −1.0 for `… − m`.
    const MIN_SIGN: f32;
    /// Values that share a scale: 32, or 16.
    const SUB: usize;
    /// Whether scales are 8-bit multiples of an `f16` shared by 256 values (K-quants) instead of `f16`.
    const SUPER: bool;
    /// Whether the 8-bit scales are signed.
    const SIGNED: bool;
    /// What stands for each code of four bits, with the zero point added.
    const TABLE: Option<[u8; 16]> = None;
    /// Bits of what is multiplied: of the codes, or of the table's entries.
    const BITS: usize = Self::LOW + Self::HIGH;
    /// Whether scales are powers of two, bytes `e` for `2^(e − 127)`, instead of `f16`.
    const E8M0: bool = false;

    /// Values in a stored block.
    const BLOCK: usize = if Self::SUPER { 256 } else { 32 };
    /// Whether values have mins.
    const HAS_MIN: bool = Self::MIN_SIGN != 0.0;
    /// Bytes of codes per 32 values × 16 rows.
    const CODE_BYTES: usize = 64 * (Self::LOW + Self::HIGH);
    /// Bytes of scales (and mins) per stored block × 16 rows.
    const HEADER_BYTES: usize = {
        let scale = if Self::E8M0 { 16 } else { 32 };
        let subs = if Self::SUPER { 16 * (256 / Self::SUB) } else { 0 };
        (scale + subs) * if Self::HAS_MIN { 2 } else { 1 }
    };
}

macro_rules! formats {
    ($($name:ident: $low:literal + $high:literal, zero $zero:expr, min $min:expr, sub $sub:expr, super $super:expr, signed $signed:expr $(, $constant:ident: $type:ty = $value:expr)*;)*) => {
        $(
            #[doc = concat!("The panel layout of `", stringify!($name), "`.")]
            #[allow(non_camel_case_types)]
            #[derive(Debug)]
            pub enum $name {}
            impl Format for $name {
                const DTYPE: DType = DType::$name;
                const LOW: usize = $low;
                const HIGH: usize = $high;
                const ZERO_LOG2: u32 = $zero;
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
    Q4_0: 4 + 0, zero 3, min 0.0, sub 32, super false, signed false;
    Q4_1: 4 + 0, zero 0, min 1.0, sub 32, super false, signed false;
    Q5_0: 4 + 1, zero 4, min 0.0, sub 32, super false, signed false;
    Q5_1: 4 + 1, zero 0, min 1.0, sub 32, super false, signed false;
    Q8_0: 8 + 0, zero 7, min 0.0, sub 32, super false, signed false;
    Q2_K: 2 + 0, zero 0, min -1.0, sub 16, super true, signed false;
    Q3_K: 2 + 1, zero 2, min 0.0, sub 16, super true, signed true;
    Q4_K: 4 + 0, zero 0, min -1.0, sub 32, super true, signed false;
    Q5_K: 4 + 1, zero 0, min -1.0, sub 32, super true, signed false;
    Q6_K: 4 + 2, zero 5, min 0.0, sub 16, super true, signed true;
    MXFP4: 4 + 0, zero 4, min 0.0, sub 32, super false, signed false,
        TABLE: Option<[u8; 16]> = Some(from_zero(crate::blocks::E2M1, 16)), BITS: usize = 5, E8M0: bool = true;
}

/// A table's entries with the zero point added.
const fn from_zero(table: [i8; 16], zero: i16) -> [u8; 16] {
    let (mut entries, mut i) = ([0; 16], 0);
    while i < 16 {
        entries[i] = (table[i] as i16 + zero) as u8;
        i += 1;
    }
    entries
}

/// `with_format!(dtype, F => expr)`: evaluates `expr` with `F` naming the format of a quantised [`DType`].
/// Panics on float types, which callers handle separately.
macro_rules! with_format {
    ($dtype:expr, $f:ident => $body:expr) => {
        $crate::format::with_format!(@arms $dtype, $f => $body; Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K MXFP4)
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
