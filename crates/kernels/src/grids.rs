//! GGUF's blocks whose codes are entries of a grid: the types IQ2, IQ3 and IQ1.
//!
//! An index stands for the magnitudes of eight or four consecutive values at once, out of few magnitudes, and signs are stored
//! beside the indices; in IQ1 it stands for eight of −1, 0 and 1, and a sign says in which direction all are shifted by an eighth.
//! [`GridBlock`] gives every value a code of its own, digit and sign, and says what the codes stand for.
//!
//! Every product of `d`, a scale and a level fits into the 24 bits of an `f32`, so the order of the factors does not matter.
//! Source: ggml's block definitions, checked against gguf-py's dequantisation.

use crate::DType;
use crate::blocks::{Block, Half, SUPER, block};
use bytemuck::{Pod, Zeroable};

/// 256 values, of which `SUB` share a scale: `x = UNIT · d · scale · LEVELS[code]`.
pub trait GridBlock: Block {
    /// Values that share a scale: 16 or 32.
    const SUB: usize;
    /// What each code stands for. Digits that no grid has stand for 0.
    const LEVELS: [i8; 16];
    /// A factor of all values.
    const UNIT: f32;

    /// The scale of the scales.
    fn d(&self) -> Half;

    /// The scale of sub-block `j`: odd, 1..32.
    fn scale(&self, j: usize) -> u8;

    /// The codes of values `8i..8i + 8`: a digit of the grid, and above it the sign.
    fn codes(&self, i: usize) -> [u8; 8];

    /// The codes of all values.
    fn all_codes(&self) -> [u8; SUPER] {
        let mut codes = [0; SUPER];
        for (i, eight) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *eight = self.codes(i);
        }
        codes
    }
}

/// All grids' entries, written by `testdata/blocks/make_grids.py`, little-endian: eight digits of two bits each or four of four, the
/// first value's digit in the lowest bits.
static ENTRIES: &[u8; 2 * 4608] = include_bytes!("grids.bin");

/// A grid: where its entries begin, and how many bits an index has.
#[derive(Clone, Copy)]
struct Grid {
    first: usize,
    bits: u32,
}

const IQ2_XXS: Grid = Grid { first: 0, bits: 8 };
const IQ2_XS: Grid = IQ2_XXS.next(9);
const IQ2_S: Grid = IQ2_XS.next(10);
const IQ3_XXS: Grid = IQ2_S.next(8);
const IQ3_S: Grid = IQ3_XXS.next(9);
const IQ1: Grid = IQ3_S.next(11);
const _: () = assert!(2 * IQ1.next(0).first == ENTRIES.len());

impl Grid {
    /// The grid after this one.
    const fn next(self, bits: u32) -> Grid {
        Grid { first: self.first + (1 << self.bits), bits }
    }

    /// The entry of an index, whose higher bits are ignored.
    fn entry(self, index: u16) -> u16 {
        let at = 2 * (self.first + usize::from(index) % (1 << self.bits));
        u16::from_le_bytes([ENTRIES[at], ENTRIES[at + 1]])
    }

    /// Codes of an entry of eight digits, with the sign of value `k` in bit `k` of `signs`.
    fn eight(self, index: u16, signs: u8) -> [u8; 8] {
        let digits = self.entry(index);
        std::array::from_fn(|k| (digits >> (2 * k)) as u8 & 3 | (signs >> k & 1) << 2)
    }

    /// Codes of two entries of four digits.
    fn two_fours(self, indices: [u16; 2], signs: u8) -> [u8; 8] {
        let digits = indices.map(|index| self.entry(index));
        std::array::from_fn(|k| (digits[k / 4] >> (4 * (k % 4))) as u8 & 7 | (signs >> k & 1) << 3)
    }
}

