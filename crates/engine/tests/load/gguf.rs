//! The GGUF format: valid files are read, and each malformation has its own error.

use std::collections::BTreeMap;

use zonda_engine::load::gguf::{GgufError, parse};
use zonda_engine::load::{GgufFile, LoadError, Model, StoredType, TensorRole, Value};
use zonda_kernels::DType;

use crate::build::{Gguf, array, string, tiny};

fn error(file: &[u8]) -> GgufError {
    parse(file).expect_err("a broken file")
}

#[test]
fn all_value_types_are_read() {
    let nested = array(9, &[array(0, &[vec![1], vec![2]]), array(8, &[string("x")]), array(4, &[])]);
    let g = Gguf::new()
        .set("u8", 0, vec![200])
        .set("i8", 1, vec![0xff])
        .set("u16", 2, 60_000u16.to_le_bytes().to_vec())
        .set("i16", 3, (-3i16).to_le_bytes().to_vec())
        .u32("u32", 4_000_000_000)
        .set("i32", 5, (-5i32).to_le_bytes().to_vec())
        .f32("f32", 1.5)
        .bool("bool", true)
        .str("string", "héllo")
        .set("nested", 9, nested)
        .set("u64", 10, u64::MAX.to_le_bytes().to_vec())
        .set("i64", 11, i64::MIN.to_le_bytes().to_vec())
        .set("f64", 12, 0.1f64.to_le_bytes().to_vec())
        .set("ints", 9, array(5, &[7i32.to_le_bytes().to_vec(), (-7i32).to_le_bytes().to_vec()]))
        .set("floats", 9, array(6, &[0.5f32.to_le_bytes().to_vec()]))
        .set("strings", 9, array(8, &[string("a"), string("")]))
        .set("bools", 9, array(7, &[vec![0], vec![1]]));
    let expected = BTreeMap::from(
        [
            ("u8", Value::U8(200)),
            ("i8", Value::I8(-1)),
            ("u16", Value::U16(60_000)),
            ("i16", Value::I16(-3)),
            ("u32", Value::U32(4_000_000_000)),
            ("i32", Value::I32(-5)),
            ("f32", Value::F32(1.5)),
            ("bool", Value::Bool(true)),
            ("string", Value::String("héllo".into())),
            (
                "nested",
                Value::Array(vec![
                    Value::Array(vec![Value::U8(1), Value::U8(2)]),
                    Value::Strings(vec!["x".into()]),
                    Value::Array(vec![]),
                ]),
            ),
            ("u64", Value::U64(u64::MAX)),
            ("i64", Value::I64(i64::MIN)),
            ("f64", Value::F64(0.1)),
            ("ints", Value::Ints(vec![7, -7])),
            ("floats", Value::Floats(vec![0.5])),
            ("strings", Value::Strings(vec!["a".into(), String::new()])),
            ("bools", Value::Array(vec![Value::Bool(false), Value::Bool(true)])),
        ]
        .map(|(k, v)| (k.to_owned(), v)),
    );
    for version in [2, 3] {
        let header = parse(&Gguf { version, ..g.clone() }.bytes()).expect("a right file");
        assert_eq!(header.version, version);
        assert_eq!(header.metadata.0, expected);
    }
}

