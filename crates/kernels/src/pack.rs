//! Weight matrices repacked into panels that the inner loops read sequentially.
//!
//! A panel is 16 rows of the matrix, interleaved so that one 512-bit load gives 4 consecutive values (as bytes) of each of
//! the 16 rows, as a four-way byte dot product needs them. Panels form groups of four whose pieces alternate, so a product with
//! one token reads one sequential stream at full memory speed (four streams were a tenth slower). All instruction sets use
//! the same layout for each type, for GEMV and GEMM. The layout of a group:
//!
//! ```text
//! quantised   per stored block scales, then codes:
//!             scales: of panel 0, 1, 2, 3: d as f16 × 16 rows, dmin as f16 × 16 (if the type has mins), and for K-quants
//!                     SUBS rows of 16 scale bytes, then as many of mins; with scales of one byte of their own only
//!                     those
//!             codes:  per 32 values, of panel 0, 1, 2, 3: a low plane and, for 3, 5 and 6 bits, a high plane of the bits
//!                     above. A plane of w bits is w lines of 64 bytes; line i, byte 4r+j holds row r's values
//!                     4(i + w·f) + j in its fields f = 0, 1, … of w bits, lowest first
//! f32         per value k, of panel 0, 1, 2, 3: row r's value k                      64 bytes
//! f16         per value k, of panel 0, 1, 2, 3: row r's value k                      32 bytes
//! bf16        per pair i, of panel 0, 1, 2, 3: row r's values 2i (low) and 2i+1      64 bytes
//! f8_e4m3     see [`crate::float8`]
//! ```
//!
//! Rows beyond the last are zeros. Codes have as many bits as in the file, except for TQ1_0, whose digits in base 3 become TQ2_0's
//! codes, and for the types whose codes are entries of a grid, which become a code for each value ([`packed_block_bytes`]).

use crate::DType;
use crate::float8;
use crate::format::{Format, Scale, with_format};
use crate::memory::{AllocError, Arena, Buffer, SharedPtr};
use crate::pool::Pool;
use crate::simd::LANES;
use crate::unpack::{Block, unpack};
use std::io::ErrorKind;

/// Panels in a group.
pub(crate) const GROUP: usize = 4;
/// Rows of a group.
const ROWS: usize = GROUP * LANES;

/// A weight matrix in panels, `[rows, cols]`.
#[derive(Debug)]
pub struct Packed {
    dtype: DType,
    rows: usize,
    cols: usize,
    group_bytes: usize,
    /// What each sum of products is multiplied by.
    factor: f32,
    data: Buffer,
}

/// Bytes of one stored block of all rows of a group: scales and codes.
pub(crate) const fn chunk_bytes<F: Format>() -> usize {
    GROUP * (F::BLOCK / 32 * F::CODE_BYTES + F::HEADER_BYTES)
}

/// Bytes that a stored block of this type takes in a panel: those in the file, or more.
pub fn packed_block_bytes(dtype: DType) -> usize {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 => dtype.block_bytes(),
        quantized => with_format!(quantized, F => chunk_bytes::<F>() / ROWS),
    }
}

impl Packed {
    /// Packs a stored matrix. `row(r)` gives the stored bytes of row `r`, so a row order other than the file's (for RoPE
    /// pairing) is free. The panels are allocated in `arena`, after those packed before.
    ///
    /// # Errors
    /// If there is not enough memory for the panels.
    ///
    /// # Panics
    /// If a row's size is not that of `cols` values of `dtype`.
    pub fn pack<'a>(
        pool: &Pool,
        arena: &Arena,
        dtype: DType,
        rows: usize,
        cols: usize,
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<Packed, AllocError> {
        let group_bytes = match dtype {
            DType::F32 => cols.checked_mul(4 * ROWS),
            DType::F16 => cols.checked_mul(2 * ROWS),
            DType::BF16 => cols.div_ceil(2).checked_mul(4 * ROWS),
            DType::F8_E4M3 => (cols / float8::BLOCK).checked_mul(float8::CHUNK_BYTES),
            quantized => with_format!(quantized, F => (cols / F::BLOCK).checked_mul(chunk_bytes::<F>())),
        };
        let groups = rows.div_ceil(ROWS);
        let bytes = group_bytes.and_then(|group| groups.checked_mul(group));
        let (Some(group_bytes), Some(bytes)) = (group_bytes, bytes) else {
            return Err(AllocError { bytes: usize::MAX, source: ErrorKind::OutOfMemory.into() });
        };
        let mut data = arena.zeroed(bytes)?;
        let base = SharedPtr::new(data.bytes_mut());
        pool.for_each(groups, &|group| {
            // SAFETY: groups are disjoint ranges of `data`, which outlives the call.
            let out = unsafe { std::slice::from_raw_parts_mut(base.at(group * group_bytes), group_bytes) };
            let stored: [&[u8]; ROWS] = std::array::from_fn(|r| {
                let r = group * ROWS + r;
                if r >= rows {
                    return &[][..];
                }
                let bytes = row(r);
                assert_eq!(dtype.bytes_for(cols), Some(bytes.len()), "bytes of a row of {dtype}");
                bytes
            });
            match dtype {
                DType::F32 => pack_lines(&stored, out, 4),
                DType::F16 => pack_lines(&stored, out, 2),
                DType::BF16 => pack_lines(&stored, out, 4),
                DType::F8_E4M3 => float8::pack(&stored, out),
                quantized => with_format!(quantized, F => pack_quantized::<F>(quantized, &stored, out)),
            }
        });
        let factor = match dtype {
            DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 => 1.0,
            quantized => with_format!(quantized, F => F::UNIT),
        };
        Ok(Packed { dtype, rows, cols, group_bytes, factor, data })
    }

