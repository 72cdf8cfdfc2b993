//! The GGUF format, versions 2 and 3, little-endian: header, metadata, tensor descriptions.
//!
//! Source of the format: `docs/gguf.md` in the ggml repository. Files are untrusted: every count and length is compared with the
//! remaining bytes before memory is allocated for it, so memory stays within a small multiple of the file's size.

use std::collections::HashSet;
use std::ops::Range;

use super::dtypes::StoredType;
use super::{Metadata, Value};

/// Maximum nesting of arrays in metadata. Real files have arrays of scalars.
const MAX_DEPTH: usize = 4;
/// Maximum number of array elements stored as one [`Value`] each (all but strings, `f32` and `i32`), per file.
const MAX_TAGGED: usize = 4 << 20;
/// Maximum alignment; real files use 32.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// A key's type number and the smallest value: key length, type, one byte.
const MIN_PAIR: u64 = 8 + 4 + 1;
/// Name length, dimension count, one dimension, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// How a file breaks the GGUF format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what the fields are
pub enum GgufError {
    #[error("not a GGUF file: it starts with {found:02x?}; expected the four letters GGUF")]
    Magic { found: Vec<u8> },
    #[error("a big-endian GGUF file; expected little-endian")]
    BigEndian,
    #[error("GGUF version {found}; expected 2 or 3")]
    Version { found: u32 },
    #[error("the file ends at byte {len} inside {what}; expected {needed} bytes from byte {at} on")]
    Truncated { what: String, at: u64, needed: u64, len: u64 },
    #[error("{what} is {found}, more than the {left} bytes left in the file can hold")]
    Count { what: String, found: u64, left: u64 },
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 { what: String, at: u64 },
    #[error("a metadata key at byte {at} is empty")]
    EmptyKey { at: u64 },
    #[error("metadata key {key} occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata key {key} has value type {found}; expected 0 to 12")]
    ValueType { key: String, found: u32 },
    #[error("metadata key {key} holds the byte {found} as a boolean; expected 0 or 1")]
    Bool { key: String, found: u8 },
    #[error("metadata key {key} has arrays nested deeper than {limit}")]
    Depth { key: String, limit: usize },
    #[error("metadata key {key} takes the file's metadata beyond {limit} array elements")]
    TooManyElements { key: String, limit: usize },
    #[error("general.alignment is {found}; expected a power of two from 1 to {limit}")]
    Alignment { found: String, limit: u64 },
    #[error("tensor {tensor} occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor {tensor} has {found} dimensions; expected 1 to 4")]
    Dimensions { tensor: String, found: u32 },
    #[error(
        "tensor {tensor} has dimensions {found:?}; expected positive numbers with a product that fits a size"
    )]
    Shape { tensor: String, found: Vec<u64> },
    #[error("tensor {tensor} of type {kind} has rows of {found} values; expected a multiple of {block}")]
    Row { tensor: String, kind: String, found: u64, block: usize },
    #[error("tensor {tensor} starts at offset {found}; expected a multiple of the alignment {alignment}")]
    Misaligned { tensor: String, found: u64, alignment: u64 },
    #[error("tensor {tensor} shares bytes with tensor {other}; expected each to have its own")]
    Overlap { tensor: String, other: String },
    #[error("tensor {tensor} needs {bytes} bytes at offset {offset} of the data; the data has {len}")]
    OutOfFile { tensor: String, offset: u64, bytes: u64, len: u64 },
}

/// The contents of a GGUF file before its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// All key-value pairs.
    pub metadata: Metadata,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorHeader>,
}

/// One tensor's description; its byte range has been checked against the file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorHeader {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How values are stored.
    pub kind: StoredType,
    /// Row-major, outermost dimension first (GGUF stores the reverse order).
    pub shape: Vec<usize>,
    /// Byte range in the file; `None` for types of unknown size.
    pub range: Option<Range<usize>>,
}

/// Reads everything but the weights from a whole file.
///
/// # Errors
/// One [`GgufError`] per way to break the format.
pub fn parse(file: &[u8]) -> Result<Header, GgufError> {
    let mut r = Reader { file, at: 0, tagged: 0 };
    if !file.starts_with(b"GGUF") {
        return Err(GgufError::Magic { found: file[..file.len().min(4)].to_vec() });
    }
    r.at = 4;
    let version = r.u32("the version")?;
    match version {
        2 | 3 => {}
        v if matches!(v.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian),
        found => return Err(GgufError::Version { found }),
    }
    let tensor_count = r.u64("the tensor count")?;
    let pair_count = r.u64("the metadata count")?;
    r.fits("the metadata count", pair_count, MIN_PAIR)?;
    r.fits("the tensor count", tensor_count, MIN_TENSOR)?;

    let metadata = r.metadata(pair_count)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    let mut offsets = Vec::new();
    let mut names = HashSet::new();
    for i in 0..tensor_count {
        let (tensor, offset, bytes) = r.tensor(i)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::DuplicateTensor { tensor: tensor.name });
        }
        tensors.push(tensor);
        offsets.push((offset, bytes));
    }

    let data = (r.at as u64).next_multiple_of(alignment);
    let len = (file.len() as u64).saturating_sub(data);
    for (tensor, (offset, bytes)) in tensors.iter_mut().zip(offsets) {
        if offset % alignment != 0 {
            return Err(GgufError::Misaligned { tensor: tensor.name.clone(), found: offset, alignment });
        }
        let end = offset.checked_add(bytes.unwrap_or(0)).filter(|&end| end <= len);
        let Some(end) = end else {
            let (tensor, bytes) = (tensor.name.clone(), bytes.unwrap_or(0));
            return Err(GgufError::OutOfFile { tensor, offset, bytes, len });
        };
        // Both lie within the file, so they fit a usize.
        tensor.range = bytes.map(|_| (data + offset) as usize..(data + end) as usize);
    }
    refuse_overlap(&tensors)?;
    Ok(Header { version, metadata, tensors })
}

