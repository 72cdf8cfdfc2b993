//! Hub repositories: which files a model needs, and downloading them.

use super::cache::cache;
use super::checksum::{Expected, sha256_of};
use super::http::{Client, Failure, is_sha256};
use super::manifest::{Manifest, StoredFile, gguf_models};
use super::progress::Progress;
use super::relative::safe_relative;
use super::transfer;
use crate::error::{Detail, Error, Result};
use crate::units::human_bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Maximum size of a repository's listing, in bytes.
const MAX_LISTING: u64 = 64 << 20;

/// Maximum number of models that an error lists.
const MOST_OFFERS: usize = 50;

/// Characters that are not escaped in the path of a URL.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The files beside the weights of a Hugging Face model that Zonda reads.
const SIDE_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tekken.json",
];

#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Clone, Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    #[serde(default)]
    sha256: Option<String>,
}

/// Downloads a repository's model (or one GGUF file of it) into `dir`. Complete files that are already there are kept.
///
/// # Errors
/// If the repository does not exist, may not be read, has no model in a format that Zonda reads, or has several GGUF
/// files and none was named; if a transfer fails.
pub fn pull(repo: &str, file: Option<&str>, dir: &Path, progress: &dyn Progress) -> Result<Manifest> {
    let client = Client::from_env(token())?;
    let info = info(&client, repo, progress)?;
    let wanted = choose(repo, file, &info.siblings)?;
    let old = Manifest::read(dir)?.unwrap_or_default();
    let same_commit = old.commit.as_ref() == Some(&info.sha);
    // A GGUF file is a complete model; the files of a SafeTensors model must all be from the same commit.
    let kept = old.files.iter().filter(|f| same_commit || f.path.ends_with(".gguf"));
    let earlier = old.by_path();
    let mut stored = Vec::new();
    for sibling in wanted {
        let path = &sibling.rfilename;
        let relative = safe_relative(path)
            .ok_or_else(|| Error::download(format!("{repo}: refused the file name {path:?}")))?;
        let dest = dir.join(relative);
        let expected = Expected {
            bytes: sibling.size,
            sha256: sibling.lfs.as_ref().and_then(|l| l.sha256.clone()).filter(|s| is_sha256(s)),
        };
        let known = earlier.get(path.as_str());
        stored.push(match known.filter(|f| is_whole(f, &dest, &expected, same_commit, progress)) {
            Some(file) => (*file).clone(),
            None => {
                let url = format!(
                    "{}/{repo}/resolve/{}/{}",
                    client.endpoint(),
                    info.sha,
                    utf8_percent_encode(path, PATH)
                );
                let (bytes, sha256) = transfer::fetch(&client, &url, &dest, expected, &info.sha, progress)?;
                StoredFile { path: path.clone(), bytes, sha256 }
            }
        });
    }
    let mut manifest = Manifest {
        name: repo.to_owned(),
        source: "hub".to_owned(),
        commit: Some(info.sha.clone()),
        files: kept.cloned().collect(),
    };
    manifest.add(stored);
    Ok(manifest)
}

/// True if the stored file equals the published one. Without a published checksum, only a file from the same commit
/// counts.
fn is_whole(
    file: &StoredFile,
    path: &Path,
    expected: &Expected,
    same_commit: bool,
    progress: &dyn Progress,
) -> bool {
    let published = match (&expected.sha256, expected.bytes) {
        (Some(sha256), _) => *sha256 == file.sha256,
        (None, bytes) => same_commit && bytes.is_none_or(|b| b == file.bytes),
    };
    published && sha256_of(path, progress).is_ok_and(|sha256| sha256 == file.sha256)
}

/// The repository's commit and files.
fn info(client: &Client, repo: &str, progress: &dyn Progress) -> Result<Info> {
    let url = format!("{}/api/models/{repo}/revision/main?blobs=true", client.endpoint());
    let failed = |why: String| Error::download(format!("{url}: {why}"));
    let mut patience = transfer::Patience::default();
    let answer = loop {
        match client.get(&url, None) {
            Ok(answer) => break answer,
            Err(Failure::Passing { error, after }) => patience.wait(error, after, false, progress)?,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::BadRange) => {
                return Err(failed("the server rejected the range of a request that has none".to_owned()));
            }
        }
    };
    let mut body = answer.response.into_body();
    let text =
        body.with_config().limit(MAX_LISTING).read_to_string().map_err(|why| failed(why.to_string()))?;
    let info: Info = serde_json::from_str(&text).map_err(|why| failed(format!("not a listing: {why}")))?;
    let commit = &info.sha;
    if !(7..=64).contains(&commit.len()) || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(failed(format!("expected a commit, found {commit:?}")));
    }
    Ok(info)
}

fn advised(message: String, advice: impl Into<String>) -> Error {
    Error::Download(Detail::new(message).advise(advice))
}

