//! The GGUF and SafeTensors writers against the readers, and the files that are left after errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use zonda_convert::ConvertError;
use zonda_convert::gguf_writer::write_gguf;
use zonda_convert::output::{Planned, Sink};
use zonda_convert::safetensors_writer::write_safetensors;
use zonda_engine::load::{GgufFile, Metadata, Value};
use zonda_kernels::DType;

fn planned(name: &str, dtype: DType, shape: &[usize]) -> Planned {
    Planned { name: name.to_owned(), holds: dtype.into(), shape: shape.to_vec() }
}

fn three_tensors() -> Vec<Planned> {
    // The first takes 6 bytes, so that the second needs padding.
    vec![
        planned("a", DType::F16, &[3]),
        planned("b", DType::Q4_0, &[2, 64]),
        planned("c", DType::F32, &[2, 1, 3]),
    ]
}

/// Tensor `i` is filled with the byte `i + 1`.
fn fill(tensors: &[Planned]) -> impl FnMut(usize, &mut Sink<'_>) -> Result<(), ConvertError> + '_ {
    |i, sink| sink.write(&vec![i as u8 + 1; tensors[i].bytes()? as usize])
}

fn every_type() -> Metadata {
    let strings = vec!["".to_owned(), "zwei".to_owned(), "три".to_owned()];
    let pairs = [
        ("u8", Value::U8(250)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(65_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(1.5e-7)),
        ("f64", Value::F64(-1e300)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("wind ≈ 風".to_owned())),
        ("strings", Value::Strings(strings)),
        ("floats", Value::Floats(vec![0.5, -0.0])),
        ("ints", Value::Ints(vec![-1, 7])),
        ("bools", Value::Array(vec![Value::Bool(false), Value::Bool(true)])),
        ("nested", Value::Array(vec![Value::Ints(vec![1]), Value::Ints(vec![])])),
    ];
    Metadata(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>())
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn gguf_metadata_and_tensors_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/folder/x.gguf");
    let tensors = three_tensors();
    let mut seen = Vec::new();
    let mut progress = |done, total| seen.push((done, total));
    let bytes = write_gguf(&path, &every_type(), &tensors, &mut fill(&tensors), &mut progress).unwrap();
    assert_eq!(seen, [(0, 102), (6, 102), (78, 102), (102, 102)]);

    let file = fs::read(&path).unwrap();
    assert_eq!(file.len() as u64, bytes);
    assert_eq!(GgufFile::open(&path).unwrap().metadata, every_type());
    let header = zonda_engine::load::gguf::parse(&file).unwrap();
    for (i, (tensor, plan)) in header.tensors.iter().zip(&tensors).enumerate() {
        assert_eq!((&tensor.name, &tensor.shape), (&plan.name, &plan.shape));
        let data = &file[tensor.range.clone().unwrap()];
        assert!(data.iter().all(|&b| b == i as u8 + 1), "{}", plan.name);
    }
    assert_eq!(entries(path.parent().unwrap()), ["x.gguf"]);
}

#[test]
fn a_failing_source_leaves_only_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, "old").unwrap();
    let tensors = three_tensors();
    let mut fill = |i: usize, sink: &mut Sink<'_>| match i {
        0 => sink.write(&[0; 6]),
        _ => Err(ConvertError::Invalid { what: "it", found: "broken".into(), expected: "whole".into() }),
    };
    let error = write_gguf(&path, &every_type(), &tensors, &mut fill, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "it is broken; expected whole");
    assert_eq!(entries(dir.path()), ["x.gguf"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_source_of_the_wrong_length_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = three_tensors();
    let mut fill = |_: usize, sink: &mut Sink<'_>| sink.write(&[0; 5]);
    let path = dir.path().join("x.gguf");
    let error = write_gguf(&path, &Metadata::default(), &tensors, &mut fill, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "tensor a takes 6 bytes, but 5 were written");
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn content_that_gguf_cant_hold_is_refused_before_a_file_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let write = |metadata: &Metadata, tensor: Planned| {
        write_gguf(&path, metadata, &[tensor], &mut |_, _| Ok(()), &mut |_, _| {}).unwrap_err().to_string()
    };
    let none = Metadata::default();
    assert!(write(&none, planned(&"n".repeat(64), DType::F32, &[1])).contains("at most 63 bytes"));
    assert!(write(&none, planned("n", DType::F32, &[1; 5])).contains("1 to 4 dimensions"));
    assert_eq!(
        write(&none, planned("n", DType::Q4_K, &[4, 255])),
        "tensor n has rows of 255 values; q4_k needs a multiple of 256"
    );
    let mixed = Value::Array(vec![Value::U8(1), Value::Bool(true)]);
    let mixed = Metadata([("k".to_owned(), mixed)].into());
    assert!(write(&mixed, planned("n", DType::F32, &[1])).contains("elements of one type"));
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_path_that_cant_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for path in [dir.path().join("file/x.gguf"), dir.path().to_owned()] {
        let error =
            write_gguf(&path, &Metadata::default(), &[], &mut |_, _| Ok(()), &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }
}

#[test]
fn the_safetensors_crate_reads_single_files_and_shards() {
    let tensors = vec![
        planned("a", DType::BF16, &[4, 2]),
        planned("b", DType::BF16, &[3]),
        planned("c", DType::BF16, &[5]),
    ];
    for (limit, files) in [
        (u64::MAX, vec!["model.safetensors"]),
        (
            22,
            vec![
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(dir.path(), &tensors, limit, &mut fill(&tensors), &mut |_, _| {}).unwrap();
        assert_eq!(entries(dir.path()), files);
        let mut found = Vec::new();
        for name in files.iter().filter(|name| name.ends_with(".safetensors")) {
            let bytes = fs::read(dir.path().join(name)).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (tensor, view) in file.tensors() {
                let i = tensors.iter().position(|t| t.name == tensor).unwrap();
                assert_eq!(view.shape(), tensors[i].shape);
                assert!(view.data().iter().all(|&b| b == i as u8 + 1));
                found.push(tensor);
            }
        }
        found.sort();
        assert_eq!(found, ["a", "b", "c"]);
    }
    let dir = tempfile::tempdir().unwrap();
    let quantised = [planned("q", DType::Q8_0, &[32])];
    let error = write_safetensors(dir.path(), &quantised, 100, &mut |_, _| Ok(()), &mut |_, _| {});
    assert!(error.unwrap_err().to_string().contains("found q8_0"));
}