/// Eight signs from the low seven bits: an even number of them is set.
fn even_signs(seven: u8) -> u8 {
    let seven = seven & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// The scale that four bits stand for.
fn odd(bits: u8) -> u8 {
    2 * (bits & 15) + 1
}

/// Scale `j` of those that stand in nibbles, the first in the low one.
fn odd_nibble(scales: &[u8], j: usize) -> u8 {
    odd(scales[j / 2] >> (4 * (j % 2)))
}

/// Signs `i` of the four times seven bits of a little-endian word.
fn packed_signs(word: [u8; 4], i: usize) -> u8 {
    even_signs((u32::from_le_bytes(word) >> (7 * i)) as u8)
}

/// The levels of codes of a magnitude and a sign above it.
const fn signed<const N: usize>(magnitudes: [i8; N]) -> [i8; 16] {
    let (mut levels, mut i) = ([0; 16], 0);
    while i < N {
        levels[i] = magnitudes[i];
        levels[N + i] = -magnitudes[i];
        i += 1;
    }
    levels
}

/// The magnitudes of the IQ2 types.
const LEVELS_2: [i8; 16] = signed([8, 25, 43, 0]);
/// Eight times −1, 0 and 1, plus 1 or with the sign minus 1.
const LEVELS_1: [i8; 16] = [-7, 1, 9, 0, -9, -1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// 256 values, eight to an index of eight bits, sub-blocks of 32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2XXS {
    /// Scale of the scales.
    pub d: Half,
    /// Per sub-block: four indices, then a little-endian word of four times seven bits of signs and four bits of scale.
    pub qs: [[u8; 8]; 8],
}
block!(BlockIQ2XXS, DType::IQ2_XXS);

impl GridBlock for BlockIQ2XXS {
    const SUB: usize = 32;
    const LEVELS: [i8; 16] = LEVELS_2;
    const UNIT: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd(self.qs[j][7] >> 4)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let qs = &self.qs[i / 4];
        IQ2_XXS.eight(u16::from(qs[i % 4]), packed_signs([qs[4], qs[5], qs[6], qs[7]], i % 4))
    }
}

/// 256 values, eight to an index of nine bits, sub-blocks of 16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2XS {
    /// Scale of the scales.
    pub d: Half,
    /// Little-endian words: an index, and seven bits of signs above.
    pub qs: [[u8; 2]; 32],
    /// Four bits of scale per sub-block, the first in the low nibble.
    pub scales: [u8; 8],
}
block!(BlockIQ2XS, DType::IQ2_XS);

impl GridBlock for BlockIQ2XS {
    const SUB: usize = 16;
    const LEVELS: [i8; 16] = LEVELS_2;
    const UNIT: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd_nibble(&self.scales, j)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let word = u16::from_le_bytes(self.qs[i]);
        IQ2_XS.eight(word & 511, even_signs((word >> 9) as u8))
    }
}

/// 256 values, eight to an index of ten bits, sub-blocks of 16.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ2S {
    /// Scale of the scales.
    pub d: Half,
    /// The indices' low eight bits.
    pub qs: [u8; 32],
    /// A bit of sign per value.
    pub signs: [u8; 32],
    /// The indices' high two bits: bits `2·(i % 4)..` of byte `i / 4` belong to index `i`.
    pub qh: [u8; 8],
    /// Scales as in [`BlockIQ2XS::scales`].
    pub scales: [u8; 8],
}
block!(BlockIQ2S, DType::IQ2_S);

impl GridBlock for BlockIQ2S {
    const SUB: usize = 16;
    const LEVELS: [i8; 16] = LEVELS_2;
    const UNIT: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd_nibble(&self.scales, j)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let high = u16::from(self.qh[i / 4] >> (2 * (i % 4)) & 3);
        IQ2_S.eight(u16::from(self.qs[i]) | high << 8, self.signs[i])
    }
}

/// 256 values, four to an index of eight bits, sub-blocks of 32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3XXS {
    /// Scale of the scales.
    pub d: Half,
    /// Indices.
    pub qs: [[u8; 2]; 32],
    /// Per sub-block a little-endian word, as in [`BlockIQ2XXS::qs`].
    pub signs: [[u8; 4]; 8],
}
block!(BlockIQ3XXS, DType::IQ3_XXS);

impl GridBlock for BlockIQ3XXS {
    const SUB: usize = 32;
    /// Half the magnitudes.
    const LEVELS: [i8; 16] = signed([2, 6, 10, 14, 18, 22, 26, 31]);
    const UNIT: f32 = 0.5;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd(self.signs[j][3] >> 4)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        IQ3_XXS.two_fours(self.qs[i].map(u16::from), packed_signs(self.signs[i / 4], i % 4))
    }
}

