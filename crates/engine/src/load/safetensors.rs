//! SafeTensors weights in a folder: one `model.safetensors`, or shards listed by `model.safetensors.index.json`.
//!
//! The `safetensors` crate reads and checks the headers over our memory map.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use safetensors::SafeTensors;

use super::LoadError;
use super::dtypes::StoredType;
use super::source::{self, Part, Store, Stored, read_small};

/// Maximum size of an index; that of a model with 100,000 tensors has about 10 MB.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Maximum size of a file's header. The crate allows 100 MB, but needs many times that to read it.
const MAX_HEADER_BYTES: u64 = 32 << 20;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the single file and the index of a folder whose weight files begin with `stem`: `model`, as a rule.
fn names(stem: &str) -> [String; 2] {
    [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")]
}

/// Whether a folder has weight files whose names begin with `stem`.
pub(super) fn has_any(folder: &Path, stem: &str) -> bool {
    names(stem).iter().any(|name| folder.join(name).is_file())
}

/// Whether a folder has both the single file and an index, which may be left over from an earlier version.
pub(super) fn has_both(folder: &Path, stem: &str) -> bool {
    names(stem).iter().all(|name| folder.join(name).is_file())
}

/// Maps the single file of a folder, whatever an index says.
pub(super) fn open_single(folder: &Path, stem: &str) -> Result<Store, LoadError> {
    let [single, _] = names(stem);
    let (part, tensors) = read(&folder.join(single))?;
    let mut store = Store::default();
    store.add(part, tensors)?;
    Ok(store)
}

/// Maps all weight files of a folder: those of the index, if there is one.
pub(super) fn open(folder: &Path, stem: &str) -> Result<Store, LoadError> {
    let [one, index] = names(stem);
    let index_path = folder.join(&index);
    if !index_path.exists() {
        let single = folder.join(&one);
        if !single.exists() {
            let found = format!("it has config.json and neither {one} nor {index}");
            return Err(LoadError::NotAModel { path: folder.to_owned(), found });
        }
        return open_single(folder, stem);
    }

    let mut store = Store::default();
    let bytes = read_small(&index_path, "an index", MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::Json { path: index_path.clone(), error })?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    for (shard, promised) in shards {
        let path = shard_path(folder, shard)
            .ok_or_else(|| LoadError::ShardPath { path: index_path.clone(), name: shard.to_owned() })?;
        let (part, tensors) = read(&path)?;
        store.add(part, tensors)?;
        let at = store.parts().len() - 1;
        if let Some(tensor) = promised.into_iter().find(|&t| store.get(t).is_none_or(|s| s.part != at)) {
            return Err(LoadError::NotInShard { path, tensor: tensor.to_owned() });
        }
    }
    Ok(store)
}

/// A shard's path, if its name is a plain file name: nothing outside the folder is ever opened.
fn shard_path(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Some(folder.join(name)),
        _ => None,
    }
}

fn read(path: &Path) -> Result<(Part, Vec<Stored>), LoadError> {
    let part = source::map(path)?;
    let tensors = parse(path, &part.map)?;
    Ok((part, tensors))
}

/// The tensors described by a whole file, in the order of their data.
fn parse(path: &Path, file: &[u8]) -> Result<Vec<Stored>, LoadError> {
    if let Some(found) = file.first_chunk().map(|b| u64::from_le_bytes(*b))
        && found > MAX_HEADER_BYTES
    {
        let (what, limit) = ("a header", MAX_HEADER_BYTES);
        return Err(LoadError::TooLarge { path: path.to_owned(), what, found, limit });
    }
    let wrong = |error| LoadError::SafeTensors { path: path.to_owned(), error };
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(wrong)?;
    let data = 8 + header; // the header's length is the first 8 bytes
    let names = metadata.offset_keys();
    let tensors = names.into_iter().filter_map(|name| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        let (kind, shape) = (StoredType::from_safetensors(info.dtype), info.shape.clone());
        Some(Stored { name, kind, shape, part: 0, range: Some(data + start..data + end) })
    });
    Ok(tensors.collect())
}
