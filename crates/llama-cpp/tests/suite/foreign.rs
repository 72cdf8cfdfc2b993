//! Models that our loader can't run: architectures and tokenizers that only llama.cpp has.

use crate::common::options;
use std::path::Path;
use std::sync::Arc;
use zonda_engine::forward::{Backend, BackendError};
use zonda_engine::load::Model;
use zonda_engine::tokenize::{Encode, TokenizeError, Tokenizer};
use zonda_engine::{Engine, EngineConfig, Prompt, Request, SamplingParams, TokenId};
use zonda_llama_cpp::{LlamaCpp, LlamaCppOptions, tokenizer};
use zonda_testkit::foreign::{self, RECURRENT, TRANSFORMERS};
use zonda_testkit::rules::{self, all, difference, forward, tiny, tokens};

#[path = "../../../zonda/src/backend/llama_cpp_architectures.rs"]
mod architectures;

fn open(architecture: &str, dir: &Path) -> Model {
    let like = tiny("tiny-llama", "f32".parse().unwrap(), dir);
    Model::open_any(&foreign::foreign(architecture, &like.metadata, dir)).unwrap()
}

fn exact(model: &Model) -> LlamaCppOptions {
    LlamaCppOptions { slots: 3, flash_attention: false, ..options(model) }
}

#[test]
fn chunks_and_batches_give_the_logits_of_one_prefill() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in TRANSFORMERS.iter().chain(&RECURRENT) {
        let model = open(architecture, dir.path());
        assert!(model.unsupported().unwrap().contains(architecture), "{:?}", model.unsupported());
        let mut backend = LlamaCpp::open(&model, &exact(&model)).unwrap();
        rules::chunks(architecture, &model, &mut backend, 2e-3);
        rules::slots_apart(architecture, &model, &mut backend, 2e-3);
    }
}

#[test]
fn transformers_are_truncated_and_share_prefixes() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in TRANSFORMERS {
        let model = open(architecture, dir.path());
        rules::prefixes(architecture, &model, &mut LlamaCpp::open(&model, &exact(&model)).unwrap(), 2e-3);
    }
}

/// A state can't be shortened: the slot is emptied and says so. Only whole states are shared.
#[test]
fn recurrent_models_say_what_they_can_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in RECURRENT {
        let model = open(architecture, dir.path());
        let mut backend = LlamaCpp::open(&model, &exact(&model)).unwrap();
        let (ids, next) = (tokens(40, 37, &model), tokens(8, 11, &model));
        let whole = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        assert_eq!(backend.truncate(0, 40).unwrap(), 40, "{architecture}: nothing is cut");
        assert_eq!(backend.share_prefix(0, 1, 25).unwrap(), 0, "{architecture}: part of a state");
        assert_eq!(backend.share_prefix(0, 1, 40).unwrap(), 40, "{architecture}: the whole state");
        assert_eq!(backend.truncate(0, 25).unwrap(), 0, "{architecture}: what can't be kept is not kept");
        // The shared state outlives its owner, whose slot starts anew.
        let shared = forward(&mut backend, vec![all(1, 40, &next)]).unwrap();
        let again = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        let own = forward(&mut backend, vec![all(0, 40, &next)]).unwrap();
        for (a, b) in again.iter().zip(&whole).chain(shared.iter().zip(&own)) {
            assert!(difference(a, b) <= 2e-3, "{architecture}");
        }
        let Err(BackendError::Unsupported(why)) = backend.export_kv(0, 0, &mut Vec::new()) else {
            panic!("{architecture}: exported");
        };
        assert!(why.contains("one state"), "{why}");
    }
}

/// Greedy tokens after a prompt, and how many of its tokens were reused.
fn ask(engine: &Engine, prompt: &[TokenId], reuse: bool) -> (Vec<TokenId>, usize) {
    let mut request = Request::new(Prompt::Tokens(prompt.to_vec()), 12);
    request.sampling = SamplingParams::greedy();
    request.ignore_eos = true;
    request.prefix_cache = reuse;
    let completion = engine.submit(request).unwrap().wait().unwrap();
    (completion.ids, completion.outcome.usage.cached_tokens)
}

/// The engine's requests reuse each other's slots: the next turn of a conversation its whole state, another ending of the same
/// prompt nothing. No token depends on it.
#[test]
fn requests_after_another_get_the_tokens_of_an_engine_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in RECURRENT.iter().chain(&TRANSFORMERS[..1]) {
        let model = Arc::new(open(architecture, dir.path()));
        let start = |slots: usize| {
            let model = Arc::clone(&model);
            let open = move || {
                let options = LlamaCppOptions { slots, ..exact(&model) };
                Ok(Box::new(LlamaCpp::open(&model, &options)?) as Box<dyn Backend>)
            };
            Engine::start(open, None, EngineConfig::default()).unwrap()
        };
        let first = tokens(30, 37, &model);
        let (shared, alone) = (start(2), start(1));
        let (answer, cached) = ask(&shared, &first, true);
        assert_eq!((&answer, cached), (&ask(&alone, &first, false).0, 0), "{architecture}");
        // The next turn continues the first prompt and its answer.
        let turn = [&first[..], &answer, &tokens(5, 11, &model)].concat();
        let (ids, cached) = ask(&shared, &turn, true);
        assert_eq!(ids, ask(&alone, &turn, false).0, "{architecture}: the next turn");
        assert_eq!(cached, 41, "{architecture}: all but the answer's last token was computed before");
        // Another ending, and then one token less.
        let other = [&first[..20], &tokens(9, 5, &model)].concat();
        for (prompt, what) in
            [(&other[..], "another ending"), (&first[..29], "a shorter prompt"), (&first, "again")]
        {
            let (ids, _) = ask(&shared, prompt, true);
            assert_eq!(ids, ask(&alone, prompt, false).0, "{architecture}: {what}");
        }
    }
}