/// The files to download.
fn choose<'a>(repo: &str, file: Option<&str>, all: &'a [Sibling]) -> Result<Vec<&'a Sibling>> {
    let names = || all.iter().map(|s| s.rfilename.as_str());
    let pick =
        |wanted: &dyn Fn(&str) -> bool| all.iter().filter(|s| wanted(&s.rfilename)).collect::<Vec<_>>();
    let models = gguf_models(names());
    let pick_parts = |parts: &[String]| {
        let parts: HashSet<&str> = parts.iter().map(String::as_str).collect();
        pick(&|name| parts.contains(name))
    };
    let offers = || {
        let sizes: HashMap<&str, u64> =
            all.iter().map(|s| (s.rfilename.as_str(), s.size.unwrap_or(0))).collect();
        let lines = models.iter().take(MOST_OFFERS).map(|parts| {
            let bytes: u64 = parts.iter().map(|p| sizes.get(p.as_str()).copied().unwrap_or(0)).sum();
            format!("\n  {repo}:{}  {}", parts[0], if bytes > 0 { human_bytes(bytes) } else { String::new() })
        });
        let more = models.len().saturating_sub(MOST_OFFERS);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        lines.collect::<String>() + &more
    };
    if let Some(file) = file {
        return match models.iter().find(|parts| parts.iter().any(|p| p == file)) {
            Some(parts) => Ok(pick_parts(parts)),
            None if models.is_empty() => Err(advised(
                format!("{repo} has no GGUF files, so no {file:?}"),
                format!("name the repository alone: {repo}"),
            )),
            None => Err(advised(format!("{repo} has no GGUF file {file:?}"), format!("it has:{}", offers()))),
        };
    }
    let weights = |name: &str| !name.contains('/') && name.ends_with(".safetensors");
    if names().any(|n| n == "config.json") && names().any(weights) {
        // Some repositories have the same weights twice, the second time under Mistral's own names.
        let published = names().any(|n| weights(n) && n.starts_with("model"));
        return Ok(pick(&|name| {
            SIDE_FILES.contains(&name)
                || name == "model.safetensors.index.json"
                || (weights(name) && (name.starts_with("model") || !published))
        }));
    }
    match models.as_slice() {
        [] => Err(advised(
            format!("{repo} has neither config.json with SafeTensors nor a GGUF file"),
            "Zonda reads these two formats; look for a repository that has the model in one of them",
        )),
        [parts] => Ok(pick_parts(parts)),
        _ => {
            Err(advised(format!("{repo} has {} GGUF models", models.len()), format!("name one:{}", offers())))
        }
    }
}

/// `HF_TOKEN`, or what `hf auth login` stored.
fn token() -> Option<String> {
    let set = std::env::var("HF_TOKEN").ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    set.or_else(|| cache()?.token())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Vec<Sibling> {
        names.iter().map(|n| Sibling { rfilename: (*n).to_owned(), size: Some(1), lfs: None }).collect()
    }

    fn chosen(file: Option<&str>, names: &[&str]) -> Result<Vec<String>, String> {
        let all = listing(names);
        choose("o/r", file, &all)
            .map(|v| v.into_iter().map(|s| s.rfilename.clone()).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_safetensors_model_is_its_root_files() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "x.Q4_0.gguf",
        ];
        assert_eq!(
            chosen(None, &all).unwrap(),
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json"
            ]
        );
        assert_eq!(chosen(Some("x.Q4_0.gguf"), &all).unwrap(), ["x.Q4_0.gguf"]);
        assert_eq!(
            chosen(None, &["config.json", "consolidated.safetensors"]).unwrap(),
            ["config.json", "consolidated.safetensors"]
        );
    }

    #[test]
    fn a_gguf_repository_must_be_unambiguous() {
        assert_eq!(chosen(None, &["README.md", "m.gguf"]).unwrap(), ["m.gguf"]);
        let split = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        assert_eq!(chosen(None, &split).unwrap(), split);
        assert_eq!(chosen(Some(split[1]), &split).unwrap(), split);
        assert!(chosen(None, &["a.gguf", "b.gguf"]).unwrap_err().contains("2 GGUF models"));
        assert!(chosen(Some("c.gguf"), &["a.gguf"]).unwrap_err().contains("no GGUF file \"c.gguf\""));
        assert!(chosen(None, &["README.md"]).unwrap_err().contains("neither"));
        assert!(chosen(Some("c.gguf"), &[]).unwrap_err().contains("no GGUF files"));
    }

    /// With a comparison of all pairs, such listings took most of a minute.
    #[test]
    fn a_listing_of_many_names_is_read_in_one_go() {
        let n = 99_999;
        let split: Vec<String> = (1..=n).map(|i| format!("m-{i:05}-of-{n}.gguf")).collect();
        let names: Vec<&str> = split.iter().map(String::as_str).collect();
        assert_eq!(chosen(None, &names).unwrap(), split);
        assert_eq!(chosen(Some(&split[n - 1]), &names).unwrap().len(), n);

        let single: Vec<String> = (0..n).map(|i| format!("{i:05}.gguf")).collect();
        let names: Vec<&str> = single.iter().map(String::as_str).collect();
        let error = choose("o/r", None, &listing(&names)).unwrap_err();
        let error = format!("{error}: {}", error.advice().unwrap());
        assert!(error.contains("99999 GGUF models") && error.contains("00049.gguf"), "{error}");
        assert!(error.contains("and 99949 more") && error.lines().count() < 60, "{error}");

        let stored = |path: &String| StoredFile { path: path.clone(), bytes: 2, sha256: String::new() };
        let mut manifest = Manifest::default();
        manifest.add(split.iter().chain(&single).map(stored));
        manifest.add(split.iter().map(stored));
        assert_eq!(manifest.files.len(), 2 * n);
        let sizes = crate::store::folder::split_bytes(&manifest);
        assert_eq!((sizes.len(), sizes[&split[0]], sizes[&single[0]]), (n + 1, 2 * n as u64, 2));
    }
}
