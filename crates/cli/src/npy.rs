//! NumPy's `.npy` format, version 1.0: float32, C order. Source: NumPy's `numpy.lib.format` documentation.

use std::io::{self, Write};

/// Writes the header of a `[rows, columns]` float32 array; the values follow row by row ([`write_values`]).
///
/// # Errors
/// If the writer fails.
pub fn write_header(out: &mut impl Write, rows: usize, columns: usize) -> io::Result<()> {
    let mut dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic (6), version (2) and length (2) with the dictionary and its newline fill a multiple of 64 bytes.
    let padding = 64 - (10 + dict.len() + 1) % 64;
    dict.extend(std::iter::repeat_n(' ', padding % 64));
    dict.push('\n');
    let len = u16::try_from(dict.len()).expect("two numbers take less than 65,536 characters");
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(dict.as_bytes())
}

/// Writes values, little-endian.
///
/// # Errors
/// If the writer fails.
pub fn write_values(out: &mut impl Write, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    out.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_aligned_and_says_the_shape() {
        for (rows, columns) in [(1, 1), (3, 49_152), (usize::MAX, usize::MAX), (99_999, 999)] {
            let mut bytes = Vec::new();
            write_header(&mut bytes, rows, columns).unwrap();
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
            assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
            let text = String::from_utf8(bytes[10..].to_vec()).unwrap();
            assert!(text.contains(&format!("'shape': ({rows}, {columns})")), "{text}");
            assert!(text.ends_with('\n'));
        }
    }
}
