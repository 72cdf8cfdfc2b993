//! GGUF's quantised blocks, one `#[repr(C)]` struct per type.
//!
//! Every struct has alignment 1 and no padding, so any byte slice of the right length can be cast to blocks
//! ([`bytemuck::cast_slice`]) at any address. Multi-byte fields are little-endian.
//!
//! Types named `_0` mean `x = d·q` with a signed code, types named `_1` mean `x = d·q + m`. The K types
//! hold 256 values in sub-blocks of 16 or 32, whose scales (and minima) are small integers times one `f16` per block. MXFP4,
//! NVFP4 and the IQ4 types look their codes up in a table of 16; the scales of the first two are small floats. The TQ types, Q1_0 and Q2_0
//! have codes of one or two bits around zero. [`crate::grids`] has the types whose codes are entries of a grid.
//! Source: ggml's block definitions, checked against gguf-py's dequantisation.

use crate::DType;
use bytemuck::{Pod, Zeroable};
use half::f16;

/// Values in a block of the simple types.
pub const BLOCK: usize = 32;
/// Values in a block of the K types.
pub const SUPER: usize = 256;

/// A little-endian IEEE half with alignment 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The exact value.
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// Rounds to nearest, ties to even; values that are too large become infinite.
    pub fn from_f32(value: f32) -> Half {
        Half(f16::from_f32(value).to_le_bytes())
    }
}

/// A block type and the [`DType`] it stores.
pub trait Block: Pod {
    /// The type's name and sizes.
    const DTYPE: DType;
}

/// Implements [`Block`] and checks at compile time that struct and table agree on the size.
macro_rules! block {
    ($block:ty, $dtype:expr) => {
        impl Block for $block {
            const DTYPE: DType = $dtype;
        }
        const _: () = assert!(size_of::<$block>() == $dtype.block_bytes() && align_of::<$block>() == 1);
    };
}
pub(crate) use block;

/// 32 values in 4 bits: `x = d·(q − 8)`, `q` in 0..16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: Half,
    /// Byte `i` holds value `i` (low nibble) and value `i + 16` (high nibble).
    pub qs: [u8; 16],
}
block!(BlockQ4_0, DType::Q4_0);

/// 32 values in 4 bits: `x = d·q + m`, `q` in 0..16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: Half,
    /// The value of code 0.
    pub m: Half,
    /// Nibbles as in [`BlockQ4_0::qs`].
    pub qs: [u8; 16],
}
block!(BlockQ4_1, DType::Q4_1);

/// 32 values in 5 bits: `x = d·(q − 16)`, `q` in 0..32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: Half,
    /// The codes' fifth bits: bit `i` of this little-endian word belongs to value `i`.
    pub qh: [u8; 4],
    /// The codes' low four bits, nibbles as in [`BlockQ4_0::qs`].
    pub qs: [u8; 16],
}
block!(BlockQ5_0, DType::Q5_0);

/// 32 values in 5 bits: `x = d·q + m`, `q` in 0..32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: Half,
    /// The value of code 0.
    pub m: Half,
    /// Fifth bits as in [`BlockQ5_0::qh`].
    pub qh: [u8; 4],
    /// Low four bits, nibbles as in [`BlockQ4_0::qs`].
    pub qs: [u8; 16],
}
block!(BlockQ5_1, DType::Q5_1);

/// 32 values in 8 bits: `x = d·q`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: Half,
    /// Signed codes, in order.
    pub qs: [i8; 32],
}
block!(BlockQ8_0, DType::Q8_0);

/// 256 values in 2 bits, sub-blocks of 16: `x = d·sc·q − dmin·mn`, `q` in 0..4.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// Per sub-block: `sc` in the low nibble, `mn` in the high nibble.
    pub scales: [u8; 16],
    /// Codes. Each run of 32 bytes holds 128 values: bits `2k..2k+2` of byte `i` are value `32k + i` of the run.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
}
block!(BlockQ2K, DType::Q2_K);

/// 256 values in 3 bits, sub-blocks of 16: `x = d·sc·q`, `q` in −4..4, `sc` in −32..32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// High bits: bit `j` of byte `i` belongs to value `32j + i`. If it is set, the code is the low bits; if clear, 4 less.
    pub hmask: [u8; 32],
    /// Low two bits, laid out as [`BlockQ2K::qs`].
    pub qs: [u8; 64],
    /// Sixteen 6-bit scales, stored plus 32; see [`BlockQ3K::scales`].
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: Half,
}
block!(BlockQ3K, DType::Q3_K);

impl BlockQ3K {
    /// The sixteen sub-block scales, −32..32.
    ///
    /// Low four bits of scale `j`: nibble `j / 8` of byte `j % 8`. High two: bits `2·(j / 4)` of byte `8 + j % 4`.
    pub fn scales(&self) -> [i8; 16] {
        std::array::from_fn(|j| {
            let low = (self.scales[j % 8] >> (4 * (j / 8))) & 0x0F;
            let high = (self.scales[8 + j % 4] >> (2 * (j / 4))) & 0x03;
            (low | (high << 4)) as i8 - 32
        })
    }

