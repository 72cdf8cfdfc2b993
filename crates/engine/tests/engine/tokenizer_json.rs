//! `tokenizer.json` files that made the crate `tokenizers` panic, allocate without bound or run for ever: each is refused with
//! the reason, or works.

use base64::Engine;
use serde_json::{Value, json};
use zonda_engine::tokenize::{Encode, TokenizeError, Tokenizer};

/// A small byte-level file with other values for some fields.
fn file(changes: Value) -> Value {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "é": 3}, "merges": ["a b"]},
    });
    let changes = changes.as_object().unwrap().clone();
    file.as_object_mut().unwrap().extend(changes);
    file
}

fn load(text: &str) -> Result<Tokenizer, TokenizeError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, text).unwrap();
    Tokenizer::from_file(&path)
}

/// Why a file is refused.
fn refused(changes: Value) -> String {
    let start: String = changes.to_string().chars().take(200).collect();
    match load(&file(changes).to_string()) {
        Ok(_) => panic!("{start}: taken"),
        Err(error) => error.to_string(),
    }
}

fn added(content: &str, id: usize) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": true, "special": false})
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn map(table: &[u32], replacements: &[u8]) -> Value {
    let size = (table.len() as u32 * 4).to_le_bytes();
    let table: Vec<u8> = table.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let bytes = [&size[..], &table[..], replacements].concat();
    json!({"type": "Precompiled",
        "precompiled_charsmap": base64::engine::general_purpose::STANDARD.encode(bytes)})
}

/// A table in which `a` has the replacement at `start`.
fn table(start: u32) -> Vec<u32> {
    let mut table = vec![0; 768];
    // From 0 to the units at 256 ^ byte; from there, to 512 ^ byte.
    table[0] = 256 << 10;
    let offset = (256 ^ usize::from(b'a')) ^ 512;
    table[256 ^ usize::from(b'a')] = (offset as u32) << 10 | 1 << 8 | u32::from(b'a');
    table[512] = 1 << 31 | start;
    table
}

