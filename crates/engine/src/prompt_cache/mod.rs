//! The keys and values of prompts on disk, for later processes: in one file, or in a folder of bounded size.
//!
//! The worker looks up the longest stored prefix of a new prompt (`PromptCache::find`), has the backend import it when the
//! sequence gets its slot (`PromptCache::load`), and stores the computed prompt when the sequence ends (`PromptCache::store`).
//! Another thread writes; dropping the cache waits for it. Unusable entries are logged once and skipped.

mod file;

pub use file::CacheError;

use crate::TokenId;
use crate::forward::{Backend, BackendError};
use crate::schedule::common_prefix;
use file::CacheEntry;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Shorter prefixes are faster to compute than to load.
const FEWEST: usize = 64;
/// File name extension of entries.
const ENDING: &str = "kv";
/// A temporary file of this age belongs to a process that has ended.
const STALE: Duration = Duration::from_secs(3600);

/// Where entries are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheLocation {
    /// In one file, which holds the last prompt.
    File(PathBuf),
    /// In a folder; the least recently used entries are deleted when it grows too large.
    Folder {
        /// The folder; created if missing.
        path: PathBuf,
        /// The maximum size of all entries together, in bytes.
        most: u64,
    },
}

/// Where to store prompts, and of which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptCacheConfig {
    /// The file or folder.
    pub location: CacheLocation,
    /// Identifies the model's weights ([`crate::load::Model::fingerprint`]).
    pub model: String,
}

/// Stored prompts, as far as this process knows them.
#[derive(Debug)]
pub(crate) struct PromptCache {
    location: CacheLocation,
    identity: String,
    known: Vec<StoredPrompt>,
    /// The file is not a prompt cache and must not be overwritten.
    taken: bool,
    /// Jobs for the writing thread; `None` while the cache is being dropped.
    jobs: Option<Sender<Job>>,
    done: Receiver<Written>,
    writer: Option<JoinHandle<()>>,
}

/// A usable entry.
#[derive(Debug)]
struct StoredPrompt {
    path: PathBuf,
    tokens: Vec<TokenId>,
}

/// An entry to write, and files that it replaces.
struct Job {
    path: PathBuf,
    identity: String,
    tokens: Vec<TokenId>,
    payload: Vec<u8>,
    remove: Vec<PathBuf>,
    /// The folder, and its maximum size in bytes.
    folder: Option<(PathBuf, u64)>,
}

/// A report of the writing thread: an entry was written, others were deleted.
struct Written {
    path: PathBuf,
    gone: Vec<PathBuf>,
}

impl PromptCache {
    /// Reads the existing entries. Unusable entries are logged and skipped.
    ///
    /// # Errors
    /// If the backend can't export its KV cache, or the folder can't be made.
    pub fn open(config: &PromptCacheConfig, backend: &mut dyn Backend) -> Result<PromptCache, BackendError> {
        backend.export_kv(0, 0, &mut Vec::new())?;
        let info = backend.info();
        let identity = format!("{} · KV {} · {} · {}", info.name, info.kv_type, info.weights, config.model);
        let paths = match &config.location {
            CacheLocation::File(path) => vec![path.clone()],
            CacheLocation::Folder { path, .. } => {
                let failed = |e| BackendError::Failed(format!("the prompt cache {}: {e}", path.display()));
                make_folder(path).map_err(failed)?;
                tidy(path);
                entries(path)
            }
        };
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (told, done) = mpsc::channel();
        let writer = std::thread::Builder::new().name("zonda-prompt-cache".into());
        let writer = writer.spawn(move || inbox.iter().for_each(|job| job.run(&told)));
        let writer =
            writer.map_err(|e| BackendError::Failed(format!("a thread for the prompt cache: {e}")))?;
        let mut cache = PromptCache {
            location: config.location.clone(),
            identity,
            known: Vec::new(),
            taken: false,
            jobs: Some(jobs),
            done,
            writer: Some(writer),
        };
        let foreign = matches!(config.location, CacheLocation::Folder { .. });
        for path in paths {
            match CacheEntry::open(&path, &cache.identity) {
                Ok(Some(entry)) => cache.known.push(StoredPrompt::of(&path, entry)),
                Ok(None) => {}
                // a folder serves several models
                Err(CacheError::Foreign { .. }) if foreign => {}
                Err(error) if !foreign && error.is_taken() => {
                    cache.taken = true;
                    tracing::warn!("the file is not used and no prompt is stored: {error}");
                }
                Err(error) => tracing::warn!("the stored prompt is not used: {error}"),
            }
        }
        Ok(cache)
    }

    /// The length of the longest stored prefix of `tokens`; 0 if it is too short to be worth loading.
    pub fn find(&mut self, tokens: &[TokenId]) -> usize {
        // entries written in the meantime can be used
        for Written { path, gone } in self.done.try_iter().collect::<Vec<_>>() {
            self.known.retain(|known| known.path != path && !gone.contains(&known.path));
            if let Ok(Some(entry)) = CacheEntry::open(&path, &self.identity) {
                self.known.push(StoredPrompt::of(&path, entry));
            }
        }
        let longest = self.known.iter().map(|known| common_prefix(&known.tokens, tokens)).max().unwrap_or(0);
        if longest < FEWEST { 0 } else { longest }
    }

