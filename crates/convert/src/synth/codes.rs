//! Random blocks of the quantised types, made as codes and scales: no value is rounded, so that gigabytes take seconds.
//!
//! All codes of a block are equally likely, and its scale makes the variance right: a row of `n` values has the mean 0 and the
//! given deviation. Where a type's codes are not symmetric around 0, either its scales have random signs, or its minimum makes up
//! for it. A matrix with a mean of its own would add one and the same large vector to whatever it multiplies.

use zonda_kernels::DType;
use zonda_kernels::blocks::{
    Block, BlockMXFP4, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K,
    BlockQ6K, BlockQ8_0, E2M1, Half, pack_scales_and_minima,
};
use zonda_kernels::quantize::random_blocks;
use zonda_kernels::random::Stream;

/// Fills bytes from a row's random numbers.
fn fill(random: &mut Stream, bytes: &mut [u8]) {
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        word.copy_from_slice(&random.bits().to_le_bytes());
    }
    let rest = words.into_remainder();
    let last = random.bits().to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// The root of the mean square of numbers.
fn rms(numbers: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), n| (sum + n * n, count + 1.0));
    f32::sqrt(sum / count)
}

/// `base` with its low bits from a random byte.
fn with_low(base: u8, mask: u8, random: u8) -> u8 {
    base | (random & mask)
}

/// The same with a random sign, from the byte's highest bit.
fn signed(base: u8, mask: u8, random: u8) -> i8 {
    let size = with_low(base, mask, random) as i8;
    if random & 0x80 == 0 { size } else { -size }
}

/// The scale of a block, around 1 with the mean square 1, and a random sign if `both`.
fn scale(random: u64, both: bool) -> f32 {
    // uniform in 0.75..1.25, whose mean square is 1 + 1/48
    const ROOT: f32 = 1.010_363;
    let size = (0.75 + (random & 0xffff) as f32 / 131_072.0) / ROOT;
    if both && random >> 63 == 1 { -size } else { size }
}

/// A type's blocks: what the deviation of values is where scales are 1, and the bytes of one row.
struct Kind<B: Block> {
    /// Deviation of a value for a block's scale of 1.
    unit: f32,
    /// Sets the scales of a block of random bytes. The number is the scale for the wanted deviation.
    set: fn(&mut B, f32, u64),
}

impl<B: Block> Kind<B> {
    fn row(&self, key: u64, deviation: f32, row: &mut [u8]) {
        let mut stream = Stream(key);
        for block in bytemuck::cast_slice_mut::<u8, B>(row) {
            fill(&mut stream, bytemuck::bytes_of_mut(block));
            (self.set)(block, deviation / self.unit, stream.bits());
        }
    }
}

/// The scale and the minimum of a type whose codes, from 0, have this middle.
fn with_minimum(d: f32, middle: f32) -> (Half, Half) {
    let d = Half::from_f32(d);
    (d, Half::from_f32(middle * d.to_f32()))
}

/// Eight scales and minima alike, of 32 to 63, from random bytes.
fn alike(random: [u8; 12]) -> [u8; 12] {
    pack_scales_and_minima(std::array::from_fn(|j| {
        let scale = with_low(32, 31, random[j]);
        (scale, scale)
    }))
}

const LARGE: std::ops::Range<u8> = 32..64;