/// A falcon model with another vocabulary.
fn with_vocabulary(kind: &str, dir: &Path) -> Model {
    let like = tiny("tiny-llama", "f32".parse().unwrap(), dir);
    let vocabulary = foreign::vocabulary(kind, &like.metadata);
    Model::open_any(&foreign::foreign("falcon", &vocabulary, dir)).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    tokenizer.encode(text, Encode::default()).unwrap()
}

#[test]
fn llama_cpp_tokenises_what_the_engine_can_not() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, text, count) in [
        ("bert", "the wind is warm and faster", 7),
        ("rwkv", "the wind is warm, é\u{301}\t\u{1F30A}", 14),
        ("bpe", "The wind's  way: 12345 é\r\n", 0),
    ] {
        let model = with_vocabulary(kind, dir.path());
        let own = Tokenizer::for_model(&model).unwrap_err();
        assert!(matches!(own, TokenizeError::Unsupported { .. }), "{kind}: {own}");
        let found = tokenizer(&model).unwrap();
        let ids = encode(&found, text);
        assert!(count == 0 || ids.len() == count, "{kind}: {ids:?}");
        assert_eq!(found.decode(&ids, true), text, "{kind}: {ids:?}");
        assert_eq!(found.vocab_size(), model.spec.vocab_size);
        // The same model generates with it.
        let mut backend = LlamaCpp::open(&model, &exact(&model)).unwrap();
        forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
    }
}

#[test]
fn special_tokens_are_the_engines_own() {
    let dir = tempfile::tempdir().unwrap();
    let found = tokenizer(&with_vocabulary("bert", dir.path())).unwrap();
    assert_eq!((found.bos(), found.eos(), found.adds_bos()), (Some(101), Some(102), true));
    let parsed = found.encode("[CLS]the[SEP]", Encode { parse_special: true, add_bos: false }).unwrap();
    assert_eq!((parsed[0], parsed[2], parsed.len()), (101, 102, 3));
    // As plain text they are what their characters are.
    let plain = encode(&found, "[CLS]");
    assert!(!plain.contains(&101), "{plain:?}");
    // A character without a token is the unknown token.
    assert_eq!(encode(&found, "\u{3042}"), [100]);
}

/// llama.cpp's regular expressions call themselves for each character of a long word.
#[test]
fn a_long_text_does_not_overflow_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let found = tokenizer(&with_vocabulary("bpe", dir.path())).unwrap();
    for text in ["a".repeat(256 << 10), " ".repeat(16 << 10), "\u{e9}".repeat(128 << 10)] {
        assert_eq!(found.decode(&encode(&found, &text), true), text);
    }
    let error = found.encode(&"a".repeat((256 << 10) + 1), Encode::default()).unwrap_err().to_string();
    assert!(error.contains("262145 bytes"), "{error}");
}

/// The list of architectures is llama.cpp's.
#[test]
fn llama_cpp_knows_the_architectures_that_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let like = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let known = |name: &str| {
        let path = foreign::bare(name, &like.metadata, dir.path());
        let model = Model::open_any(&path).ok()?;
        Some(tokenizer(&model).map_err(|error| error.to_string()))
    };
    let unknown = known("no-such-architecture").unwrap().unwrap_err();
    assert!(unknown.contains("unknown model architecture"), "{unknown}");
    let mut tried = 0;
    // gptj has a name in llama.cpp and nothing else.
    assert!(known("gptj").unwrap().is_err());
    for name in architectures::GENERATE {
        // Files of some families that our loader knows need more keys.
        let Some(found) = known(name) else { continue };
        found.unwrap_or_else(|error| panic!("{name}: {error}"));
        tried += 1;
    }
    assert!(tried + 15 >= architectures::GENERATE.len(), "{tried} architectures tried");
    for name in architectures::OTHERS.into_iter().filter(|name| *name != "clip") {
        if let Some(Err(error)) = known(name) {
            assert!(!error.contains("unknown model architecture"), "{name}: {error}");
        }
    }
}

#[test]
fn models_that_do_not_continue_a_text_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let like = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let path = foreign::bare("bert", &like.metadata, dir.path());
    let model = Model::open_any(&path).unwrap();
    assert!(LlamaCpp::open(&model, &exact(&model)).is_err());
}
