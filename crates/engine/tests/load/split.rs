//! Split GGUF files: opening any part opens them all, and parts of different models are refused.

use std::path::{Path, PathBuf};

use zonda_engine::load::{LoadError, Model};

use crate::build::{Gguf, tiny};

const NAME: &str = "tiny-0000N-of-00003.gguf";

fn part(folder: &Path, no: usize) -> PathBuf {
    folder.join(NAME.replace('N', &no.to_string()))
}

/// A tiny Llama in three parts. As in llama.cpp's files, only the first part has the model's metadata.
fn parts() -> [Gguf; 3] {
    let whole = tiny("llama");
    let total = whole.tensors.len();
    let third = total.div_ceil(3);
    [0, 1, 2].map(|no| {
        let mut g = if no == 0 { whole.clone() } else { Gguf::new() };
        g.tensors = whole.tensors[no * third..total.min((no + 1) * third)].to_vec();
        g.set("split.no", 2, (no as u16).to_le_bytes().to_vec())
            .set("split.count", 2, 3u16.to_le_bytes().to_vec())
            .set("split.tensors.count", 5, (total as i32).to_le_bytes().to_vec())
    })
}

fn write(folder: &Path, parts: &[Gguf]) {
    for (no, g) in parts.iter().enumerate() {
        std::fs::write(part(folder, no + 1), g.bytes()).expect("a part");
    }
}

fn error(parts: &[Gguf], open: usize) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), parts);
    Model::open(&part(folder.path(), open)).expect_err("refused").to_string()
}

#[test]
fn any_part_opens_the_whole_model() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &parts());
    let whole = Model::open(&tiny("llama").write(folder.path(), "whole.gguf")).expect("whole");
    for no in 1..=3 {
        let model = Model::open(&part(folder.path(), no)).expect("opens");
        assert_eq!(model.spec, whole.spec);
        assert_eq!(model.tensors(), whole.tensors());
        assert_eq!(model.files().count(), 3);
        model.check().expect("all tensors");
        for role in model.spec.roles() {
            assert_eq!(
                model.tensor(role).expect("there").bytes(),
                whole.tensor(role).expect("there").bytes()
            );
        }
    }
}

#[test]
fn a_missing_part_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &parts());
    std::fs::remove_file(part(folder.path(), 2)).expect("removed");
    for open in [1, 3] {
        let error = Model::open(&part(folder.path(), open)).expect_err("a hole");
        assert!(
            matches!(&error, LoadError::Split { path, .. } if *path == part(folder.path(), 2)),
            "{error}"
        );
        assert!(
            error.to_string().contains("expected all 3 parts in one folder, found no such file"),
            "{error}"
        );
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let [a, b, c] = parts();
    let text = error(&[a.clone(), c.clone(), b.clone()], 1);
    assert!(text.contains("00002-of-00003.gguf: split file: expected split.no 1, found 2"), "{text}");
    let foreign = b.clone().set("split.count", 2, 2u16.to_le_bytes().to_vec());
    let text = error(&[a.clone(), foreign, c.clone()], 1);
    assert!(text.contains("expected split.count 3, found 2"), "{text}");
    let text = error(&[a.clone(), Gguf::new(), c.clone()], 1);
    assert!(text.contains("expected split.no 1, found none"), "{text}");

    let mut fewer = c.clone();
    fewer.tensors.pop();
    let text = error(&[a.clone(), b.clone(), fewer], 1);
    assert!(text.contains("expected 20 tensors in all parts (split.tensors.count), found 19"), "{text}");
    let mut twice = c.clone();
    twice.tensors[0] = b.tensors[0].clone();
    let text = error(&[a.clone(), b.clone(), twice], 1);
    assert!(text.contains(&format!("tensor {} occurs twice", b.tensors[0].name)), "{text}");
    let lie = a.set("split.count", 8, crate::build::string("three"));
    assert!(error(&[lie, b, c], 1).contains("split.count is string \"three\"; expected a number of parts"));
}

#[test]
fn a_renamed_part_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["renamed.gguf", "x-00001-of-00002.gguf", "x-1-of-00003.gguf", "x-0000a-of-00003.gguf"] {
        let error = Model::open(&parts()[0].write(folder.path(), name)).expect_err("no pattern").to_string();
        assert!(error.contains("expected a file name that ends in -00001-of-00003.gguf"), "{error}");
    }
    let many = parts()[0].clone().set("split.count", 10, u64::MAX.to_le_bytes().to_vec());
    let error = Model::open(&many.write(folder.path(), "x-00001-of-00003.gguf")).expect_err("too many");
    assert!(matches!(error, LoadError::Split { .. }), "{error}");
}