#[test]
fn tensors_are_found_at_any_alignment() {
    for alignment in [1, 8, 32, 64, 4096] {
        let g = Gguf { alignment, ..Gguf::new() }
            .u32("general.alignment", alignment as u32)
            .filled("a", &[3], 0, [1f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect())
            .filled("b", &[2, 32], 8, (0..68).collect());
        let bytes = g.bytes();
        let header = parse(&bytes).expect("a right file");
        let [a, b] = header.tensors.as_slice() else { panic!("two tensors") };
        assert_eq!((a.shape.as_slice(), &a.kind), ([3].as_slice(), &StoredType::Runs(DType::F32)));
        assert_eq!((b.shape.as_slice(), &b.kind), ([2, 32].as_slice(), &StoredType::Runs(DType::Q8_0)));
        assert_eq!(bytes[a.range.clone().expect("sized")], g.tensors[0].bytes);
        assert_eq!(bytes[b.range.clone().expect("sized")], g.tensors[1].bytes);
    }
}

#[test]
fn files_with_a_wrong_header_are_refused() {
    assert_eq!(error(b""), GgufError::Magic { found: vec![] });
    assert_eq!(error(b"GGU"), GgufError::Magic { found: b"GGU".to_vec() });
    assert_eq!(error(b"PK\x03\x04 a zip file"), GgufError::Magic { found: b"PK\x03\x04".to_vec() });
    assert!(matches!(error(b"GGUF"), GgufError::Truncated { .. }));
    for found in [0, 1, 4, u32::MAX] {
        assert_eq!(error(&Gguf { version: found, ..Gguf::new() }.bytes()), GgufError::Version { found });
    }
    for big in [1u32, 2, 3] {
        assert_eq!(error(&Gguf { version: big.swap_bytes(), ..Gguf::new() }.bytes()), GgufError::BigEndian);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let g = tiny("llama").set("strings", 9, array(8, &[string("abc"), string("de")]));
    let bytes = g.bytes();
    parse(&bytes).expect("whole");
    let header = g.header().len();
    // Cuts at every byte of the header and at some bytes of the data.
    for len in (0..header + 64).chain((header..bytes.len()).step_by(97)).chain([bytes.len() - 1]) {
        let found = error(&bytes[..len]);
        match len {
            0..4 => assert!(matches!(found, GgufError::Magic { .. }), "{len}: {found}"),
            n if n >= header => assert!(matches!(found, GgufError::OutOfFile { .. }), "{len}: {found}"),
            _ => assert!(
                matches!(found, GgufError::Truncated { .. } | GgufError::Count { .. }),
                "{len}: {found}"
            ),
        }
    }
}

#[test]
fn impossible_counts_are_refused() {
    let mut bytes = tiny("llama").bytes();
    bytes[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(
        matches!(error(&bytes), GgufError::Count { what, found, .. } if what.contains("tensor") && found == 1 << 60)
    );
    let mut bytes = tiny("llama").bytes();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(error(&bytes), GgufError::Count { what, .. } if what.contains("metadata")));

    for kind in [0u32, 5, 6, 8, 9, 12] {
        let lie = [kind.to_le_bytes().as_slice(), &(1u64 << 60).to_le_bytes()].concat();
        let found = error(&Gguf::new().set("list", 9, lie).bytes());
        assert!(matches!(&found, GgufError::Count { what, .. } if what == "list"), "{found}");
    }
    let lie = (u64::MAX - 3).to_le_bytes().to_vec();
    let found = error(&Gguf::new().set("text", 8, lie).bytes());
    assert!(matches!(&found, GgufError::Truncated { what, .. } if what == "text"), "{found}");
}

#[test]
fn wrong_metadata_is_refused() {
    let twice = Gguf { pairs: vec![("k".into(), 0, vec![1]), ("k".into(), 0, vec![2])], ..Gguf::new() };
    assert_eq!(error(&twice.bytes()), GgufError::DuplicateKey { key: "k".into() });
    assert!(matches!(error(&Gguf::new().set("", 0, vec![1]).bytes()), GgufError::EmptyKey { at: 24 }));
    let kind = |found| GgufError::ValueType { key: "k".into(), found };
    assert_eq!(error(&Gguf::new().set("k", 13, vec![0; 64]).bytes()), kind(13));
    assert_eq!(error(&Gguf::new().set("k", 9, array(99, &[])).bytes()), kind(99));
    let bool = GgufError::Bool { key: "k".into(), found: 2 };
    assert_eq!(error(&Gguf::new().set("k", 7, vec![2]).bytes()), bool);
    let text = [2u64.to_le_bytes().as_slice(), &[0xc3, 0x28]].concat();
    assert!(
        matches!(error(&Gguf::new().set("k", 8, text).bytes()), GgufError::Utf8 { what, .. } if what == "k")
    );

    let mut nested = array(0, &[vec![1]]);
    for _ in 0..4 {
        nested = array(9, &[nested]);
    }
    let depth = GgufError::Depth { key: "k".into(), limit: 4 };
    assert_eq!(error(&Gguf::new().set("k", 9, nested).bytes()), depth);
    let many = [0u32.to_le_bytes().as_slice(), &(5u64 << 20).to_le_bytes(), &vec![0; 5 << 20]].concat();
    let found = error(&Gguf::new().set("k", 9, many).bytes());
    assert!(matches!(found, GgufError::TooManyElements { .. }), "{found}");
}

#[test]
fn wrong_alignments_are_refused() {
    for found in [0u32, 3, 48, 1 << 30] {
        let found = error(&Gguf::new().u32("general.alignment", found).bytes());
        assert!(matches!(found, GgufError::Alignment { .. }), "{found}");
    }
    let text = error(&Gguf::new().str("general.alignment", "32").bytes());
    assert!(text.to_string().contains("is string \"32\"; expected a power of two"), "{text}");
}

#[test]
fn wrong_tensors_are_refused() {
    let one = || Gguf::new().tensor("t", &[32], 0, 128);
    let name = || "t".to_owned();

    let mut twice = one();
    twice.tensors.push(twice.tensors[0].clone());
    assert_eq!(error(&twice.bytes()), GgufError::DuplicateTensor { tensor: name() });
    for n in [0, 5, 1000] {
        let found = error(&one().edit("t", |t| t.dims = vec![1; n]).bytes());
        assert_eq!(found, GgufError::Dimensions { tensor: name(), found: n as u32 });
    }
    for dims in [vec![0], vec![32, 0], vec![1 << 40, 1 << 40], vec![u64::MAX, 2], vec![1 << 63]] {
        let found = error(&one().edit("t", |t| t.dims = dims.clone()).bytes());
        assert_eq!(found, GgufError::Shape { tensor: name(), found: dims });
    }
    let unknown = error(&one().edit("t", |t| (t.kind, t.dims) = (99, vec![1 << 40])).bytes());
    assert_eq!(unknown, GgufError::Shape { tensor: name(), found: vec![1 << 40] });
    let huge = error(&one().edit("t", |t| t.dims = vec![1 << 60]).bytes());
    assert_eq!(huge, GgufError::OutOfFile { tensor: name(), offset: 0, bytes: 1 << 62, len: 128 });
    let row = error(&one().edit("t", |t| (t.kind, t.dims) = (12, vec![128, 4])).bytes());
    assert_eq!(row, GgufError::Row { tensor: name(), kind: "q4_k".into(), found: 128, block: 256 });
    let misaligned = error(&one().edit("t", |t| t.offset = Some(4)).bytes());
    assert_eq!(misaligned, GgufError::Misaligned { tensor: name(), found: 4, alignment: 32 });
    for offset in [32, 1 << 50, u64::MAX - 31] {
        let found = error(&one().edit("t", |t| t.offset = Some(offset)).bytes());
        assert_eq!(found, GgufError::OutOfFile { tensor: name(), offset, bytes: 128, len: 128 });
    }
    let overlap = one().tensor("u", &[32], 0, 128).edit("u", |t| t.offset = Some(96));
    assert_eq!(error(&overlap.bytes()), GgufError::Overlap { tensor: "u".into(), other: name() });
}

#[test]
fn unsupported_types_are_named_when_they_are_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, name, bytes) in
        [(9, "q8_1", 36 * 8), (15, "q8_k", 292), (28, "f64", 8 * 256), (99, "type 99", 1)]
    {
        let g = tiny("llama").tensor("output.weight", &[8, 256], kind, 8 * bytes);
        let g = g.u32("llama.embedding_length", 256);
        let model = Model::open(&g.write(folder.path(), "m.gguf")).expect("opens to be inspected");
        let info = model.tensors().into_iter().find(|t| t.name == "output.weight").expect("listed");
        assert_eq!(info.dtype.to_string(), name);
        assert_eq!(info.bytes, (kind != 99).then_some(8 * bytes as u64));
        let error = model.tensor(TensorRole::Output).expect_err("refused");
        assert!(matches!(&error, LoadError::UnsupportedType { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("output.weight has type {name}")) && text.contains("q4_0"), "{text}");
    }
}

#[test]
fn vocabulary_only_files_open_with_their_metadata() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = array(8, &[string("a"), string("b")]);
    let g = Gguf::new().str("general.architecture", "llama").set("tokenizer.ggml.tokens", 9, tokens);
    let path = g.write(folder.path(), "vocab.gguf");
    let file = GgufFile::open(&path).expect("opens");
    assert_eq!(
        file.metadata.strings("tokenizer.ggml.tokens"),
        Some(["a".to_owned(), "b".to_owned()].as_slice())
    );
    assert!(matches!(Model::open(&path), Err(LoadError::NoTensors { .. })));
}

#[test]
fn paths_that_are_not_models_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |path: &std::path::Path| Model::open(path).expect_err("no model").to_string();
    assert!(text(folder.path()).contains("folder without config.json; expected a .gguf file or a folder"));
    assert!(text(&folder.path().join("absent.gguf")).contains("absent.gguf: No such file"));
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    assert!(text(&write("empty.gguf", b"")).contains("not a GGUF file"));
    assert!(text(&write("model.safetensors", b"")).contains("one file of a folder"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    assert!(matches!(Model::open(&write("lfs.gguf", pointer)), Err(LoadError::LfsPointer { .. })));
    std::fs::create_dir(folder.path().join("dir.gguf")).expect("a folder");
    assert!(text(&folder.path().join("dir.gguf")).contains("folder without config.json"));
}

#[test]
fn models_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<GgufFile>();
    shared::<LoadError>();
}