    /// The inverse of [`BlockQ3K::scales`]: packs scales of −32..32.
    pub fn pack_scales(scales: [i8; 16]) -> [u8; 12] {
        let mut packed = [0; 12];
        for (j, s) in scales.into_iter().enumerate() {
            let s = (s + 32) as u8;
            packed[j % 8] |= (s & 0x0F) << (4 * (j / 8));
            packed[8 + j % 4] |= (s >> 4) << (2 * (j / 4));
        }
        packed
    }
}

/// 256 values in 4 bits, sub-blocks of 32: `x = d·sc·q − dmin·mn`, `q` in 0..16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Eight 6-bit scales and eight 6-bit minima; see [`scales_and_minima`].
    pub scales: [u8; 12],
    /// Codes. Each run of 32 bytes holds two sub-blocks: the first in the low nibbles, the second in the high ones.
    pub qs: [u8; 128],
}
block!(BlockQ4K, DType::Q4_K);

/// 256 values in 5 bits, sub-blocks of 32: `x = d·sc·q − dmin·mn`, `q` in 0..32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Eight 6-bit scales and eight 6-bit minima; see [`scales_and_minima`].
    pub scales: [u8; 12],
    /// Fifth bits: bit `j` of byte `i` belongs to value `i` of sub-block `j`.
    pub qh: [u8; 32],
    /// Low four bits, laid out as [`BlockQ4K::qs`].
    pub qs: [u8; 128],
}
block!(BlockQ5K, DType::Q5_K);

/// 256 values in 6 bits, sub-blocks of 16: `x = d·sc·(q − 32)`, `q` in 0..64.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// Low four bits. Each run of 64 bytes holds 128 values: byte `i` is value `i` (low nibble) and `64 + i` (high).
    pub ql: [u8; 128],
    /// High two bits. Each run of 32 bytes holds 128 values: bits `2k..2k+2` of byte `i` are value `32k + i` of the run.
    pub qh: [u8; 64],
    /// Sub-block scales, plain `i8`.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: Half,
}
block!(BlockQ6K, DType::Q6_K);

/// 32 values of four bits: `x = 2^(e − 128) · E2M1[q]`. The microscaling format MXFP4 of the Open Compute Project, with the
/// float type E2M1 doubled to whole numbers, as ggml has it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// Scale, an E8M0: see [`BlockMXFP4::scale`].
    pub e: u8,
    /// Nibbles as in [`BlockQ4_0::qs`], indices of [`E2M1`].
    pub qs: [u8; 16],
}
block!(BlockMXFP4, DType::MXFP4);

/// Twice the values of the float type E2M1, by code: sign, two bits of exponent, one of mantissa.
pub const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 64 values of four bits, sub-blocks of 16: `x = scale · E2M1[q]`. NVIDIA's NVFP4 as ggml has it; what it calls the second scale,
/// one `f32` for the whole tensor, is a tensor of its own.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNVFP4 {
    /// A scale per sub-block: see [`BlockNVFP4::scale`].
    pub d: [u8; 4],
    /// Eight bytes per sub-block: byte `i` holds its value `i` (low nibble) and `i + 8` (high nibble), indices of [`E2M1`].
    pub qs: [u8; 32],
}
block!(BlockNVFP4, DType::NVFP4);

impl BlockNVFP4 {
    /// The factor of [`E2M1`] for sub-block `j`: half the value of an unsigned E4M3 (four bits of exponent, bias 7, three of
    /// mantissa). As in ggml, 127, which the type reserves for NaN, is zero, and the highest bit has no meaning in other bytes.
    pub fn scale(&self, j: usize) -> f32 {
        // The bits are those of an `f16`, whose bias is 8 more.
        f16::from_bits(u16::from(self.scale_bits(j)) << 7).to_f32() * 128.0
    }

    /// The seven bits of [`BlockNVFP4::scale`].
    pub(crate) fn scale_bits(&self, j: usize) -> u8 {
        match self.d[j] {
            127 => 0,
            bits => bits & 127,
        }
    }
}

/// The levels of the IQ4 types, by code: a fit to normally distributed weights.
pub const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 values of four bits: `x = d · IQ4[q]`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4NL {
    /// Scale.
    pub d: Half,
    /// Nibbles as in [`BlockQ4_0::qs`], indices of [`IQ4`].
    pub qs: [u8; 16],
}
block!(BlockIQ4NL, DType::IQ4_NL);

/// 256 values of four bits, sub-blocks of 32: `x = d·sc · IQ4[q]`, `sc` in −32..32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4XS {
    /// Scale of the scales.
    pub d: Half,
    /// The scales' high two bits: bits `2j..2j+2` of this little-endian word belong to sub-block `j`.
    pub scales_h: [u8; 2],
    /// The scales' low four bits: nibble `j % 2` of byte `j / 2` belongs to sub-block `j`.
    pub scales_l: [u8; 4],
    /// Codes. Each run of 16 bytes holds one sub-block as in [`BlockQ4_0::qs`].
    pub qs: [u8; 128],
}
block!(BlockIQ4XS, DType::IQ4_XS);