#[test]
fn components_that_the_crate_does_not_survive_are_refused() {
    let normalizers = |parts: Vec<Value>| json!({"type": "Sequence", "normalizers": parts});
    let template = |single: Value, pair: Value, tokens: Value| json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let unigram =
        |vocab: Value| json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false});
    let prefixed = |prefix: &str, vocab: Value, merges: Value| json!({"type": "BPE", "continuing_subword_prefix": prefix, "vocab": vocab, "merges": merges});
    let charsmap = |text: Value| json!({"type": "Precompiled", "precompiled_charsmap": text});
    let cases = [
        (json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), "a length of at least 1"),
        (json!({"pre_tokenizer": {"length": 0}}), "a length of at least 1"),
        (
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]}}),
            "a length of at least 1",
        ),
        (json!({"normalizer": charsmap(json!("/////w=="))}), "a table of 4294967292 bytes"),
        (json!({"normalizer": {"precompiled_charsmap": "/////w=="}}), "a table of 4294967292 bytes"),
        (json!({"normalizer": charsmap(json!(""))}), "a table's size"),
        (json!({"normalizer": charsmap(json!("AAAA"))}), "a table's size"),
        (json!({"normalizer": charsmap(json!("AAAAAA=="))}), "no units"),
        (json!({"normalizer": charsmap(json!("?"))}), "Base64"),
        (json!({"normalizer": charsmap(Value::Null)}), "Base64"),
        (json!({"normalizer": {"type": "Precompiled"}}), "Base64"),
        (json!({"normalizer": normalizers(vec![charsmap(json!("/////w=="))])}), "a table of"),
        (json!({"normalizer": map(&[0], b"")}), "leads to unit 255, of 1"),
        (json!({"normalizer": map(&[1 << 30; 256], b"")}), "leads to unit"),
        (json!({"normalizer": map(&table(9), b"x\0y")}), "a replacement at 9 of 3"),
        (json!({"normalizer": map(&table(1), "\u{e9}\0".as_bytes())}), "a replacement at 1"),
        (json!({"normalizer": map(&table(0), &[0xff])}), "UTF-8"),
        (json!({"normalizer": map(&table(0), &[b'x'; 5000])}), "at most 1024 times"),
        (json!({"normalizer": replace("", "x")}), "a pattern, found an empty text"),
        (json!({"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}}), "a pattern"),
        (json!({"normalizer": {"pattern": {"String": ""}, "content": "x"}}), "a pattern"),
        (json!({"normalizer": {"type": "Prepend", "prepend": ""}}), "a text to prepend"),
        (json!({"normalizer": {"prepend": ""}}), "a text to prepend"),
        (json!({"normalizer": normalizers(vec![replace("a", "aa"); 40])}), "at most 1024 times"),
        (json!({"normalizer": replace("a", &"a".repeat(5000))}), "at most 1024 times"),
        (json!({"normalizer": replace("a", &"a".repeat(50_000))}), "at most 16384 bytes"),
        (json!({"normalizer": normalizers(vec![replace("a", "b"); 200])}), "at most 128 components"),
        (
            json!({
                "normalizer": replace("a", &"a".repeat(1000)),
                "added_tokens": (0..1000).map(|i| added(&format!("{i}{}", "a".repeat(900)), 4 + i)).collect::<Vec<_>>(),
            }),
            "could become",
        ),
        (
            json!({"added_tokens": (0..100_001).map(|i| added(&format!("<{i}>"), 4 + i)).collect::<Vec<_>>()}),
            "at most 100000 tokens",
        ),
        (
            json!({"added_tokens": (0..5000).map(|i| added(&format!("{i:0500}"), 4 + i)).collect::<Vec<_>>()}),
            "at most 1048576 bytes",
        ),
        (json!({"added_tokens": [added(&"a".repeat(2000), 4)]}), "at most 1024 bytes"),
        (
            json!({"model": prefixed("abcdef", json!({"a": 0, "b": 1, "ab": 2}), json!(["a b"]))}),
            "the prefix \"abcdef\"",
        ),
        (
            json!({"model": prefixed("\u{e9}", json!({"a": 0, "\u{e8}b": 1, "ab": 2}), json!(["a \u{e8}b"]))}),
            "the prefix \"\u{e9}\"",
        ),
        (
            json!({"model": {"vocab": {"ab": 0, "b": 1}, "merges": [["ab", "b"]], "type": "BPE"}}),
            "merges of at most 2 bytes",
        ),
        (json!({"model": unigram(json!([["<unk>", 0.0], ["", 1.0]]))}), "tokens of 1 to 1024 bytes"),
        (json!({"model": unigram(json!([["<unk>", 0.0], ["a".repeat(100_000), 1.0]]))}), "tokens of 1 to"),
        (
            json!({"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 1_000_000_000, "vocab": {"a": 0}}}),
            "max_input_chars_per_word of at most 10000",
        ),
        (
            json!({"post_processor": template(json!([special("x"), sequence("A")]), json!([]), json!({}))}),
            "special_tokens",
        ),
        (
            json!({"post_processor": template(json!([special("x"), sequence("A")]), json!([]),
                json!({"x": {"id": "x", "ids": [0, 1], "tokens": ["x"]}}))}),
            "as many ids as tokens",
        ),
        (
            json!({"post_processor": template(json!([sequence("B")]), json!([]), json!({}))}),
            "one text in `single`",
        ),
        (
            json!({"post_processor": template(json!(vec![sequence("A"); 5000]), json!([]), json!({}))}),
            "at most 1024 pieces",
        ),
        (
            json!({"post_processor": {"type": "Sequence", "processors":
                [template(json!([special("x"), sequence("A")]), json!([]), json!({}))]}}),
            "special_tokens",
        ),
    ];
    for (changes, reason) in cases {
        let start: String = changes.to_string().chars().take(200).collect();
        let found = refused(changes);
        assert!(found.contains(reason) && !found.contains("panicked"), "{start}: {found}");
    }
}

/// The crate reads both fields of one name, so what is checked must be what it gets.
#[test]
fn a_field_can_not_be_hidden_by_another_of_its_name() {
    let hidden = r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "#;
    let text = file(json!({})).to_string().replacen('{', hidden, 1);
    assert_eq!(load(&text).unwrap().vocab_size(), 4);
}

/// Whatever the components are, loading and encoding end in a result.
#[test]
fn odd_components_end_in_a_result() {
    let split = |pattern: Value, behavior: &str, invert: bool| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert});
    let mut cases = Vec::new();
    let groups = format!("{}a{}", "(".repeat(8000), ")".repeat(8000));
    let looks = format!("{}a{}", "(?=".repeat(4000), ")".repeat(4000));
    for regex in [groups.as_str(), &looks, &"a|".repeat(1000), &"a?".repeat(1000)] {
        cases.push(json!({"pre_tokenizer": split(json!({"Regex": regex}), "Isolated", false)}));
    }
    for regex in
        ["a*", "", "(?=a)", "$", "^", "\\b", "(", "a{1000}{1000}{1000}", "(a+)+$", "[^\\s\\S]", "\\p{L}*"]
    {
        cases.push(json!({"normalizer": {"type": "Replace", "pattern": {"Regex": regex}, "content": "x"}}));
        cases.push(json!({"normalizer": {"type": "Replace", "pattern": {"Regex": regex}, "content": ""}}));
        for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
            cases.push(json!({"pre_tokenizer": split(json!({"Regex": regex}), behavior, false)}));
            cases.push(json!({"pre_tokenizer": split(json!({"Regex": regex}), behavior, true)}));
        }
    }
    cases.extend([
        json!({"normalizer": {"type": "Regex"}}),
        json!({"normalizer": replace("a", "")}),
        json!({"normalizer": {"type": "Sequence", "normalizers": [replace("a", ""), {"type": "Prepend", "prepend": "a"}]}}),
        json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true}]}}),
        json!({"normalizer": map(&table(0), b"\0")}),
        json!({"normalizer": map(&table(0), "\u{e9}\u{e9}\0".as_bytes())}),
        json!({"pre_tokenizer": {"type": "UnicodeScripts"}}),
        json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}}),
        json!({"pre_tokenizer": {"type": "CharDelimiterSplit", "delimiter": "a"}}),
        json!({"model": {"type": "BPE", "vocab": {}, "merges": []}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 4_294_967_295_u32}, "merges": []}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0, "ab": 0}, "merges": ["a b"], "dropout": 1.0}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "none", "fuse_unk": true}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0, "": 1}, "merges": [["a", ""], ["", "a"], ["", ""]]}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0, "#b": 1, "ab": 2}, "merges": [["a", "#b"]],
            "continuing_subword_prefix": "#", "end_of_word_suffix": "\u{e9}", "byte_fallback": true}}),
        json!({"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]], "byte_fallback": false}}),
        json!({"model": {"type": "Unigram", "unk_id": null, "vocab": [], "byte_fallback": true}}),
        json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 1e308], ["b", -1e308], ["ab", 1e308]], "byte_fallback": true}}),
        json!({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}}),
        json!({"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "",
            "max_input_chars_per_word": 100, "vocab": {"": 0}}}),
        json!({"post_processor": {"type": "RobertaProcessing", "sep": ["x", 4_294_967_295_u32], "cls": ["y", 9],
            "trim_offsets": true, "add_prefix_space": true}}),
        json!({"added_tokens": [added("", 4), added(" ", 5), added("a", 5), added("b ", 0)]}),
        json!({"added_tokens": [{"id": 4, "content": "b", "single_word": true, "lstrip": true, "rstrip": true,
            "normalized": true, "special": true}], "normalizer": replace("b", "")}),
    ]);
    let mut loaded = 0;
    for changes in cases {
        let Ok(tokenizer) = load(&file(changes).to_string()) else { continue };
        loaded += 1;
        for text in
            ["", "a", "ab", "b a\u{e9}ab  b", "\u{1f44b}\u{0301}\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]
        {
            for parse_special in [false, true] {
                let ids = tokenizer.encode(text, Encode { parse_special, add_bos: true });
                assert!(ids.iter().flatten().count() <= 200);
            }
        }
    }
    assert!(loaded > 50, "{loaded}");
}

