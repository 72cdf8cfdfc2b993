//! SmolLM2's tokenizer against llama.cpp's ids (`testdata/llama_cpp/tokenize.json`).

use std::path::Path;
use zonda_engine::TokenId;
use zonda_engine::tokenize::{Encode, Tokenizer};
use zonda_testkit::models;

#[derive(serde::Deserialize)]
struct Golden {
    strings: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    special: Vec<TokenId>,
    plain: Vec<TokenId>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama_cpp/tokenize.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tokenizer() -> Option<Tokenizer> {
    let path = models::find("smollm2-135m-instruct-q4_1.gguf")?;
    Some(Tokenizer::from_file(&path).unwrap())
}

#[test]
fn ids_match_llama_cpp_and_the_text_round_trips() {
    let Some(tokenizer) = tokenizer() else { return };
    let golden = golden();
    assert!(golden.strings.len() >= 200);
    for Case { text, special, plain } in golden.strings {
        for (parse_special, expected) in [(true, special), (false, plain)] {
            let ids = tokenizer.encode(&text, Encode { add_bos: false, parse_special }).unwrap();
            assert_eq!(ids, expected, "{text:?}, parse_special: {parse_special}");
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

#[test]
fn special_ids_are_known() {
    let Some(tokenizer) = tokenizer() else { return };
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert!(!tokenizer.adds_bos());
    // <|endoftext|>, <|im_end|>, and the file separators of its training text.
    assert_eq!(tokenizer.end_tokens(), [0, 2, 4]);
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(100));
    assert_eq!(tokenizer.piece(1), "<|im_start|>");
}