impl BlockIQ4XS {
    /// The eight sub-block scales, −32..32.
    pub fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|j| {
            let low = (self.scales_l[j / 2] >> (4 * (j % 2))) & 15;
            (low | ((high >> (2 * j)) as u8 & 3) << 4) as i8 - 32
        })
    }
}

/// 256 values of −1, 0 and 1, five to a byte: `x = d·(q − 1)`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ1_0 {
    /// Five values in each byte: a run of 32 bytes for the first 160 values, then one of 16 for 80. See [`BlockTQ1_0::code`].
    pub qs: [u8; 48],
    /// Four values in each byte, the last 16.
    pub qh: [u8; 4],
    /// Scale.
    pub d: Half,
}
block!(BlockTQ1_0, DType::TQ1_0);

impl BlockTQ1_0 {
    /// Code of value `i`, 0..3. In a run of `n` bytes, byte `k` has the values `k`, `n + k`, `2n + k`, …: the digits in base 3 of
    /// the fraction `byte / 256`, the most significant first.
    pub fn code(&self, i: usize) -> u8 {
        let (byte, digit) = match i {
            ..160 => (self.qs[i % 32], i / 32),
            160..240 => (self.qs[32 + i % 16], (i - 160) / 16),
            _ => (self.qh[i % 4], (i - 240) / 4),
        };
        let rest = byte.wrapping_mul(3u8.pow(digit as u32));
        ((u16::from(rest) * 3) >> 8) as u8
    }
}

/// 256 values in 2 bits: `x = d·(q − 1)`, `q` in 0..4 (what writes ternary models uses only 0..3).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ2_0 {
    /// Codes, laid out as [`BlockQ2K::qs`].
    pub qs: [u8; 64],
    /// Scale.
    pub d: Half,
}
block!(BlockTQ2_0, DType::TQ2_0);

/// 128 values of one bit: `x = d·(2q − 1)`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: Half,
    /// Bit `i % 8` of byte `i / 8` is value `i`.
    pub qs: [u8; 16],
}
block!(BlockQ1_0, DType::Q1_0);

/// 64 values in 2 bits: `x = d·(q − 1)`, `q` in 0..4.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: Half,
    /// Bits `2·(i % 4)..` of byte `i / 4` are value `i`.
    pub qs: [u8; 16],
}
block!(BlockQ2_0, DType::Q2_0);

impl BlockMXFP4 {
    /// The factor of [`E2M1`]: half the power of two that the E8M0 names. NaN for 255, which the format's specification reserves
    /// for it. (ggml takes 255 for a number.)
    pub fn scale(self) -> f32 {
        match self.e {
            255 => f32::NAN,
            // below the smallest normal number
            e @ ..2 => f32::from_bits(0x0020_0000 << e),
            e => f32::from_bits(u32::from(e - 1) << 23),
        }
    }
}

/// The 6-bit `(scale, minimum)` of the eight sub-blocks of a [`BlockQ4K`] or [`BlockQ5K`].
///
/// Sub-blocks 0..4: the low six bits of bytes `j` (scale) and `4 + j` (minimum). Sub-blocks 4..8: the low four
/// bits are the nibbles of byte `4 + j`, the high two are the top bits of bytes `j − 4` (scale) and `j` (minimum).
pub fn scales_and_minima(packed: &[u8; 12]) -> [(u8, u8); 8] {
    std::array::from_fn(|j| {
        if j < 4 {
            (packed[j] & 63, packed[4 + j] & 63)
        } else {
            let low = packed[4 + j];
            ((low & 15) | (packed[j - 4] >> 6 << 4), (low >> 4) | (packed[j] >> 6 << 4))
        }
    })
}

/// The inverse of [`scales_and_minima`]: packs eight pairs of 0..64.
pub fn pack_scales_and_minima(pairs: [(u8, u8); 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (j, (scale, min)) in pairs.into_iter().enumerate() {
        if j < 4 {
            packed[j] |= scale;
            packed[4 + j] |= min;
        } else {
            packed[4 + j] = (scale & 15) | ((min & 15) << 4);
            packed[j - 4] |= (scale >> 4) << 6;
            packed[j] |= (min >> 4) << 6;
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn six_bit_pairs_pack_and_unpack(pairs: [(u8, u8); 8]) {
            let pairs = pairs.map(|(s, m)| (s & 63, m & 63));
            prop_assert_eq!(scales_and_minima(&pack_scales_and_minima(pairs)), pairs);
        }

        #[test]
        fn q3_k_scales_pack_and_unpack(scales: [u8; 16]) {
            let scales = scales.map(|s| (s & 63) as i8 - 32);
            let block = BlockQ3K { scales: BlockQ3K::pack_scales(scales), ..Zeroable::zeroed() };
            prop_assert_eq!(block.scales(), scales);
        }
    }

    #[test]
    fn blocks_cast_from_unaligned_bytes() {
        let bytes = [0u8; 1 + 2 * 18];
        assert_eq!(bytemuck::cast_slice::<u8, BlockQ4_0>(&bytes[1..]).len(), 2);
    }
}
