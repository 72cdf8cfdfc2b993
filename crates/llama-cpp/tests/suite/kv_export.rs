//! Keys and values that one context exports and another imports: the slot continues as if it had computed them, for every KV
//! type, with and without flash attention. Exports of another type, model or version are refused and change nothing.

use crate::common::{all, argmax, difference, forward, options, tiny};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, BatchError};
use zonda_engine::load::Model;
use zonda_llama_cpp::{KvType, LlamaCpp, LlamaCppOptions};

const PROMPT: usize = 60;

fn ids(n: usize, step: TokenId, model: &Model) -> Vec<TokenId> {
    (0..n as TokenId).map(|i| (i * step + 5) % model.spec.vocab_size as TokenId).collect()
}

fn open(model: &Model, kv_type: KvType, flash_attention: bool) -> LlamaCpp {
    let options = LlamaCppOptions { slots: 2, kv_type, flash_attention, ..options(model) };
    LlamaCpp::open(model, &options).unwrap()
}

/// An export of the prompt from a slot that has continued after it, and the prompt's rows.
fn export(backend: &mut LlamaCpp, model: &Model) -> (Vec<u8>, Vec<Vec<f32>>) {
    let rows = forward(backend, vec![all(0, 0, &ids(PROMPT, 37, model))]).unwrap();
    forward(backend, vec![all(0, PROMPT, &ids(9, 11, model))]).unwrap();
    let mut bytes = Vec::new();
    assert_eq!(backend.export_kv(0, PROMPT, &mut bytes).unwrap(), PROMPT);
    (bytes, rows)
}

