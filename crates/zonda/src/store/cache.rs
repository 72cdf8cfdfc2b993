//! The Hub's own cache folder: models that `huggingface_hub` downloaded are used from there.

use super::manifest::gguf_models;
use hf_hub::Cache;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The Hub's own cache folder; `None` if this user has no home folder.
pub fn cache() -> Option<Cache> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = set("HF_HUB_CACHE")
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(dirs::home_dir()?.join(".cache/huggingface/hub")))?;
    Some(Cache::new(path))
}

/// The model in the Hub's own cache folder: the snapshot's folder, or its GGUF files.
pub fn cached(repo: &str, file: Option<&str>) -> Vec<PathBuf> {
    let Some(snapshot) = cache().and_then(|cache| snapshot(&cache, repo)) else { return Vec::new() };
    if let Some(file) = file {
        return Some(snapshot.join(file)).filter(|p| p.is_file()).into_iter().collect();
    }
    let names: Vec<String> = std::fs::read_dir(&snapshot)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok().filter(|e| e.path().is_file())?.file_name().into_string().ok())
        .collect();
    let has = |name: &str| names.iter().any(|n| n == name);
    if has("config.json") && has_all_weights(&snapshot, &names) {
        return vec![snapshot];
    }
    gguf_models(names.iter().map(String::as_str)).into_iter().map(|parts| snapshot.join(&parts[0])).collect()
}

/// The folder of the cached repository's `main`.
fn snapshot(cache: &Cache, repo: &str) -> Option<PathBuf> {
    let repo = hf_hub::Repo::model(repo.to_owned());
    let commit = std::fs::read_to_string(cache.path().join(repo.folder_name()).join("refs/main")).ok()?;
    let dir = cache.repo(repo).pointer_path(commit.trim());
    dir.is_dir().then_some(dir)
}

/// True if the snapshot has every SafeTensors file that its index names, or a single file, beside which an index may be stale.
fn has_all_weights(dir: &Path, names: &[String]) -> bool {
    if names.iter().any(|name| name == "model.safetensors") {
        return true;
    }
    let Ok(index) = std::fs::read_to_string(dir.join("model.safetensors.index.json")) else {
        return names.iter().any(|n| n.ends_with(".safetensors"));
    };
    let Ok(index) = serde_json::from_str::<serde_json::Value>(&index) else { return false };
    let Some(map) = index["weight_map"].as_object() else { return false };
    let names: HashSet<&str> = names.iter().map(String::as_str).collect();
    map.values().all(|file| file.as_str().is_some_and(|f| names.contains(f)))
}

/// Every repository in the Hub's own cache folder with a model that we could open, and the paths to open.
pub fn cached_models() -> Vec<(String, Vec<PathBuf>)> {
    let Some(cache) = cache() else { return Vec::new() };
    let dirs = std::fs::read_dir(cache.path()).into_iter().flatten().filter_map(Result::ok);
    let names =
        dirs.filter_map(|d| Some(d.file_name().to_str()?.strip_prefix("models--")?.replace("--", "/")));
    let mut models: Vec<_> =
        names.map(|name| (name.clone(), cached(&name, None))).filter(|(_, e)| !e.is_empty()).collect();
    models.sort();
    models
}
