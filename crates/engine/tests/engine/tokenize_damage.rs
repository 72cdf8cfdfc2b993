//! Malformed vocabularies give errors, damaged files never cause a panic, and every text survives a round trip.

use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use zonda_engine::load::{Metadata, Value};
use zonda_engine::tokenize::{Encode, TokenizeError, Tokenizer};

fn strings(list: &[&str]) -> Value {
    Value::Strings(list.iter().map(|&s| s.to_owned()).collect())
}

fn metadata(entries: &[(&str, Value)]) -> Metadata {
    let entries = entries.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value.clone()));
    Metadata(entries.collect())
}

/// A small byte-level vocabulary.
fn byte_level() -> Metadata {
    metadata(&[
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("gpt-2".into())),
        ("tokens", strings(&["<s>", "</s>", "a", "b", "ab", "Ġ", "<tool>"])),
        ("token_type", Value::Ints(vec![3, 3, 1, 1, 1, 1, 4])),
        ("merges", strings(&["a b"])),
        ("bos_token_id", Value::U32(0)),
        ("eos_token_id", Value::U32(1)),
    ])
}

/// A small SentencePiece vocabulary.
fn sentence_piece() -> Metadata {
    metadata(&[
        ("model", Value::String("llama".into())),
        ("tokens", strings(&["<unk>", "<s>", "</s>", "<0x61>", "▁", "b", "▁b"])),
        ("token_type", Value::Ints(vec![2, 3, 3, 6, 1, 1, 1])),
        ("scores", Value::Floats(vec![0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -0.5])),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
    ])
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Encode { add_bos: true, parse_special: true }).unwrap()
}

#[test]
fn the_small_vocabularies_work() {
    let tokenizer = Tokenizer::from_gguf(&byte_level()).unwrap();
    assert_eq!(encode(&tokenizer, "ab<tool>ba</s>"), [0, 4, 6, 3, 2, 1]);
    let tokenizer = Tokenizer::from_gguf(&sentence_piece()).unwrap();
    assert_eq!(encode(&tokenizer, "b a?"), [1, 6, 4, 3, 0]);
    assert_eq!(tokenizer.decode(&[1, 6, 4, 3], true), "b a");
}

#[test]
fn numbers_of_any_integer_type_are_read() {
    let kinds = [3, 3, 1, 1, 1, 1, 4];
    let list = |value: fn(u8) -> Value| Value::Array(kinds.map(value).to_vec());
    for types in [
        list(Value::U8),
        list(|n| Value::I8(n as i8)),
        list(|n| Value::U16(n.into())),
        list(|n| Value::U32(n.into())),
        list(|n| Value::I64(n.into())),
        list(|n| Value::U64(n.into())),
    ] {
        let mut vocabulary = byte_level();
        let mut put = |key: &str, value| vocabulary.0.insert(format!("tokenizer.ggml.{key}"), value);
        put("token_type", types.clone());
        put("bos_token_id", Value::I8(0));
        put("eos_token_id", Value::I16(1));
        put("eot_token_id", Value::I16(-1));
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        assert_eq!(encode(&tokenizer, "ab<tool>ba</s>"), [0, 4, 6, 3, 2, 1], "{types:?}");
    }
}

