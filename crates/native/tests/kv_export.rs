//! Keys and values that one backend exports and another imports: the slot continues bit for bit as if it had computed them,
//! for every KV type and any number of tokens. The tests do not depend on the layout of pages in memory.

use std::sync::Arc;
use zonda_convert::{SynthSpec, synth};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, BatchError, Logits, Slot, Span, Want};
use zonda_engine::load::Model;
use zonda_kernels::attention::{KvType, PAGE};
use zonda_native::{Native, NativeOptions};

/// Tokens of the prompt: three pages and part of a fourth.
const PROMPT: usize = 3 * PAGE + 5;

fn model(arch: &str, layers: usize, folder: &std::path::Path) -> Arc<Model> {
    let path = folder.join(format!("{arch}-{layers}.gguf"));
    let spec = SynthSpec::find(arch).unwrap().with_layers(layers).unwrap();
    synth(&spec, "q8_0".parse().unwrap(), &path, 3, &mut |_, _| {}).unwrap();
    Arc::new(Model::open(&path).unwrap())
}

fn open(model: &Arc<Model>, kv_type: KvType, kv_tokens: Option<usize>) -> Native {
    let options = NativeOptions {
        threads: Some(2),
        kv_type,
        slots: 2,
        context: Some(160),
        kv_tokens,
        ..NativeOptions::default()
    };
    Native::open(model, &options).unwrap()
}

/// The rows of every token, `[tokens][vocab]`.
fn forward(native: &mut Native, slot: Slot, start: usize, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let mut out = Logits::new();
    native.forward(&Batch { spans: vec![Span { slot, start, tokens, want: Want::All }] }, &mut out).unwrap();
    (0..out.rows()).map(|r| out.row(r).to_vec()).collect()
}

/// Continues greedily from a row of logits.
fn greedy(native: &mut Native, slot: Slot, start: usize, row: &[f32], n: usize) -> Vec<TokenId> {
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as TokenId;
    let mut tokens = vec![best(row)];
    for at in start..start + n {
        let rows = forward(native, slot, at, &tokens[tokens.len() - 1..]);
        tokens.push(best(&rows[0]));
    }
    tokens
}

fn prompt(model: &Model, n: usize, step: TokenId) -> Vec<TokenId> {
    (0..n as TokenId).map(|i| (i * step + 5) % model.spec.vocab_size as TokenId).collect()
}

/// An export of the prompt from a slot that has continued after it, the prompt's rows, and the tokens that followed.
fn export(model: &Arc<Model>, kv_type: KvType) -> (Vec<u8>, Vec<Vec<f32>>, Vec<TokenId>) {
    let mut native = open(model, kv_type, None);
    let rows = forward(&mut native, 0, 0, &prompt(model, PROMPT, 37));
    let after = greedy(&mut native, 0, PROMPT, &rows[PROMPT - 1], 12);
    let mut bytes = Vec::new();
    assert_eq!(native.export_kv(0, PROMPT, &mut bytes).unwrap(), PROMPT);
    (bytes, rows, after)
}

fn refused(result: Result<usize, BackendError>) -> String {
    match result {
        Err(BackendError::Failed(why)) => why,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[test]
fn imported_tokens_continue_as_if_computed() {
    let folder = tempfile::tempdir().unwrap();
    // One model with a window of 64, shorter than the prompt, and one without a window.
    for arch in ["tiny-mistral", "tiny-llama"] {
        let model = model(arch, 2, folder.path());
        let ids = prompt(&model, PROMPT, 37);
        for kv_type in KvType::ALL {
            let (bytes, rows, after) = export(&model, kv_type);
            let (mut native, mut plain) = (open(&model, kv_type, None), open(&model, kv_type, None));
            // Makes the pages differ from those that were exported.
            forward(&mut native, 0, 0, &prompt(&model, 40, 11));
            for len in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, PROMPT - 1] {
                let what = format!("{arch}, {}, {len} tokens", kv_type.name());
                assert_eq!(native.import_kv(1, len, &bytes).unwrap(), len, "{what}");
                let rest = forward(&mut native, 1, len, &ids[len..]);
                // Truncated at the same place, with everything computed.
                plain.truncate(0, 0).unwrap();
                forward(&mut plain, 0, 0, &ids[..len]);
                let computed = forward(&mut plain, 0, len, &ids[len..]);
                assert!(rest == computed, "{what}: other logits than without the import");
                println!("{what}: cut or whole, the same: {}", computed == rows[len..]);
                assert_eq!(greedy(&mut native, 1, PROMPT, &rest[rest.len() - 1], 12), after, "{what}");
                assert_eq!(native.truncate(1, 0).unwrap(), 0);
            }
            // The imported tokens can be exported again.
            let (len, mut again) = (PROMPT - 1, Vec::new());
            native.import_kv(1, len, &bytes).unwrap();
            assert_eq!(native.export_kv(1, len, &mut again).unwrap(), len);
            native.truncate(0, 0).unwrap();
            native.import_kv(0, len, &again).unwrap();
            let rest = forward(&mut native, 0, len, &ids[len..]);
            plain.truncate(0, len).unwrap();
            let computed = forward(&mut plain, 0, len, &ids[len..]);
            assert!(rest == computed, "{arch}, {}", kv_type.name());
        }
    }
}

#[test]
fn an_imported_prefix_can_be_shared() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("tiny-llama", 2, folder.path());
    let ids = prompt(&model, PROMPT, 37);
    let (bytes, rows, _) = export(&model, KvType::F16);
    let mut native = open(&model, KvType::F16, None);
    let len = PAGE + 9;
    native.import_kv(0, len, &bytes).unwrap();
    assert_eq!(native.share_prefix(0, 1, len).unwrap(), len);
    forward(&mut native, 1, len, &prompt(&model, 20, 11));
    assert_eq!(forward(&mut native, 0, len, &ids[len..]), rows[len..], "the other's tokens are its own");
}