/// Rejects tensors that share bytes: they would let a small file request any amount of memory.
fn refuse_overlap(tensors: &[TensorHeader]) -> Result<(), GgufError> {
    let mut ranges: Vec<_> = tensors.iter().filter_map(|t| Some((t.range.as_ref()?, &t.name))).collect();
    ranges.sort_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Overlap { tensor: pair[1].1.clone(), other: pair[0].1.clone() }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(32) };
    match metadata.u64("general.alignment") {
        Some(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => Ok(a),
        _ => Err(GgufError::Alignment { found: value.describe(), limit: MAX_ALIGNMENT }),
    }
}

/// A position in the file. Each read takes a description of what it reads, for errors.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// The number of elements stored as one [`Value`] each so far.
    tagged: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], GgufError> {
        if n > self.left() {
            let (at, len) = (self.at as u64, self.file.len() as u64);
            return Err(GgufError::Truncated { what: what.to_owned(), at, needed: n, len });
        }
        let bytes = &self.file[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Rejects a count of items of at least `each` bytes that does not fit into the rest of the file.
    fn fits(&self, what: &str, count: u64, each: u64) -> Result<(), GgufError> {
        match count.checked_mul(each) {
            Some(bytes) if bytes <= self.left() => Ok(()),
            _ => Err(GgufError::Count { what: what.to_owned(), found: count, left: self.left() }),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let n = self.u64(what)?;
        let at = self.at as u64;
        let bytes = self.take(n, what)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => Err(GgufError::Utf8 { what: what.to_owned(), at }),
        }
    }

    fn metadata(&mut self, pairs: u64) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata::default();
        for _ in 0..pairs {
            let at = self.at as u64;
            let key = self.string("a metadata key")?;
            if key.is_empty() {
                return Err(GgufError::EmptyKey { at });
            }
            let kind = self.u32(&key)?;
            let value = self.value(&key, kind, 0)?;
            if metadata.0.contains_key(&key) {
                return Err(GgufError::DuplicateKey { key });
            }
            metadata.0.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>(key)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            7 => match self.array::<1>(key)?[0] {
                b @ (0 | 1) => Value::Bool(b == 1),
                found => return Err(GgufError::Bool { key: key.to_owned(), found }),
            },
            8 => Value::String(self.string(key)?),
            9 => self.list(key, depth)?,
            10 => Value::U64(u64::from_le_bytes(self.array(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            found => return Err(GgufError::ValueType { key: key.to_owned(), found }),
        })
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Value, GgufError> {
        if depth == MAX_DEPTH {
            return Err(GgufError::Depth { key: key.to_owned(), limit: MAX_DEPTH });
        }
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 4 + 8,
            found => return Err(GgufError::ValueType { key: key.to_owned(), found }),
        };
        self.fits(key, count, smallest)?;
        Ok(match kind {
            5 => Value::Ints(self.words(key, count)?.map(i32::from_le_bytes).collect()),
            6 => Value::Floats(self.words(key, count)?.map(f32::from_le_bytes).collect()),
            8 => {
                // Reserved at once: growing would need memory for the old and the new list at the same time.
                let mut strings = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    strings.push(self.string(key)?);
                }
                Value::Strings(strings)
            }
            _ => {
                self.tagged = self.tagged.saturating_add(count as usize);
                if self.tagged > MAX_TAGGED {
                    return Err(GgufError::TooManyElements { key: key.to_owned(), limit: MAX_TAGGED });
                }
                let mut values = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    values.push(self.value(key, kind, depth + 1)?);
                }
                Value::Array(values)
            }
        })
    }

    fn words(&mut self, key: &str, count: u64) -> Result<impl Iterator<Item = [u8; 4]> + 'a, GgufError> {
        let bytes = self.take(count * 4, key)?; // `fits` has checked the product
        Ok(bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]))
    }

    /// A tensor's description without its range, its offset into the data, and its size where known.
    fn tensor(&mut self, i: u64) -> Result<(TensorHeader, u64, Option<u64>), GgufError> {
        let name = self.string(&format!("the name of tensor {i}"))?;
        let dimensions = self.u32(&name)?;
        if !(1..=4).contains(&dimensions) {
            return Err(GgufError::Dimensions { tensor: name, found: dimensions });
        }
        let mut dims = Vec::with_capacity(4);
        for _ in 0..dimensions {
            dims.push(self.u64(&name)?);
        }
        let (kind, block) = StoredType::from_ggml(self.u32(&name)?);
        let offset = self.u64(&name)?;

        let values = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
        let Some(values) = values.filter(|&n| usize::try_from(n).is_ok()) else {
            return Err(GgufError::Shape { tensor: name, found: dims });
        };
        let bytes = match block {
            // No type takes less than a bit.
            None if values.div_ceil(8) > self.file.len() as u64 => {
                return Err(GgufError::Shape { tensor: name, found: dims });
            }
            None => None,
            Some((block, _)) if dims[0] % block as u64 != 0 => {
                let kind = kind.to_string();
                return Err(GgufError::Row { tensor: name, kind, found: dims[0], block });
            }
            Some((block, bytes)) => match (values / block as u64).checked_mul(bytes as u64) {
                Some(bytes) => Some(bytes),
                None => return Err(GgufError::Shape { tensor: name, found: dims }),
            },
        };
        let shape = dims.iter().rev().map(|&d| d as usize).collect();
        Ok((TensorHeader { name, kind, shape, range: None }, offset, bytes))
    }
}