#[test]
fn malformed_vocabularies_are_refused_with_a_reason() {
    let tokens = |list: &[&str]| ("tokens", strings(list));
    let cases: &[(Metadata, (&str, Value), &str)] = &[
        (byte_level(), ("model", Value::String("rwkv".into())), "\"rwkv\""),
        (byte_level(), ("model", Value::U32(1)), "tokenizer.ggml.model"),
        (byte_level(), ("pre", Value::String("martian".into())), "\"martian\""),
        (byte_level(), tokens(&["<s>", "</s>", "a", "b", "a", "Ġ", "x"]), "token 4"),
        (byte_level(), tokens(&[]), "token_type"),
        (byte_level(), ("tokens", Value::U32(7)), "array of strings"),
        (byte_level(), ("token_type", Value::Ints(vec![1; 3])), "7 elements"),
        (byte_level(), ("token_type", Value::Ints(vec![1, 1, 1, 1, 1, 1, 9])), "type of token 6"),
        (byte_level(), ("token_type", Value::Ints(vec![1, 1, 1, 1, 1, 1, 6])), "byte token 6"),
        (byte_level(), ("token_type", Value::Floats(vec![1.0; 7])), "array of integers"),
        (byte_level(), ("merges", strings(&["ab"])), "merge 0"),
        (byte_level(), ("merges", strings(&["a b", "a b c"])), "merge 1"),
        (byte_level(), ("merges", strings(&[" b"])), "merge 0"),
        (byte_level(), ("bos_token_id", Value::U32(7)), "below 7"),
        (byte_level(), ("eos_token_id", Value::String("x".into())), "eos_token_id"),
        (byte_level(), ("eot_token_id", Value::I64(-5)), "eot_token_id"),
        (sentence_piece(), ("scores", Value::Floats(vec![0.0; 6])), "7 elements"),
        (sentence_piece(), ("scores", Value::Floats(vec![f32::NAN; 7])), "NaN"),
        (sentence_piece(), ("scores", Value::Ints(vec![0; 7])), "array of f32"),
        (sentence_piece(), ("unknown_token_id", Value::U64(1 << 40)), "unknown_token_id"),
        (sentence_piece(), tokens(&["<unk>", "<s>", "</s>", "<0xZZ>", "▁", "b", "▁b"]), "byte token 3"),
    ];
    for (valid, (key, value), expected) in cases {
        let mut broken = valid.clone();
        broken.0.insert(format!("tokenizer.ggml.{key}"), value.clone());
        let error = Tokenizer::from_gguf(&broken).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (valid, key) in [
        (byte_level(), "model"),
        (byte_level(), "tokens"),
        (byte_level(), "merges"),
        (sentence_piece(), "tokens"),
        (sentence_piece(), "scores"),
    ] {
        let mut broken = valid;
        broken.0.remove(&format!("tokenizer.ggml.{key}"));
        assert!(matches!(Tokenizer::from_gguf(&broken), Err(TokenizeError::Missing { .. })), "{key}");
    }
}

#[test]
fn a_text_token_may_be_huge_but_a_special_token_may_not() {
    let huge = |kind| {
        let mut metadata = byte_level();
        let long = "a".repeat(32 << 20);
        let tokens = strings(&["<s>", "</s>", "a", "b", "ab", "Ġ", &long]);
        metadata.0.insert("tokenizer.ggml.tokens".into(), tokens);
        metadata.0.insert("tokenizer.ggml.token_type".into(), Value::Ints(vec![3, 3, 1, 1, 1, 1, kind]));
        Tokenizer::from_gguf(&metadata)
    };
    assert_eq!(encode(&huge(1).unwrap(), "aab"), [0, 2, 4]);
    for kind in [3, 4] {
        let error = huge(kind).unwrap_err().to_string();
        assert!(error.contains("special token 6") && error.contains("33554432"), "{error}");
    }
}

#[test]
fn text_length_is_limited() {
    let tokenizer = Tokenizer::mock();
    let text = " ".repeat(zonda_engine::tokenize::MAX_TEXT + 1);
    assert!(matches!(tokenizer.encode(&text, Encode::default()), Err(TokenizeError::TextTooLong { .. })));
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizers").join(name)
}

/// The bytes of a small tekken file.
fn tekken() -> Vec<u8> {
    let base64 = ["YQ==", "Yg==", "YWI="];
    let vocab =
        base64.iter().enumerate().map(|(rank, b)| serde_json::json!({"rank": rank, "token_bytes": b}));
    let config = serde_json::json!({
        "pattern": r"\p{L}+|\s+(?!\S)|\s+", "default_vocab_size": 28, "default_num_special_tokens": 25, "version": "v3",
    });
    serde_json::json!({"config": config, "vocab": vocab.collect::<Vec<_>>()}).to_string().into_bytes()
}

/// Opens bytes as a tokenizer file; a file that opens must be usable.
fn open(bytes: &[u8]) -> Result<Tokenizer, TokenizeError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer");
    std::fs::write(&path, bytes).unwrap();
    let tokenizer = Tokenizer::from_file(&path)?;
    for parse_special in [true, false] {
        // A damaged `tokenizer.json` may still fail here, with an error.
        let options = Encode { add_bos: true, parse_special };
        if let Ok(ids) = tokenizer.encode("Hello  wörld ab\n<s>👩‍💻 123", options) {
            tokenizer.decode(&ids, true);
        }
    }
    Ok(tokenizer)
}

