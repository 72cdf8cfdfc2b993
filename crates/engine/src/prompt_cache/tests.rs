//! Entries that are whole, damaged, cut, foreign; folders that stay within their size.

use super::*;
use crate::forward::{Batch, Logits, Span, Want};
use crate::mock::{Mock, MockOptions};

fn tokens(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| 260 + i % 200).collect()
}

fn config(location: CacheLocation) -> PromptCacheConfig {
    PromptCacheConfig { location, model: "0123".into() }
}

/// A mock whose slot 0 holds these tokens.
fn holding(tokens: &[TokenId]) -> Mock {
    let mut mock = Mock::new(MockOptions::default());
    let spans = vec![Span { slot: 0, start: 0, tokens, want: Want::None }];
    mock.forward(&Batch { spans }, &mut Logits::new()).unwrap();
    mock
}

fn store(location: &CacheLocation, tokens: &[TokenId]) {
    let mut mock = holding(tokens);
    let mut cache = PromptCache::open(&config(location.clone()), &mut mock).unwrap();
    assert!(cache.wants(tokens));
    let mut payload = Vec::new();
    let len = mock.export_kv(0, tokens.len(), &mut payload).unwrap();
    cache.store(&tokens[..len], payload);
}

fn logits_after(mock: &mut Mock, slot: usize, start: usize) -> Vec<f32> {
    let mut logits = Logits::new();
    mock.forward(&Batch { spans: vec![Span { slot, start, tokens: &[300], want: Want::Last }] }, &mut logits)
        .unwrap();
    logits.row(0).to_vec()
}

#[test]
fn what_was_stored_goes_on_as_if_it_had_been_computed() {
    let folder = tempfile::tempdir().unwrap();
    let location = CacheLocation::File(folder.path().join("p.kv"));
    let (all, mut computed) = (tokens(200), holding(&tokens(200)));
    store(&location, &all);
    let mut mock = Mock::new(MockOptions::default());
    let mut cache = PromptCache::open(&config(location), &mut mock).unwrap();
    assert_eq!((cache.find(&all), cache.find(&all[..100]), cache.find(&[1, 2, 3])), (200, 100, 0));
    assert_eq!(cache.load(&mut mock, 3, &all).unwrap(), 200);
    assert_eq!(logits_after(&mut mock, 3, 200), logits_after(&mut computed, 0, 200));
    // a part of it too
    assert_eq!(cache.load(&mut mock, 4, &all[..100]).unwrap(), 100);
    assert_eq!(logits_after(&mut mock, 4, 100), logits_after(&mut holding(&all[..100]), 0, 100));
    assert!(!cache.wants(&all) && !cache.wants(&tokens(20)));
}

/// Bytes flipped and lengths cut all over the file: nothing is imported, nothing panics.
#[test]
fn damaged_and_foreign_files_are_refused_and_leave_the_slot_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.kv");
    let location = CacheLocation::File(path.clone());
    let all = tokens(70);
    store(&location, &all);
    let good = std::fs::read(&path).unwrap();
    let used = |config: &PromptCacheConfig| {
        let mut mock = Mock::new(MockOptions::default());
        let mut cache = PromptCache::open(config, &mut mock).unwrap();
        let found = cache.find(&all);
        let kept = cache.load(&mut mock, 0, &all[..found]).unwrap();
        assert_eq!(mock.held(0), kept);
        kept
    };
    assert_eq!(used(&config(location.clone())), 70);
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        assert_eq!(used(&config(location.clone())), 0, "byte {at}");
    }
    for cut in (0..good.len()).step_by(7) {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(used(&config(location.clone())), 0, "cut at {cut}");
    }
    std::fs::write(&path, [&good[..], b"more"].concat()).unwrap();
    assert_eq!(used(&config(location.clone())), 0);
    std::fs::write(&path, &good).unwrap();
    let other = PromptCacheConfig { model: "4567".into(), ..config(location.clone()) };
    assert_eq!(used(&other), 0);
    let error = CacheEntry::open(&path, "native").unwrap_err();
    assert!(error.to_string().contains("another model, backend or KV type"), "{error}");
    // what could not be used is replaced
    std::fs::write(&path, &good[..50]).unwrap();
    store(&location, &all);
    assert_eq!(used(&config(location)), 70);
}

#[test]
fn a_folder_keeps_what_was_used_last_within_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/here");
    // three entries of 200 tokens fit
    let location = CacheLocation::Folder { path: path.clone(), most: 3 * (200 * 12 + 100) };
    let prompt = |n: u32| -> Vec<TokenId> { (0..200).map(|i| 260 + (i * n) % 190).collect() };
    for n in 1..=5 {
        store(&location, &prompt(n));
    }
    assert_eq!(entries(&path).len(), 3);
    let held: u64 = entries(&path).iter().map(|p| p.metadata().unwrap().len()).sum();
    assert!(held <= 3 * (200 * 12 + 100));
    let mut mock = Mock::new(MockOptions::default());
    let mut cache = PromptCache::open(&config(location.clone()), &mut mock).unwrap();
    assert_eq!((cache.find(&prompt(5)), cache.find(&prompt(1))), (200, 0), "the oldest went");
    drop(cache);
    // one that goes on takes the location of its beginning
    let longer = [prompt(5), prompt(2)[..90].to_vec()].concat();
    store(&location, &longer);
    let mut cache = PromptCache::open(&config(location), &mut mock).unwrap();
    assert_eq!(
        (cache.find(&longer), cache.known.iter().filter(|k| k.tokens.len() == 200).count()),
        (290, 1),
        "room was made for it"
    );
}

#[test]
fn a_file_of_something_else_is_left_alone_and_an_empty_one_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let location = CacheLocation::File(path.clone());
    let all = tokens(70);
    for notes in ["notes", "notes that are longer than the head of an entry"] {
        std::fs::write(&path, notes).unwrap();
        let mut mock = holding(&all);
        let mut cache = PromptCache::open(&config(location.clone()), &mut mock).unwrap();
        assert_eq!(cache.find(&all), 0);
        assert!(!cache.wants(&all), "it would be written over");
        drop(cache);
        assert_eq!(std::fs::read(&path).unwrap(), notes.as_bytes());
    }
    std::fs::write(&path, "").unwrap();
    store(&location, &all);
    let mut mock = Mock::new(MockOptions::default());
    assert_eq!(PromptCache::open(&config(location), &mut mock).unwrap().find(&all), 70);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_left_alone_and_a_folder_is_its_owners() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let all = tokens(70);
    for path in [fifo.as_path(), Path::new("/dev/null")] {
        let location = CacheLocation::File(path.to_owned());
        let mut mock = holding(&all);
        let mut cache = PromptCache::open(&config(location), &mut mock).unwrap();
        assert_eq!(cache.find(&all), 0);
        assert!(!cache.wants(&all));
        cache.store(&all, vec![0; 8]);
        drop(cache);
        let kind = std::fs::metadata(path).unwrap().file_type();
        assert!(kind.is_fifo() || kind.is_char_device(), "{path:?}");
    }
    let folder = dir.path().join("made/prompts");
    store(&CacheLocation::Folder { path: folder.clone(), most: 1 << 20 }, &all);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    std::fs::write(dir.path().join("plain"), "").unwrap();
    assert_eq!(mode(&entries(&folder)[0]), mode(&dir.path().join("plain")));
}
