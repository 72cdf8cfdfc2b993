//! Writes GGUF version 3 as a stream: header and metadata, tensor descriptions, then each tensor's bytes.
//!
//! Source of the format: `docs/gguf.md` in the ggml repository.

use crate::error::ConvertError;
use crate::output::{Holds, Pending, Planned, Progress, Sink, total_bytes};
use std::path::Path;
use zonda_engine::load::{Metadata, Value};

/// Tensors start at multiples of this; the format's default.
const ALIGNMENT: u64 = 32;
/// Maximum length of a tensor name in ggml, in bytes.
const MAX_NAME: usize = 63;

/// Writes a file of `metadata` and `tensors`; `fill(i, sink)` writes the bytes of tensor `i` and is called in order. Returns
/// the file's size in bytes.
///
/// The file appears at `path` once it is complete.
///
/// # Errors
/// If the file system or `fill` fails, or the format can't hold the tensors or metadata.
pub fn write_gguf(
    path: &Path,
    metadata: &Metadata,
    tensors: &[Planned],
    fill: &mut dyn FnMut(usize, &mut Sink<'_>) -> Result<(), ConvertError>,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let header = header(metadata, tensors)?;
    let total = total_bytes(tensors)?;
    let mut done = 0;
    progress(0, total);
    let mut wrote = |bytes| {
        done += bytes;
        progress(done, total);
    };

    let pending = Pending::file(path)?;
    let mut sink = Sink::create(pending.path(), &mut wrote)?;
    sink.put(&header)?;
    for (i, tensor) in tensors.iter().enumerate() {
        sink.pad(ALIGNMENT)?;
        sink.tensor(tensor, |sink| fill(i, sink))?;
    }
    sink.pad(ALIGNMENT)?;
    let bytes = sink.finish()?;
    pending.commit()?;
    Ok(bytes)
}

/// Everything before the tensor data.
fn header(metadata: &Metadata, tensors: &[Planned]) -> Result<Vec<u8>, ConvertError> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.0.len() as u64).to_le_bytes());
    for (key, value) in &metadata.0 {
        string(&mut out, key);
        out.extend(type_id(value).to_le_bytes());
        put_value(&mut out, key, value)?;
    }
    let mut offset = 0u64;
    for tensor in tensors {
        if tensor.name.len() > MAX_NAME || tensor.shape.is_empty() || tensor.shape.len() > 4 {
            return Err(ConvertError::Invalid {
                what: "a GGUF tensor",
                found: format!("{} of {} dimensions", tensor.name, tensor.shape.len()),
                expected: format!("a name of at most {MAX_NAME} bytes and 1 to 4 dimensions"),
            });
        }
        string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // GGUF names the innermost dimension first.
        for &d in tensor.shape.iter().rev() {
            out.extend((d as u64).to_le_bytes());
        }
        let Holds::Values(dtype) = tensor.holds else {
            return Err(ConvertError::NotExpressible {
                what: format!("tensor {}", tensor.name),
                found: "words of codes".to_owned(),
                format: "GGUF",
                reason: "they are MLX's".to_owned(),
            });
        };
        if !dtype.in_gguf() {
            return Err(ConvertError::NotExpressible {
                what: format!("tensor {}", tensor.name),
                found: dtype.to_string(),
                format: "GGUF",
                reason: "it has no such type".to_owned(),
            });
        }
        out.extend(dtype.ggml_id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()?).next_multiple_of(ALIGNMENT);
    }
    Ok(out)
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

/// GGUF's number of a value's type.
fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) | Value::Strings(_) | Value::Floats(_) | Value::Ints(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), ConvertError> {
    let array = |out: &mut Vec<u8>, element: u32, len: usize| {
        out.extend(element.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.push(*v as u8),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => string(out, v),
        Value::Strings(v) => {
            array(out, 8, v.len());
            v.iter().for_each(|s| string(out, s));
        }
        Value::Floats(v) => {
            array(out, 6, v.len());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
        Value::Ints(v) => {
            array(out, 5, v.len());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
        Value::Array(v) => {
            // An empty array has no element type; any will do.
            let element = v.first().map_or(4, type_id);
            if v.iter().any(|e| type_id(e) != element) {
                return Err(ConvertError::Invalid {
                    what: "a metadata array",
                    found: format!("{key} with elements of several types"),
                    expected: "elements of one type".to_owned(),
                });
            }
            array(out, element, v.len());
            v.iter().try_for_each(|e| put_value(out, key, e))?;
        }
    }
    Ok(())
}