#[test]
fn a_small_tekken_file_works_and_inconsistent_ones_are_refused() {
    let tokenizer = open(&tekken()).unwrap();
    assert_eq!(encode(&tokenizer, "aab[INST]"), [1, 25, 27, 3]);
    let text = String::from_utf8(tekken()).unwrap();
    for (from, to, expected) in [
        (r#""default_vocab_size":28"#, r#""default_vocab_size":29"#, "default_vocab_size"),
        (r#""default_vocab_size":28"#, r#""default_vocab_size":3"#, "default_vocab_size"),
        (
            r#""default_num_special_tokens":25"#,
            r#""default_num_special_tokens":9000000000"#,
            "default_vocab_size",
        ),
        (r#""rank":1"#, r#""rank":7"#, "rank of entry 1"),
        ("Yg==", "YQ==", "rank 1"),
        ("Yg==", "!!", "base64"),
        (r"\\p{L}+", r"(?<=x)y", "look-around"),
    ] {
        assert!(text.contains(from));
        let error = open(text.replace(from, to).as_bytes()).expect_err(to).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_are_not_tokenizers_are_refused() {
    for bytes in [&b""[..], b"{}", b"{", b"GGUF", b"\0\0\0\0", b"[]", b"{\"model\": {\"type\": \"BPE\"}}"] {
        assert!(open(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn every_truncation_of_a_model_is_refused_or_usable() {
    let model = std::fs::read(data("tiny.model")).unwrap();
    for len in (0..model.len()).step_by(97) {
        let _ = open(&model[..len]);
    }
}

fn damaged(file: &str, at: prop::sample::Index, bytes: &[u8]) -> Vec<u8> {
    let mut content = if file == "tekken" { tekken() } else { std::fs::read(data(file)).unwrap() };
    let at = at.index(content.len());
    let end = (at + bytes.len()).min(content.len());
    content.splice(at..end, bytes.iter().copied());
    content
}

/// Tokenizers of both kinds, and whether they preserve `▁` (U+2581).
static TOKENIZERS: LazyLock<Vec<(Tokenizer, bool)>> = LazyLock::new(|| {
    let folder = |name: &str| Tokenizer::from_folder(&data(name)).unwrap().unwrap();
    vec![(folder("bytelevel"), true), (folder("spaces"), false), (Tokenizer::mock(), true)]
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_files_never_panic(
        file in prop::sample::select(vec!["tiny.model", "bytelevel/tokenizer.json", "spaces/tokenizer.json", "tekken"]),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..6),
    ) {
        let _ = open(&damaged(file, at, &bytes));
    }

    #[test]
    fn damaged_json_of_valid_characters_never_panics(
        file in prop::sample::select(vec!["bytelevel/tokenizer.json", "spaces/tokenizer.json", "tekken"]),
        at in any::<prop::sample::Index>(),
        text in r#"[0-9a-z"{}\[\]:,.-]{1,4}"#,
    ) {
        let _ = open(&damaged(file, at, text.as_bytes()));
    }

    #[test]
    fn any_metadata_is_refused_or_usable(
        tokens in prop::collection::vec(r"[ab▁Ġ <>/s]{0,3}|<0x[0-9A-F]{2}>", 0..12),
        types in prop::collection::vec(0i32..7, 0..12),
        scores in prop::collection::vec(any::<f32>(), 0..12),
        merges in prop::collection::vec(r"[abĠ]{0,2} ?[abĠ]{0,2}", 0..5),
        ids in prop::array::uniform3(0u32..14),
        model in prop::sample::select(vec!["gpt2", "llama"]),
        text in r"[ab ▁</s>é]{0,24}",
    ) {
        let types: Vec<_> = types.into_iter().chain(std::iter::repeat(1)).take(tokens.len()).collect();
        let scores: Vec<_> = scores.into_iter().chain(std::iter::repeat(0.5)).take(tokens.len()).collect();
        let metadata = metadata(&[
            ("model", Value::String(model.into())),
            ("pre", Value::String("llama-bpe".into())),
            ("tokens", Value::Strings(tokens)),
            ("token_type", Value::Ints(types)),
            ("scores", Value::Floats(scores)),
            ("merges", Value::Strings(merges)),
            ("bos_token_id", Value::U32(ids[0])),
            ("eos_token_id", Value::U32(ids[1])),
            ("unknown_token_id", Value::U32(ids[2])),
        ]);
        if let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) {
            for parse_special in [true, false] {
                let ids = tokenizer.encode(&text, Encode { add_bos: true, parse_special }).unwrap();
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                tokenizer.decode(&ids, true);
            }
        }
    }

    #[test]
    fn any_text_comes_back(text in r"(\PC|[ \n\t]|<s>|<tool>|</s>|é|👩‍💻){0,40}", parse_special: bool) {
        for (tokenizer, keeps_underscores) in TOKENIZERS.iter() {
            let ids = tokenizer.encode(&text, Encode { add_bos: true, parse_special }).unwrap();
            let text = if *keeps_underscores { text.clone() } else { text.replace('▁', " ") };
            prop_assert_eq!(tokenizer.decode(&ids, false), format!("<s>{text}"));
        }
    }
}
