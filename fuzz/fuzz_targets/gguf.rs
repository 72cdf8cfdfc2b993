//! Arbitrary bytes as a GGUF file: an error, or a model whose tensors can all be read.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod read_all;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).expect("a file");
    read_all::read_all(&path);
});
