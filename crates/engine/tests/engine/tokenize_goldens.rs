//! Tokenizers of every file format against the ids of their own libraries (`testdata/tokenizers/`).

use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;
use zonda_engine::tokenize::{Bounds, Detokenizer};
use zonda_engine::tokenize::{ChatTemplate, Encode, Message, RenderOptions, TemplateError, Tokenizer};
use zonda_testkit::models;

#[derive(serde::Deserialize)]
struct Golden {
    strings: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    special: Option<Vec<TokenId>>,
    plain: Vec<TokenId>,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizers").join(name)
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(data(name)).unwrap()).unwrap()
}

/// The text expected after a round trip: the same, for lossless tokenizers.
type Kept = fn(&str) -> String;

/// SentencePiece writes spaces as `▁`, so a `▁` in the text comes back as a space.
fn spaced(text: &str) -> String {
    text.replace('▁', " ")
}

/// Checks the ids, the text decoded from them, and the streamed text.
fn check(tokenizer: &Tokenizer, golden: &str, kept: Kept) {
    let golden: Golden = read(golden);
    assert!(golden.strings.len() >= 200);
    for Case { text, special, plain } in golden.strings {
        for (parse_special, expected) in [(true, special), (false, Some(plain))] {
            let Some(expected) = expected else { continue };
            let ids = tokenizer.encode(&text, Encode { add_bos: false, parse_special }).unwrap();
            assert_eq!(ids, expected, "{text:?}, parse_special: {parse_special}");
            let enough = Bounds { most: ids.len(), ..Bounds::NONE };
            let fits = tokenizer.encode_within(&text, Encode { add_bos: false, parse_special }, &enough);
            assert_eq!(fits.unwrap(), ids, "{text:?} fits");
            let back = kept(&text);
            assert_eq!(tokenizer.decode(&ids, false), back, "parse_special: {parse_special}");

            let mut stream = Detokenizer::new().keep_special(true);
            let mut pieces: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
            pieces.push_str(&stream.finish());
            assert_eq!(pieces, back);
        }
    }
}

fn mistral(file: &str) -> Option<Tokenizer> {
    let path = models::find(&format!("mistral-common/{file}"))?;
    Some(Tokenizer::from_file(&path).unwrap())
}

#[test]
fn mistral_v1() {
    let Some(tokenizer) = mistral("tokenizer.model.v1") else { return };
    check(&tokenizer, "mistral_v1.json", spaced);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    assert_eq!(tokenizer.end_tokens(), [2]);
    assert_eq!(tokenizer.vocab_size(), 32000);
}

#[test]
fn mistral_v3() {
    let Some(tokenizer) = mistral("mistral_instruct_tokenizer_240323.model.v3") else { return };
    check(&tokenizer, "mistral_v3.json", spaced);
    assert_eq!(tokenizer.token_id("[INST]"), Some(3));
    assert!(tokenizer.is_special(3));
}

#[test]
fn mistral_tekken() {
    let Some(tokenizer) = mistral("tekken_240911.json") else { return };
    check(&tokenizer, "mistral_tekken.json", str::to_owned);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    assert_eq!(tokenizer.vocab_size(), 131072);
    assert_eq!(tokenizer.piece(20), "<SPECIAL_20>");
}

#[derive(serde::Deserialize)]
struct Chat {
    template: String,
    tokenizer: String,
    chat: String,
    messages: Vec<Message>,
    tools: Vec<serde_json::Value>,
    ids: Vec<TokenId>,
}

#[test]
fn conversations_get_the_ids_of_mistral_common() {
    for Chat { template, tokenizer, chat, messages, tools, ids } in read::<Vec<Chat>>("mistral_chats.json") {
        let Some(tokenizer) = mistral(&tokenizer) else { return };
        let chat_template = ChatTemplate::builtin(&template, &tokenizer).unwrap();
        let text = chat_template.render(&messages, &RenderOptions { tools, ..Default::default() }).unwrap();
        let found = tokenizer.encode(&text, Encode { add_bos: false, parse_special: true }).unwrap();
        assert_eq!(found, ids, "{template}, {chat}: {text}");
    }
}

#[derive(serde::Deserialize)]
struct Rendered {
    template: String,
    case: String,
    messages: Vec<Message>,
    options: serde_json::Map<String, serde_json::Value>,
    /// `None`: the template refuses the conversation.
    text: Option<String>,
}