/// 256 values, four to an index of nine bits, sub-blocks of 32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ3S {
    /// Scale of the scales.
    pub d: Half,
    /// The indices' low eight bits.
    pub qs: [[u8; 2]; 32],
    /// The indices' highest bits: bit `i % 8` of byte `i / 8` belongs to index `i`.
    pub qh: [u8; 8],
    /// A bit of sign per value.
    pub signs: [u8; 32],
    /// Scales as in [`BlockIQ2XS::scales`].
    pub scales: [u8; 4],
}
block!(BlockIQ3S, DType::IQ3_S);

impl GridBlock for BlockIQ3S {
    const SUB: usize = 32;
    const LEVELS: [i8; 16] = signed([1, 3, 5, 7, 9, 11, 13, 15]);
    const UNIT: f32 = 1.0;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd_nibble(&self.scales, j)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let high = u16::from(self.qh[i / 4]) >> (2 * (i % 4));
        let [first, second] = self.qs[i].map(u16::from);
        IQ3_S.two_fours([first | (high & 1) << 8, second | (high & 2) << 7], self.signs[i])
    }
}

/// 256 values of −1, 0 and 1, all shifted by an eighth, eight to an index of eleven bits, sub-blocks of 32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1S {
    /// Scale of the scales.
    pub d: Half,
    /// The indices' low eight bits.
    pub qs: [u8; 32],
    /// Per sub-block a little-endian word: three high bits of each of the four indices, three bits of scale, and the sign of the
    /// shift.
    pub qh: [[u8; 2]; 8],
}
block!(BlockIQ1S, DType::IQ1_S);

impl GridBlock for BlockIQ1S {
    const SUB: usize = 32;
    const LEVELS: [i8; 16] = LEVELS_1;
    const UNIT: f32 = 0.125;

    fn d(&self) -> Half {
        self.d
    }

    fn scale(&self, j: usize) -> u8 {
        odd(self.qh[j][1] >> 4 & 7)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let word = u16::from_le_bytes(self.qh[i / 4]);
        let high = word >> (3 * (i % 4)) & 7;
        let signs = if word >> 15 == 1 { 255 } else { 0 };
        IQ1.eight(u16::from(self.qs[i]) | high << 8, signs)
    }
}

/// 256 values as in [`BlockIQ1S`], but with sub-blocks of 16 and a shift per eight values.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ1M {
    /// The indices' low eight bits.
    pub qs: [u8; 32],
    /// Per index, the first in the low nibble: its three high bits, and the sign of the shift.
    pub qh: [u8; 16],
    /// Little-endian words of three bits of scale for each of four sub-blocks, and four bits of the scale of the scales, of which
    /// the first word has the lowest.
    pub scales: [[u8; 2]; 4],
}
block!(BlockIQ1M, DType::IQ1_M);

impl GridBlock for BlockIQ1M {
    const SUB: usize = 16;
    const LEVELS: [i8; 16] = LEVELS_1;
    const UNIT: f32 = 0.125;

    fn d(&self) -> Half {
        let [a, b, c, d] = self.scales.map(|word| word[1] >> 4);
        Half([a | b << 4, c | d << 4])
    }

    fn scale(&self, j: usize) -> u8 {
        odd((u16::from_le_bytes(self.scales[j / 4]) >> (3 * (j % 4)) & 7) as u8)
    }

    fn codes(&self, i: usize) -> [u8; 8] {
        let nibble = self.qh[i / 2] >> (4 * (i % 2));
        let signs = if nibble & 8 != 0 { 255 } else { 0 };
        IQ1.eight(u16::from(self.qs[i]) | u16::from(nibble & 7) << 8, signs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_ascending_and_their_digits_have_levels() {
        for (grid, digit, mask, digits) in [
            (IQ2_XXS, 2, 3, 3),
            (IQ2_XS, 2, 3, 3),
            (IQ2_S, 2, 3, 3),
            (IQ3_XXS, 4, 15, 8),
            (IQ3_S, 4, 15, 8),
            (IQ1, 2, 3, 3),
        ] {
            let entries: Vec<u16> = (0..1 << grid.bits).map(|i| grid.entry(i)).collect();
            assert!(entries.windows(2).all(|w| w[0] < w[1]), "{} entries from {}", entries.len(), grid.first);
            let known = |entry: &u16| (0..16 / digit).all(|k| entry >> (digit * k) & mask < digits);
            assert!(entries.iter().all(known), "{} entries from {}", entries.len(), grid.first);
        }
    }
}