#[test]
fn what_real_files_have_is_taken() {
    let gemma: Vec<Value> = (0..6_414).map(|i| added(&format!("<unused{i}>"), 4 + i)).collect();
    let tokenizer = load(&file(json!({"added_tokens": gemma})).to_string()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 6_418);
    let ids = |changes: Value, text: &str| {
        load(&file(changes).to_string()).unwrap().encode(text, Encode::default()).unwrap()
    };
    assert_eq!(ids(json!({}), "abba"), [2, 1, 0]);
    assert_eq!(ids(json!({"normalizer": map(&table(0), b"b\0")}), "aab"), [1, 1, 1]);
    assert_eq!(ids(json!({"normalizer": replace("a", "b")}), "ab"), [1, 1]);
    assert_eq!(ids(json!({"normalizer": {"type": "Prepend", "prepend": "a"}}), "b"), [2]);
    assert_eq!(ids(json!({"pre_tokenizer": {"type": "FixedLength", "length": 1}}), "ab"), [0, 1]);
    let model = json!({"type": "BPE", "continuing_subword_prefix": "#", "merges": [["a", "#b"]],
        "vocab": {"a": 0, "#b": 1, "ab": 2}});
    assert_eq!(ids(json!({"model": model}), "ab"), [2]);
    let model =
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["#version: 0.2", "a b"]});
    assert_eq!(ids(json!({"model": model}), "ab"), [2]);
    // A text that could need too much memory is refused.
    let tokenizer = load(&file(json!({"normalizer": replace("a", &"a".repeat(1000))})).to_string()).unwrap();
    let error = tokenizer.encode(&"a".repeat(100_000), Encode::default()).unwrap_err().to_string();
    assert!(error.contains("could become 100000000 bytes"), "{error}");
}
