//! Tests of the store: a created model is found again, and one of several files is removed alone.

use super::{Manifest, ModelName, Store, StoredFile};
use std::path::Path;

fn store(home: &Path) -> Store {
    Store::at(home).offline(true)
}

#[test]
fn what_is_made_once_is_found_again_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let failed = store.made("thing", |_| Err("no"));
    assert!(failed.is_err());
    assert!(store.list().unwrap().iter().all(|e| e.name != "thing"));

    let make = |dir: &Path| -> std::io::Result<String> {
        std::fs::create_dir(dir)?;
        std::fs::write(dir.join("config.json"), "{}")?;
        std::fs::write(dir.join("model.safetensors"), "xyz")?;
        Ok("converted from nothing".to_owned())
    };
    let dir = store.made("thing", make).unwrap();
    let again = store.made("thing", |_| Err("made twice")).unwrap();
    assert_eq!(dir, again);
    assert_eq!(store.locate("thing").unwrap().path, Some(dir.clone()));
    let entries = store.list().unwrap();
    let entry = entries.iter().find(|e| e.name == "thing").unwrap();
    assert_eq!((entry.bytes, entry.source.as_str()), (5, "converted from nothing"));

    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let error = store.locate("thing").unwrap_err().to_string();
    assert!(error.contains("ZONDA_OFFLINE"), "an incomplete model is not one: {error}");

    store.remove(&ModelName::Plain("thing".into())).unwrap();
    assert!(!dir.exists());
    assert!(store.remove(&ModelName::Plain("thing".into())).is_err());
}

#[test]
fn one_of_several_files_goes_alone() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let name = |file: Option<&str>| ModelName::Hub { repo: "o/r".into(), file: file.map(str::to_owned) };
    let dir = store.dir_of(&name(None)).unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    let mut manifest = Manifest { name: "o/r".into(), source: "hub".into(), ..Manifest::default() };
    for file in ["a.gguf", "b.gguf"] {
        std::fs::write(dir.join(file), "12").unwrap();
        manifest.add([StoredFile { path: file.into(), bytes: 2, sha256: String::new() }]);
    }
    manifest.write(&dir).unwrap();

    let both = store.locate("o/r").unwrap_err().to_string();
    assert!(both.contains("a.gguf, b.gguf"), "{both}");
    assert_eq!(store.locate("o/r:b.gguf").unwrap().path, Some(dir.join("b.gguf")));
    assert_eq!(store.remove(&name(Some("a.gguf"))).unwrap(), 2);
    assert!(!dir.join("a.gguf").exists());
    assert_eq!(store.locate("o/r").unwrap().path, Some(dir.join("b.gguf")));
}