/// Appends a row of `cols` values of a quantised type with this deviation, from the stream of `key`.
///
/// # Panics
/// If the type is not quantised or the row is not whole blocks of it; the plan of a file has neither.
pub(super) fn append_row(dtype: DType, key: u64, deviation: f32, cols: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + dtype.bytes_for(cols).expect("rows of whole blocks"), 0);
    let row = &mut out[start..];
    let codes = |low: i32, high: i32| rms((low..high).map(|q| q as f32));
    let centred = |count: u8| rms((0..count).map(|q| f32::from(q) - f32::from(count - 1) / 2.0));
    let scales = |sizes: std::ops::Range<u8>| rms(sizes.map(f32::from));
    match dtype {
        DType::Q4_0 => {
            let set = |b: &mut BlockQ4_0, d: f32, random: u64| b.d = Half::from_f32(d * scale(random, true));
            Kind { unit: codes(-8, 8), set }.row(key, deviation, row);
        }
        DType::Q5_0 => {
            let set = |b: &mut BlockQ5_0, d: f32, random: u64| b.d = Half::from_f32(d * scale(random, true));
            Kind { unit: codes(-16, 16), set }.row(key, deviation, row);
        }
        DType::Q8_0 => {
            let set = |b: &mut BlockQ8_0, d: f32, random: u64| {
                b.d = Half::from_f32(d * scale(random, false));
                b.qs.iter_mut().for_each(|q| *q = if *q == i8::MIN { 0 } else { *q });
            };
            Kind { unit: codes(-127, 128), set }.row(key, deviation, row);
        }
        DType::Q4_1 => {
            let set = |b: &mut BlockQ4_1, d: f32, random: u64| {
                (b.d, b.m) = with_minimum(d * scale(random, false), -7.5)
            };
            Kind { unit: centred(16), set }.row(key, deviation, row);
        }
        DType::Q5_1 => {
            let set = |b: &mut BlockQ5_1, d: f32, random: u64| {
                (b.d, b.m) = with_minimum(d * scale(random, false), -15.5)
            };
            Kind { unit: centred(32), set }.row(key, deviation, row);
        }
        DType::Q2_K => {
            let set = |b: &mut BlockQ2K, d: f32, random: u64| {
                (b.d, b.dmin) = with_minimum(d * scale(random, false), 1.5);
                b.scales.iter_mut().for_each(|s| *s = with_low(8, 7, *s) * 0x11);
            };
            Kind { unit: centred(4) * scales(8..16), set }.row(key, deviation, row);
        }
        DType::Q3_K => {
            let set = |b: &mut BlockQ3K, d: f32, random: u64| {
                b.d = Half::from_f32(d * scale(random, false));
                // sixteen signs and sizes from the bytes that they replace, and four more
                let spare = random.rotate_right(16).to_le_bytes();
                let byte = |j: usize| b.scales.get(j).copied().unwrap_or_else(|| spare[j - 12]);
                b.scales = BlockQ3K::pack_scales(std::array::from_fn(|j| signed(16, 15, byte(j))));
            };
            Kind { unit: codes(-4, 4) * scales(16..32), set }.row(key, deviation, row);
        }
        DType::Q4_K => {
            let set = |b: &mut BlockQ4K, d: f32, random: u64| {
                (b.d, b.dmin) = with_minimum(d * scale(random, false), 7.5);
                b.scales = alike(b.scales);
            };
            Kind { unit: centred(16) * scales(LARGE), set }.row(key, deviation, row);
        }
        DType::Q5_K => {
            let set = |b: &mut BlockQ5K, d: f32, random: u64| {
                (b.d, b.dmin) = with_minimum(d * scale(random, false), 15.5);
                b.scales = alike(b.scales);
            };
            Kind { unit: centred(32) * scales(LARGE), set }.row(key, deviation, row);
        }
        DType::Q6_K => {
            let set = |b: &mut BlockQ6K, d: f32, random: u64| {
                b.d = Half::from_f32(d * scale(random, false));
                b.scales.iter_mut().for_each(|s| *s = signed(32, 31, *s as u8));
            };
            Kind { unit: codes(-32, 32) * scales(LARGE), set }.row(key, deviation, row);
        }
        DType::MXFP4 => {
            let set = |b: &mut BlockMXFP4, d: f32, random: u64| {
                // Scales are powers of two: one of the two neighbours, so that the mean square is right.
                let low = d.log2().floor();
                let chance = ((d / low.exp2()).powi(2) - 1.0) / 3.0;
                let up = ((random & 0xffff) as f32) < chance * 65_536.0;
                b.e = (128.0 + low + f32::from(u8::from(up))).clamp(0.0, 254.0) as u8;
            };
            Kind { unit: rms(E2M1.iter().map(|&v| f32::from(v))), set }.row(key, deviation, row);
        }
        DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 => {
            unreachable!("{dtype} has no codes in GGUF")
        }
        read => {
            out.truncate(start);
            random_blocks(read, cols, deviation, key, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_kernels::dequantize::dequantize;
    use zonda_kernels::quantize::can_quantize;
    use zonda_kernels::random::mix;

    /// Rows of 4096 with the deviation of a matrix of that width: means of rows, of columns and of blocks must vanish, too.
    #[test]
    fn rows_of_every_type_have_mean_zero_and_the_wanted_deviation() {
        const COLS: usize = 4096;
        const ROWS: usize = 64;
        let written = |dtype: &DType| dtype.is_quantized() && dtype.in_gguf() && can_quantize(*dtype);
        for dtype in DType::ALL.into_iter().filter(written) {
            let (mut sums, mut squares) = (vec![0f64; COLS], 0f64);
            for row in 0..ROWS {
                let (mut bytes, mut values) = (Vec::new(), vec![0f32; COLS]);
                append_row(dtype, mix(row as u64), 1.0 / 64.0, COLS, &mut bytes);
                dequantize(dtype, &bytes, &mut values);
                assert!(values.iter().all(|v| v.is_finite() && v.abs() < 0.08), "{dtype}");
                let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / COLS as f64;
                assert!(mean.abs() * 64.0 < 0.15, "{dtype}: the mean of row {row} is {mean}");
                for (sum, &v) in sums.iter_mut().zip(&values) {
                    (*sum, squares) = (*sum + f64::from(v), squares + f64::from(v).powi(2));
                }
            }
            let variance = squares * 4096.0 / (COLS * ROWS) as f64;
            assert!((variance - 1.0).abs() < 0.05, "{dtype}: variance {variance}");
            let mean = sums.iter().sum::<f64>() * 64.0 / (COLS * ROWS) as f64;
            assert!(mean.abs() < 0.02, "{dtype}: mean {mean}");
            // Columns of independent values: their means have the deviation 1 / √ROWS.
            let spread = sums.iter().map(|s| (s * 64.0 / ROWS as f64).powi(2)).sum::<f64>() / COLS as f64;
            assert!((spread * ROWS as f64 - 1.0).abs() < 0.3, "{dtype}: columns {spread}");
        }
    }

    #[test]
    fn a_key_determines_a_row_and_blocks_differ() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized() && dtype.in_gguf()) {
            let row = |key| {
                let mut out = Vec::new();
                append_row(dtype, key, 0.1, 1024, &mut out);
                out
            };
            assert_eq!(row(1), row(1));
            assert_ne!(row(1), row(2), "{dtype}");
            let blocks = row(1);
            let mut blocks: Vec<&[u8]> = blocks.chunks(dtype.block_bytes()).collect();
            let count = blocks.len();
            blocks.sort_unstable();
            blocks.dedup();
            assert_eq!(blocks.len(), count, "{dtype}: two blocks are alike");
        }
    }
}
