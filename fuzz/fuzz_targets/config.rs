//! Arbitrary bytes as the `config.json` of a folder without weights.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod read_all;

/// An empty SafeTensors file: a header of two bytes, `{}`.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), bytes).expect("a file");
    std::fs::write(folder.path().join("model.safetensors"), EMPTY).expect("a file");
    read_all::read_all(folder.path());
});
