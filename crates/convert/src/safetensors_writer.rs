//! Writes SafeTensors as a stream: one file, or shards with an index if the weights exceed a limit.
//!
//! A file consists of the header's length (8 bytes), a JSON header with names, types, shapes and byte ranges, and the
//! bytes. Source of the format: the `safetensors` crate's documentation; of the shards and
//! `model.safetensors.index.json`: the output of Hugging Face's `save_pretrained`.

use crate::error::ConvertError;
use crate::output::{Holds, Planned, Progress, Sink, total_bytes};
use serde_json::{Map, Value as Json, json};
use std::fs;
use std::ops::Range;
use std::path::Path;
use zonda_kernels::DType;

/// Maximum size of a shard in bytes (except for a single larger tensor).
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `model.safetensors`, or its shards and their index, into `folder`; `fill(i, sink)` writes the bytes of tensor `i`
/// and is called in order. Returns the bytes written.
///
/// All tensors should have one type, because the alignment of a tensor depends on the sizes of those before it.
///
/// # Errors
/// If the file system or `fill` fails, or SafeTensors does not have a type.
pub fn write_safetensors(
    folder: &Path,
    tensors: &[Planned],
    shard_bytes: u64,
    fill: &mut dyn FnMut(usize, &mut Sink<'_>) -> Result<(), ConvertError>,
    progress: Progress<'_>,
) -> Result<u64, ConvertError> {
    let total = total_bytes(tensors)?;
    let mut done = 0;
    progress(0, total);
    let mut wrote = |bytes| {
        done += bytes;
        progress(done, total);
    };

    let shards = shards(tensors, shard_bytes)?;
    let mut weight_map = Map::new();
    let mut bytes = 0;
    for (no, range) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", no + 1),
        };
        let mut sink = Sink::create(&folder.join(&name), &mut wrote)?;
        sink.put(&header(&tensors[range.clone()])?)?;
        for i in range.clone() {
            sink.tensor(&tensors[i], |sink| fill(i, sink))?;
            weight_map.insert(tensors[i].name.clone(), Json::from(name.as_str()));
        }
        bytes += sink.finish()?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    Ok(bytes)
}

/// The tensors of each file, in order.
fn shards(tensors: &[Planned], limit: u64) -> Result<Vec<Range<usize>>, ConvertError> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        let size = tensor.bytes()?;
        if i > start && bytes + size > limit {
            shards.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    shards.push(start..tensors.len());
    Ok(shards)
}

/// The header of one file, with its length.
fn header(tensors: &[Planned]) -> Result<Vec<u8>, ConvertError> {
    let mut entries = Map::new();
    let mlx = tensors.iter().any(|t| t.holds == Holds::Words);
    entries.insert("__metadata__".to_owned(), json!({ "format": if mlx { "mlx" } else { "pt" } }));
    let mut offset = 0;
    for tensor in tensors {
        let dtype = match tensor.holds {
            Holds::Words => "U32",
            Holds::Values(DType::F32) => "F32",
            Holds::Values(DType::F16) => "F16",
            Holds::Values(DType::BF16) => "BF16",
            Holds::Values(other) => return Err(ConvertError::FloatsOnly { found: other.to_string() }),
        };
        let end = offset + tensor.bytes()?;
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] });
        entries.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut text = Json::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    Ok(out)
}

/// Writes a JSON document, indented.
pub(crate) fn write_json(path: &Path, value: &Json) -> Result<(), ConvertError> {
    let mut text = serde_json::to_string_pretty(value).expect("keys are strings");
    text.push('\n');
    fs::write(path, text).map_err(ConvertError::write(path))
}