#[test]
fn templates_render_as_in_transformers() {
    let mock = Tokenizer::mock();
    for Rendered { template, case, messages, mut options, text } in read::<Vec<Rendered>>("templates.json") {
        let source = std::fs::read_to_string(data("templates").join(&template)).unwrap();
        let chat_template = ChatTemplate::new(&source, &mock).unwrap();
        let mut given = RenderOptions::default();
        if let Some(tools) = options.remove("tools") {
            given.tools = serde_json::from_value(tools).unwrap();
        }
        given.add_generation_prompt = options.remove("add_generation_prompt") == Some(true.into());
        given.extra = options;
        match (chat_template.render(&messages, &given), text) {
            (Ok(found), Some(expected)) => assert_eq!(found, expected, "{template}, {case}"),
            (Err(TemplateError::Refused(_)), None) => {}
            (found, expected) => panic!("{template}, {case}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn string_methods_are_jinjas() {
    let mut wrong = Vec::new();
    for case in read::<Vec<HashMap<String, String>>>("methods.json") {
        let (source, text) = (&case["source"], &case["text"]);
        let template = ChatTemplate::new(source, &Tokenizer::mock());
        let found = template.and_then(|template| template.render(&[], &RenderOptions::default()));
        match found {
            Ok(found) if found == *text => {}
            Ok(found) => wrong.push(format!("{source}\n  gives    {found:?}\n  expected {text:?}")),
            Err(error) => wrong.push(format!("{source}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A text with runs of spaces collapsed.
fn squeezed(text: &str) -> String {
    let squeezed = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    spaced(squeezed.trim_end_matches('▁'))
}

#[test]
fn sentence_piece_with_squeezed_spaces_and_user_defined_symbols() {
    let tokenizer = Tokenizer::from_file(&data("tiny.model")).unwrap();
    check(&tokenizer, "tiny.json", squeezed);
}

/// Unigram models against SentencePiece's ids. What was normalised or unknown can't come back.
fn check_unigram(name: &str) -> Tokenizer {
    let tokenizer = Tokenizer::from_file(&data(&format!("{name}.model"))).unwrap();
    let golden: Golden = read(&format!("{name}.json"));
    assert!(golden.strings.len() >= 200);
    let mut wrong = Vec::new();
    for Case { text, plain, .. } in golden.strings {
        let ids = tokenizer.encode(&text, Encode { add_bos: false, parse_special: false }).unwrap();
        if ids != plain {
            wrong.push(format!("{text:?}: {ids:?}, expected {plain:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    tokenizer
}

#[test]
fn sentence_piece_unigram_with_a_map_of_characters_and_bytes() {
    let tokenizer = check_unigram("unigram");
    let ids = tokenizer.encode("Å wind", Encode::default()).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "A wind");
    assert!(!tokenizer.adds_bos());
}

#[test]
fn sentence_piece_unigram_as_it_is() {
    check_unigram("unigram_plain");
}

#[test]
fn hugging_face_byte_level() {
    let tokenizer = Tokenizer::from_folder(&data("bytelevel")).unwrap().unwrap();
    check(&tokenizer, "bytelevel/ids.json", str::to_owned);
    let id = |name| tokenizer.token_id(name).unwrap();
    assert_eq!(tokenizer.bos(), Some(id("<s>")));
    assert_eq!(tokenizer.eos(), Some(id("</s>")));
    assert!(!tokenizer.adds_bos());
    assert_eq!(tokenizer.end_tokens(), [id("</s>"), id("<|im_end|>")]);
    assert!(!tokenizer.is_special(id("<tool>")));
}

#[test]
fn hugging_face_with_spaces_and_byte_fallback() {
    let tokenizer = Tokenizer::from_folder(&data("spaces")).unwrap().unwrap();
    check(&tokenizer, "spaces/ids.json", spaced);
    assert!(tokenizer.adds_bos(), "its post-processor adds BOS");
    let ids = tokenizer.encode("hello", Encode { add_bos: true, parse_special: false }).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "hello");
}

#[test]
fn a_folder_without_tokenizer_files_has_no_tokenizer() {
    assert!(Tokenizer::from_folder(&data("../hf/llama")).unwrap().is_none());
}

#[test]
fn the_continuation_of_a_prompt_keeps_its_space() {
    let Some(tokenizer) = mistral("mistral_instruct_tokenizer_240323.model.v3") else { return };
    let encode = |text| tokenizer.encode(text, Encode { add_bos: true, parse_special: true }).unwrap();
    let paris = *encode("Paris").last().unwrap();
    assert_eq!(Detokenizer::after(&encode("The capital is")).push(&tokenizer, paris), " Paris");
    assert_eq!(Detokenizer::after(&encode("[INST]Where?[/INST]")).push(&tokenizer, paris), "Paris");
    assert_eq!(Detokenizer::new().push(&tokenizer, paris), "Paris");
}
