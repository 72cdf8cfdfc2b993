//! Weight matrices repacked into panels that the inner loops stream in order.
//!
//! A panel is 16 rows of the matrix, interleaved so that one 512-bit load gives 4 consecutive values (as bytes) of each of
//! the 16 rows: what a four-way byte dot product wants. All panels of one type have one layout for every
//! instruction set, for GEMV and GEMM alike:
//!
//! ```text
//! quantised   codes:  per 32 values a low plane and, for 3, 5 and 6 bits, a high plane of the bits above. A plane of w bits
//!                     is w lines of 64 bytes; line i, byte 4r+j holds row r's values 4(i + w·f) + j in its fields
//!                     f = 0, 1, … of w bits, lowest first
//!             header: after all codes, per stored block: d as f16 × 16 rows, dmin as f16 × 16 (if the type has mins),
//!                     and for K-quants 256/SUB rows of 16 scale bytes, then as many of mins
//! f32         line k: row r's value k                      64 bytes
//! f16         line k: row r's value k                      32 bytes
//! bf16        line i: row r's values 2i (low) and 2i+1     64 bytes
//! ```
//!
//! Rows beyond the last are zeros. A code takes as many bits as in the file.

use crate::DType;
use crate::format::{Format, with_format};
use crate::memory::{AllocError, Buffer, SharedPtr};
use crate::pool::Pool;
use crate::simd::LANES;
use crate::unpack::{Block, unpack};

/// A weight matrix in panels, `[rows, cols]`.
#[derive(Debug)]
pub struct Packed {
    dtype: DType,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    data: Buffer,
}

/// Bytes of one panel's codes and of its header. `cols` is a multiple of the block length.
pub(crate) fn quant_panel_bytes<F: Format>(cols: usize) -> (usize, usize) {
    (cols / 32 * F::CODE_BYTES, cols / F::BLOCK * F::HEADER_BYTES)
}

impl Packed {
    /// Packs a stored matrix. `row(r)` gives the stored bytes of row `r`: a row order other than the file's (RoPE
    /// pairing) costs nothing.
    ///
    /// # Errors
    /// If memory for the panels can't be had.
    ///
    /// # Panics
    /// If a row's byte count is not that of `cols` values of `dtype`.
    pub fn pack<'a>(
        pool: &Pool,
        dtype: DType,
        rows: usize,
        cols: usize,
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<Packed, AllocError> {
        let panel_bytes = match dtype {
            DType::F32 => cols * 4 * LANES,
            DType::F16 => cols * 2 * LANES,
            DType::BF16 => cols.div_ceil(2) * 4 * LANES,
            quantized => with_format!(quantized, F => {
                let (codes, header) = quant_panel_bytes::<F>(cols);
                codes + header.next_multiple_of(64)
            }),
        };
        let panels = rows.div_ceil(LANES);
        let mut data = Buffer::zeroed(panels * panel_bytes)?;
        let base = SharedPtr::new(data.bytes_mut());
        pool.for_each(panels, &|panel| {
            // SAFETY: panels are disjoint ranges of `data`, which outlives the call.
            let out = unsafe { std::slice::from_raw_parts_mut(base.at(panel * panel_bytes), panel_bytes) };
            let stored: [Option<&[u8]>; LANES] = std::array::from_fn(|r| {
                let r = panel * LANES + r;
                (r < rows).then(|| {
                    let bytes = row(r);
                    assert_eq!(dtype.bytes_for(cols), Some(bytes.len()), "bytes of a row of {dtype}");
                    bytes
                })
            });
            match dtype {
                DType::F32 => pack_lines::<4>(&stored, out, 4),
                DType::F16 => pack_lines::<2>(&stored, out, 2),
                DType::BF16 => pack_lines::<2>(&stored, out, 4),
                quantized => with_format!(quantized, F => pack_quantized::<F>(&stored, cols, out)),
            }
        });
        Ok(Packed { dtype, rows, cols, panel_bytes, data })
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

    /// Panels of 16 rows.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Bytes in memory: what a decode step reads.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The address of a panel's first byte.
    pub(crate) fn panel(&self, panel: usize) -> *const u8 {
        self.data.bytes()[panel * self.panel_bytes..][..self.panel_bytes].as_ptr()
    }
}

/// Interleaves rows of `SIZE`-byte floats so that each line holds `unit` bytes of every row.
fn pack_lines<const SIZE: usize>(rows: &[Option<&[u8]>; LANES], out: &mut [u8], unit: usize) {
    for (r, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        for (line, bytes) in out.chunks_exact_mut(unit * LANES).zip(row.chunks(unit)) {
            line[r * unit..][..bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn pack_quantized<F: Format>(rows: &[Option<&[u8]>; LANES], cols: usize, out: &mut [u8]) {
    let (code_bytes, header_bytes) = quant_panel_bytes::<F>(cols);
    let (codes, header) = out.split_at_mut(code_bytes);
    let mut block = Block::zero();
    for (r, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let code_blocks = codes.chunks_exact_mut(F::CODE_BYTES * F::BLOCK / 32);
        let headers = header[..header_bytes].chunks_exact_mut(F::HEADER_BYTES);
        for ((stored, codes), header) in
            row.chunks_exact(F::DTYPE.block_bytes()).zip(code_blocks).zip(headers)
        {
            unpack(F::DTYPE, stored, &mut block);
            for (values, codes) in block.codes.chunks_exact(32).zip(codes.chunks_exact_mut(F::CODE_BYTES)) {
                pack_codes::<F>(values, r, codes);
            }
            pack_header::<F>(&block, r, header);
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
        // what the low plane has no room for, moved down in every byte
        pack_plane(&fours.map(|four| (four >> F::LOW) & 0x0303_0303), F::HIGH, r, high);
    }
}

/// The lowest `width` bits of each of 32 codes into a plane's lines.
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

/// One block's scales and mins of row `r`.
fn pack_header<F: Format>(block: &Block, r: usize, header: &mut [u8]) {
    header[2 * r..][..2].copy_from_slice(&block.d);
    let mut rest = &mut header[32..];
    if F::HAS_MIN {
        rest[2 * r..][..2].copy_from_slice(&block.dmin);
        rest = &mut rest[32..];
    }
    if F::SUPER {
        let subs = 256 / F::SUB;
        for j in 0..subs {
            rest[16 * j + r] = block.sc[j];
            if F::HAS_MIN {
                rest[16 * (subs + j) + r] = block.m[j];
            }
        }
    }
}