fn refused(result: Result<usize, BackendError>) -> String {
    match result {
        Err(BackendError::Failed(why)) => why,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

/// As in `batches.rs`: kernels for one token and for many add in different orders. The keys and values have the same bits, so
/// coarser types are no further off.
fn bound(flash_attention: bool) -> f32 {
    if flash_attention { 5e-2 } else { 2e-4 }
}

#[test]
fn imported_tokens_continue_as_if_computed() {
    let dir = tempfile::tempdir().unwrap();
    for arch in ["tiny-llama", "tiny-qwen3moe"] {
        let model = tiny(arch, "f32".parse().unwrap(), dir.path());
        let prompt = ids(PROMPT, 37, &model);
        // Without flash attention llama.cpp does not support quantised values.
        let forms = [(KvType::F32, false), (KvType::F32, true), (KvType::F16, true), (KvType::Q8_0, true)];
        for (kv_type, flash_attention) in forms {
            let (bytes, rows) = export(&mut open(&model, kv_type, flash_attention), &model);
            let mut backend = open(&model, kv_type, flash_attention);
            // Makes the cells differ from those that were exported.
            forward(&mut backend, vec![all(0, 0, &ids(23, 5, &model))]).unwrap();
            for len in [1, 31, 32, 33, PROMPT - 1] {
                let what = format!("{arch}, {kv_type}, flash attention {flash_attention}, {len} tokens");
                assert_eq!(backend.import_kv(1, len, &bytes).unwrap(), len, "{what}");
                let rest = forward(&mut backend, vec![all(1, len, &prompt[len..])]).unwrap();
                for (i, (row, expected)) in rest.iter().zip(&rows[len..]).enumerate() {
                    let d = difference(row, expected);
                    assert!(d <= bound(flash_attention), "{what}: position {} is off by {d}", len + i);
                    let lead = expected[argmax(expected)] - expected[argmax(row)];
                    assert!(lead <= 2.0 * bound(flash_attention), "{what}: another best token");
                }
                assert_eq!(backend.truncate(1, 0).unwrap(), 0);
            }
            // Exports it again and imports it into the slot that it came from.
            assert_eq!(backend.import_kv(1, 40, &bytes).unwrap(), 40);
            let mut again = Vec::new();
            assert_eq!(backend.export_kv(1, 40, &mut again).unwrap(), 40);
            assert!(again.len() < bytes.len(), "40 tokens take less than {PROMPT}");
            backend.truncate(1, 0).unwrap();
            assert_eq!(backend.import_kv(1, 40, &again).unwrap(), 40);
            let rest = forward(&mut backend, vec![all(1, 40, &prompt[40..])]).unwrap();
            assert!(difference(&rest[19], &rows[59]) <= bound(flash_attention), "{arch}, {kv_type}");
        }
    }
}

#[test]
fn exports_do_not_change_the_slots() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let (prompt, other) = (ids(PROMPT, 37, &model), ids(50, 11, &model));
    let mut plain = open(&model, KvType::F32, false);
    let expected = forward(&mut plain, vec![all(0, 0, &prompt), all(1, 0, &other)]).unwrap();
    let mut backend = open(&model, KvType::F32, false);
    forward(&mut backend, vec![all(0, 0, &prompt[..40]), all(1, 0, &other[..30])]).unwrap();
    for len in [40, 17, 40] {
        let mut bytes = Vec::new();
        assert_eq!(backend.export_kv(0, len, &mut bytes).unwrap(), len);
        assert_eq!(backend.export_kv(1, 99, &mut bytes).unwrap(), 30, "at most the tokens in the slot");
    }
    assert_eq!(backend.export_kv(0, 0, &mut Vec::new()).unwrap(), 0);
    let rows = forward(&mut backend, vec![all(0, 40, &prompt[40..]), all(1, 30, &other[30..])]).unwrap();
    let expected = expected[40..60].iter().chain(&expected[90..]);
    for (i, (row, expected)) in rows.iter().zip(expected).enumerate() {
        assert!(difference(row, expected) <= bound(false), "row {i}");
    }
}

#[test]
fn foreign_exports_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let prompt = ids(PROMPT, 37, &model);
    let (own, rows) = export(&mut open(&model, KvType::F32, true), &model);
    let (f16, _) = export(&mut open(&model, KvType::F16, true), &model);
    let (transposed, _) = export(&mut open(&model, KvType::F32, false), &model);
    let mut backend = open(&model, KvType::F32, true);
    let why = refused(backend.import_kv(0, PROMPT, &f16));
    assert!(why.contains("f16") && why.contains("f32"), "{why}");
    assert!(refused(backend.import_kv(0, PROMPT, &transposed)).contains("could not take"));
    let version = zonda_llama_cpp::version();
    let at = own.windows(version.len()).position(|w| w == version.as_bytes()).unwrap();
    let mut foreign = own.clone();
    foreign[at] = b'9';
    assert!(refused(backend.import_kv(0, PROMPT, &foreign)).contains("another layout"));
    let line = own.iter().position(|&b| b == b'\n').unwrap() + 1;
    for cut in [0, 5, line, line + 3, line + 40, own.len() / 2, own.len() - 1] {
        refused(backend.import_kv(0, PROMPT, &own[..cut]));
    }
    refused(backend.import_kv(0, PROMPT, &[&own[..], b"more"].concat()));
    refused(backend.import_kv(0, PROMPT + 1, &own));
    assert!(matches!(backend.import_kv(2, 1, &own), Err(BackendError::NoSuchSlot { slot: 2, slots: 2 })));
    // The slot is still empty; a slot that is not empty is refused.
    let found = forward(&mut backend, vec![all(0, 0, &prompt)]).unwrap();
    assert!(difference(&found[59], &rows[59]) <= bound(true));
    let full = backend.import_kv(0, PROMPT, &own);
    assert!(matches!(full, Err(BackendError::Batch(BatchError::WrongStart { slot: 0, .. }))), "{full:?}");
    assert_eq!(backend.import_kv(1, PROMPT, &own).unwrap(), PROMPT);
}

#[test]
fn a_full_cache_refuses_imports() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let (own, rows) = export(&mut open(&model, KvType::F32, true), &model);
    // llama.cpp rounds the cache size up to 256 tokens.
    let options = LlamaCppOptions { slots: 4, kv_tokens: Some(256), ..options(&model) };
    let mut backend = LlamaCpp::open(&model, &options).unwrap();
    for slot in 0..2 {
        forward(&mut backend, vec![all(slot, 0, &ids(128, 11, &model))]).unwrap();
    }
    backend.truncate(1, 100).unwrap();
    assert!(refused(backend.import_kv(2, PROMPT, &own)).contains("could not take"));
    backend.truncate(0, 0).unwrap();
    assert_eq!(backend.import_kv(2, PROMPT - 1, &own).unwrap(), PROMPT - 1);
    let prompt = ids(PROMPT, 37, &model);
    let rest = forward(&mut backend, vec![all(2, PROMPT - 1, &prompt[PROMPT - 1..])]).unwrap();
    assert!(difference(&rest[0], &rows[PROMPT - 1]) <= bound(true));
}