#[test]
fn foreign_exports_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (llama, deeper) = (model("tiny-llama", 2, folder.path()), model("tiny-llama", 3, folder.path()));
    let ids = prompt(&llama, PROMPT, 37);
    let mut exports = Vec::new();
    for kv_type in KvType::ALL {
        exports.push((kv_type, export(&llama, kv_type).0));
    }
    for (kv_type, own) in &exports {
        let mut native = open(&llama, *kv_type, None);
        for (other, bytes) in exports.iter().filter(|(other, _)| other != kv_type) {
            let why = refused(native.import_kv(0, PROMPT, bytes));
            assert!(why.contains(other.name()) && why.contains(kv_type.name()), "{why}");
        }
        // Another version: the first number in the header line.
        let digit = own.iter().position(u8::is_ascii_digit).unwrap();
        let mut foreign = own.clone();
        foreign[digit] = b'0';
        assert!(refused(native.import_kv(0, PROMPT, &foreign)).contains("version 0"));
        for bad in [&own[..own.len() - 1], &own[..digit], &[], &[&own[..], &[0]].concat(), b"no line at all"]
        {
            refused(native.import_kv(0, PROMPT, bad));
        }
        let why = refused(native.import_kv(0, PROMPT + PAGE, own));
        assert!(why.contains("bytes of keys and values"), "{why}");
        assert!(matches!(native.import_kv(9, 1, own), Err(BackendError::NoSuchSlot { slot: 9, slots: 2 })));
        // The slot is still empty; a slot that is not empty is refused.
        let rows = forward(&mut native, 0, 0, &ids);
        let full = native.import_kv(0, PROMPT, own);
        assert!(matches!(full, Err(BackendError::Batch(BatchError::WrongStart { slot: 0, .. }))), "{full:?}");
        assert_eq!(native.import_kv(1, PROMPT, own).unwrap(), PROMPT);
        native.truncate(0, PROMPT - 1).unwrap();
        assert_eq!(forward(&mut native, 0, PROMPT - 1, &ids[PROMPT - 1..])[0], rows[PROMPT - 1]);
    }
    let why = refused(open(&deeper, exports[0].0, None).import_kv(0, PROMPT, &exports[0].1));
    assert!(why.contains("2 layers") && why.contains("3 layers"), "{why}");
}

#[test]
fn exports_with_nan_or_infinity_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("tiny-llama", 2, folder.path());
    let ids = prompt(&model, PROMPT, 37);
    for kv_type in KvType::ALL {
        let (bytes, rows, _) = export(&model, kv_type);
        let mut native = open(&model, kv_type, None);
        let head = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let page = (bytes.len() - head) / 4 / model.spec.layers / model.spec.kv_heads;
        // The last two bytes of a page are of a value or a scale of position 31; the fourth page has 5 positions.
        for (nth, used) in [(0, true), (1, true), (3, false), (4, true)] {
            let mut bad = bytes.clone();
            let end = head + (nth + 1) * page;
            bad[end - 2..end].copy_from_slice(&0x7f80_u16.to_ne_bytes());
            if used {
                let why = refused(native.import_kv(0, PROMPT, &bad));
                assert!(why.contains("NaN or infinity"), "{why}");
            }
            // Without the damaged page it can be used.
            let len = if used { nth % 4 * PAGE } else { PROMPT - 1 };
            if nth < 4 && len > 0 {
                assert_eq!(native.import_kv(0, len, &bad).unwrap(), len);
                assert_eq!(native.truncate(0, 0).unwrap(), 0);
            }
        }
        native.import_kv(0, PROMPT - 1, &bytes).unwrap();
        assert_eq!(
            forward(&mut native, 0, PROMPT - 1, &ids[PROMPT - 1..])[0],
            rows[PROMPT - 1],
            "{}",
            kv_type.name()
        );
    }
}

#[test]
fn a_full_cache_refuses_imports() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("tiny-llama", 2, folder.path());
    let (bytes, rows, _) = export(&model, KvType::F16);
    // Five pages: slot 0 takes two, and the prompt needs four.
    let mut native = open(&model, KvType::F16, Some(5 * PAGE));
    forward(&mut native, 0, 0, &prompt(&model, PAGE + 1, 11));
    let why = refused(native.import_kv(1, PROMPT, &bytes));
    assert!(why.contains("4 pages needed, 3 free"), "{why}");
    assert_eq!(native.import_kv(1, 3 * PAGE, &bytes).unwrap(), 3 * PAGE);
    native.truncate(0, 0).unwrap();
    let ids = prompt(&model, PROMPT, 37);
    assert_eq!(forward(&mut native, 1, 3 * PAGE, &ids[3 * PAGE..]), rows[3 * PAGE..]);
}

/// Keys are turned by factors that the context decides.
#[test]
fn keys_of_other_long_rope_factors_are_refused() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/phi3_long");
    let model = Arc::new(Model::open(&path).unwrap());
    let open = |context: usize| {
        let options = NativeOptions { threads: Some(1), context: Some(context), ..NativeOptions::default() };
        Native::open(&model, &options).unwrap()
    };
    let (mut short, mut long, mut bytes) = (open(64), open(65), Vec::new());
    let tokens = prompt(&model, 40, 37);
    forward(&mut short, 0, 0, &tokens);
    assert_eq!(short.export_kv(0, 40, &mut bytes).unwrap(), 40);
    let why = refused(long.import_kv(0, 40, &bytes));
    assert!(why.contains("another layout") && why.contains("long RoPE factors"), "{why}");
    assert_eq!(open(63).import_kv(0, 40, &bytes).unwrap(), 40);
}