    /// The same matrix with all values multiplied by `scale`.
    #[must_use]
    pub fn scaled(mut self, scale: f32) -> Packed {
        self.factor *= scale;
        self
    }

    /// What each sum of products is multiplied by.
    pub(crate) fn factor(&self) -> f32 {
        self.factor
    }

    /// The stored type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Panels of 16 rows; a multiple of [`GROUP`], so the last ones may have no rows.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS) * GROUP
    }

    /// Bytes in memory, all of which a decode step reads.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The address of a group's first byte.
    pub(crate) fn group(&self, group: usize) -> *const u8 {
        self.data.bytes()[group * self.group_bytes..][..self.group_bytes].as_ptr()
    }
}

/// Interleaves rows of floats so that each line holds `unit` bytes of every row of a panel.
fn pack_lines(rows: &[&[u8]; ROWS], out: &mut [u8], unit: usize) {
    for (r, row) in rows.iter().enumerate() {
        for (lines, bytes) in out.chunks_exact_mut(unit * ROWS).zip(row.chunks(unit)) {
            lines[r * unit..][..bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn pack_quantized<F: Format>(dtype: DType, rows: &[&[u8]; ROWS], out: &mut [u8]) {
    let stored_bytes = dtype.block_bytes();
    let mut block = Block::zero();
    for (b, chunk) in out.chunks_exact_mut(chunk_bytes::<F>()).enumerate() {
        let (scales, codes) = chunk.split_at_mut(GROUP * F::HEADER_BYTES);
        for (r, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
            unpack(dtype, &row[b * stored_bytes..][..stored_bytes], &mut block);
            let (panel, lane) = (r / LANES, r % LANES);
            let groups = codes.chunks_exact_mut(GROUP * F::CODE_BYTES);
            for (values, codes) in block.codes.chunks_exact(32).zip(groups) {
                pack_codes::<F>(values, lane, &mut codes[panel * F::CODE_BYTES..][..F::CODE_BYTES]);
            }
            pack_header::<F>(&block, lane, &mut scales[panel * F::HEADER_BYTES..][..F::HEADER_BYTES]);
        }
    }
}

/// 32 codes of row `r` into their planes, four at a time.
fn pack_codes<F: Format>(values: &[u8], r: usize, planes: &mut [u8]) {
    let mut fours = [0; 8];
    for (four, bytes) in fours.iter_mut().zip(values.chunks_exact(4)) {
        *four = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let (low, high) = planes.split_at_mut(64 * F::LOW);
    pack_plane(&fours, F::LOW, r, low);
    if F::HIGH > 0 {
        // The bits that don't fit the low plane, shifted down in every byte.
        pack_plane(&fours.map(|four| (four >> F::LOW) & 0x0303_0303), F::HIGH, r, high);
    }
}

/// Writes the lowest `width` bits of each of 32 codes into a plane's lines.
fn pack_plane(fours: &[u32; 8], width: usize, r: usize, plane: &mut [u8]) {
    let mask = 0x0101_0101 * (u32::MAX >> (32 - width) & 0xff);
    for (i, line) in plane.chunks_exact_mut(64).enumerate() {
        let mut word = 0;
        for field in 0..8 / width {
            word |= (fours[i + width * field] & mask) << (width * field);
        }
        line[4 * r..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Writes one block's scales and mins of row `r`.
fn pack_header<F: Format>(block: &Block, r: usize, header: &mut [u8]) {
    if F::SCALE != Scale::F16 {
        for (row, &scale) in header.chunks_exact_mut(LANES).zip(&block.sc) {
            row[r] = scale;
        }
        return;
    }
    header[2 * r..][..2].copy_from_slice(&block.d);
    let mut rest = &mut header[32..];
    if F::HAS_MIN {
        rest[2 * r..][..2].copy_from_slice(&block.dmin);
        rest = &mut rest[32..];
    }
    if F::SUPER {
        for j in 0..F::SUBS {
            rest[16 * j + r] = block.sc[j];
            if F::HAS_MIN {
                rest[16 * (F::SUBS + j) + r] = block.m[j];
            }
        }
    }
}