    /// Imports the stored keys and values of `tokens` into an empty slot; returns how many tokens it holds then.
    ///
    /// # Errors
    /// The backend's, if it can't empty the slot after a failed import.
    pub fn load(
        &mut self,
        backend: &mut dyn Backend,
        slot: usize,
        tokens: &[TokenId],
    ) -> Result<usize, BackendError> {
        let best = (0..self.known.len()).max_by_key(|&i| common_prefix(&self.known[i].tokens, tokens));
        let Some(best) = best else { return Ok(0) };
        let len = common_prefix(&self.known[best].tokens, tokens);
        let path = self.known[best].path.clone();
        let began = Instant::now();
        let mut checked = Duration::ZERO;
        let imported = match CacheEntry::open(&path, &self.identity) {
            Ok(Some(entry)) => match entry.verify() {
                Ok(payload) => {
                    checked = began.elapsed();
                    backend.import_kv(slot, len, payload).map_err(|e| format!("{}: {e}", path.display()))
                }
                Err(error) => Err(error.to_string()),
            },
            Ok(None) => Err(format!("{}: the file is gone", path.display())),
            Err(error) => Err(error.to_string()),
        };
        match imported {
            Ok(kept) => {
                let took = began.elapsed();
                tracing::debug!(tokens = kept, ?checked, ?took, "imported a prompt from {}", path.display());
                touch(&path);
                Ok(kept)
            }
            Err(why) => {
                tracing::warn!("the stored prompt is not used: {why}");
                self.known.remove(best);
                backend.truncate(slot, 0)
            }
        }
    }

    /// Whether these tokens are worth storing: long enough, and mostly not stored yet.
    pub fn wants(&self, tokens: &[TokenId]) -> bool {
        if self.taken {
            return false;
        }
        let covered = |known: &StoredPrompt| common_prefix(&known.tokens, tokens);
        let most = self.known.iter().map(covered).max().unwrap_or(0);
        tokens.len() >= FEWEST && tokens.len() - most >= FEWEST.min(tokens.len() / 2)
    }

    /// Stores tokens with their exported keys and values. Returns at once; write errors are logged.
    pub fn store(&mut self, tokens: &[TokenId], payload: Vec<u8>) {
        let bytes = file::bytes(&self.identity, tokens.len(), payload.len());
        let mut remove = Vec::new();
        let (path, folder) = match &self.location {
            CacheLocation::File(path) => (path.clone(), None),
            CacheLocation::Folder { path, most } => {
                if bytes > *most {
                    return;
                }
                // its prefixes are contained in it
                let inside =
                    |known: &StoredPrompt| common_prefix(&known.tokens, tokens) == known.tokens.len();
                remove.extend(self.known.iter().filter(|k| inside(k)).map(|k| k.path.clone()));
                self.known.retain(|known| !inside(known));
                let file = path.join(format!("{}.{ENDING}", name(&self.identity, tokens)));
                (file, Some((path.clone(), *most)))
            }
        };
        remove.retain(|old| *old != path);
        let (identity, tokens) = (self.identity.clone(), tokens.to_vec());
        if let Some(jobs) = &self.jobs {
            jobs.send(Job { path, identity, tokens, payload, remove, folder }).ok();
        }
    }
}

impl Drop for PromptCache {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            writer.join().ok();
        }
    }
}

impl StoredPrompt {
    fn of(path: &Path, entry: CacheEntry) -> StoredPrompt {
        StoredPrompt { path: path.to_owned(), tokens: entry.tokens }
    }
}

impl Job {
    /// The folder's size is checked here, when all earlier entries have been written.
    fn run(self, told: &Sender<Written>) {
        match file::write(&self.path, &self.identity, &self.tokens, &self.payload) {
            Ok(()) => {
                touch(&self.path);
                let mut gone = self.remove;
                if let Some((folder, most)) = &self.folder {
                    gone.extend(too_many(folder, *most, &gone));
                }
                gone.iter().for_each(|old| drop(std::fs::remove_file(old)));
                told.send(Written { path: self.path, gone }).ok();
            }
            Err(error) => tracing::warn!("the prompt was not stored: {}: {error}", self.path.display()),
        }
    }
}

/// Marks an entry as used now, for deletion in order of last use. The time set by writing can be some milliseconds earlier.
fn touch(path: &Path) {
    let file = std::fs::File::options().append(true).open(path);
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

/// A file name for an entry: 64 bits of its identity and tokens (FNV-1a).
fn name(identity: &str, tokens: &[TokenId]) -> String {
    let bytes = identity.bytes().chain(tokens.iter().flat_map(|t| t.to_le_bytes()));
    format!("{:016x}", crate::hash::fnv1a(bytes))
}

/// The entries of a folder, of all models.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    files.filter(|path| path.extension() == Some(OsStr::new(ENDING))).collect()
}

/// Makes the folder if it is missing, for its owner only: entries contain prompts.
fn make_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    #[allow(unused_mut)] // changed where folders have modes
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    }
}

/// Deletes temporary files of processes that ended while writing.
fn tidy(folder: &Path) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = file.file_name().to_string_lossy().starts_with(file::TEMPORARY);
        let age = file.metadata().and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE) {
            std::fs::remove_file(file.path()).ok();
        }
    }
}

/// The least recently used entries, to be deleted so that the rest takes at most `most` bytes. `gone` are deleted in any case.
fn too_many(folder: &Path, most: u64, gone: &[PathBuf]) -> Vec<PathBuf> {
    let about = |path: PathBuf| {
        let about = std::fs::metadata(&path).ok()?;
        Some((about.modified().ok()?, about.len(), path))
    };
    let mut all: Vec<_> =
        entries(folder).into_iter().filter(|p| !gone.contains(p)).filter_map(about).collect();
    all.sort();
    let mut held: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    let mut remove = Vec::new();
    for (_, bytes, path) in all {
        if held <= most {
            break;
        }
        held -= bytes;
        remove.push(path);
    }
    remove
}

#[cfg(test)]
mod tests;
