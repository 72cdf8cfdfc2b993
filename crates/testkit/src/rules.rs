//! The rules of the `Backend` trait as tests for every backend: chunks, batches, truncation and shared prefixes give the
//! logits of one plain prefill; a batch that breaks a rule changes nothing.
//!
//! Each function panics when the backend breaks its rule. `bound` is the largest allowed difference between logits: 0.0
//! for a backend that promises the same bits.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use zonda_convert::{SynthSpec, synth, synth_archs};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, BatchError, Logits, Slot, Span, Want};
use zonda_engine::load::Model;
use zonda_engine::quant::Mix;

/// Writes a tiny model with random weights and opens it.
pub fn tiny(arch: &str, mix: Mix, dir: &Path) -> Model {
    let path = dir.join(format!("{arch}.gguf"));
    synth(&SynthSpec::find(arch).unwrap(), mix, &path, 7, &mut |_, _| {}).unwrap();
    Model::open(&path).unwrap()
}

/// Calls `test` with the name, the type and the model of a tiny model of every architecture in each of the types `mixes`.
pub fn every_architecture(mixes: &[&str], test: impl Fn(&str, &str, &Arc<Model>)) {
    let dir = tempfile::tempdir().unwrap();
    let mut found = HashSet::new();
    for arch in synth_archs().into_iter().filter(|a| a.name.starts_with("tiny-")) {
        for mix in mixes {
            test(arch.name, mix, &Arc::new(tiny(arch.name, mix.parse().unwrap(), dir.path())));
        }
        found.insert(arch.spec.architecture);
    }
    assert!(found.len() >= 6, "tiny shapes of {found:?}");
}

/// `n` token ids below the model's vocabulary size; `step` varies them.
pub fn tokens(n: usize, step: TokenId, model: &Model) -> Vec<TokenId> {
    (0..n as TokenId).map(|i| (i * step + 5) % model.spec.vocab_size as TokenId).collect()
}

/// Runs spans and returns the logits of each row, `[rows][vocab]`.
///
/// # Errors
/// Those of [`Backend::forward`].
pub fn forward(backend: &mut dyn Backend, spans: Vec<Span<'_>>) -> Result<Vec<Vec<f32>>, BackendError> {
    let mut out = Logits::new();
    backend.forward(&Batch { spans }, &mut out)?;
    Ok((0..out.rows()).map(|r| out.row(r).to_vec()).collect())
}

/// A span that wants the logits of every position.
pub fn all(slot: Slot, start: usize, tokens: &[TokenId]) -> Span<'_> {
    Span { slot, start, tokens, want: Want::All }
}

/// The largest absolute difference; NaN if any difference is NaN.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

/// The token with the highest logit; the lowest id among equals.
pub fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap()
}

/// A prompt of 40 tokens in chunks and token by token gives the logits of one prefill. Needs one slot.
pub fn chunks(name: &str, model: &Model, backend: &mut dyn Backend, bound: f32) {
    let ids = tokens(40, 37, model);
    let whole = forward(backend, vec![all(0, 0, &ids)]).unwrap();
    for cuts in [vec![1, 17, 40], (1..=40).collect::<Vec<_>>()] {
        backend.truncate(0, 0).unwrap();
        let mut start = 0;
        for cut in cuts {
            let rows = forward(backend, vec![all(0, start, &ids[start..cut])]).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let d = difference(row, &whole[start + i]);
                assert!(d <= bound, "{name}: position {} is off by {d}", start + i);
            }
            start = cut;
        }
    }
    backend.truncate(0, 0).unwrap();
}

/// Slots of one batch do not affect each other. Needs three slots.
pub fn slots_apart(name: &str, model: &Model, backend: &mut dyn Backend, bound: f32) {
    let (a, b, c) = (tokens(21, 37, model), tokens(9, 11, model), tokens(30, 5, model));
    let mut alone = Vec::new();
    for (slot, ids) in [&a, &b, &c].into_iter().enumerate() {
        alone.push(forward(backend, vec![all(slot, 0, ids)]).unwrap());
        backend.truncate(slot, 0).unwrap();
    }
    // Slot c comes first and in two parts, a requests only its last row, b requests no rows and then one.
    let span = |slot, start, tokens, want| Span { slot, start, tokens, want };
    let first = vec![
        span(2, 0, &c[..10], Want::All),
        span(0, 0, &a[..], Want::Last),
        span(1, 0, &b[..8], Want::None),
    ];
    let rows = forward(backend, first).unwrap();
    assert_eq!(rows.len(), 11);
    let expected = alone[2][..10].iter().chain([&alone[0][20]]);
    for (i, (row, expected)) in rows.iter().zip(expected).enumerate() {
        assert!(difference(row, expected) <= bound, "{name}: row {i} of the first batch");
    }
    let second = vec![span(1, 8, &b[8..], Want::Last), span(2, 10, &c[10..], Want::All)];
    let rows = forward(backend, second).unwrap();
    assert_eq!(rows.len(), 21);
    let expected = [&alone[1][8]].into_iter().chain(&alone[2][10..]);
    for (i, (row, expected)) in rows.iter().zip(expected).enumerate() {
        assert!(difference(row, expected) <= bound, "{name}: row {i} of the second batch");
    }
    (0..3).for_each(|slot| assert_eq!(backend.truncate(slot, 0).unwrap(), 0));
}

/// Truncated and shared prefixes continue as if computed anew. Needs three slots.
pub fn prefixes(name: &str, model: &Model, backend: &mut dyn Backend, bound: f32) {
    let ids = tokens(40, 37, model);
    let other = tokens(20, 11, model);
    let whole = forward(backend, vec![all(0, 0, &ids)]).unwrap();
    // A different ending, then truncation and the first ending again.
    assert_eq!(backend.truncate(0, 25).unwrap(), 25);
    forward(backend, vec![all(0, 25, &other)]).unwrap();
    assert_eq!(backend.truncate(0, 25).unwrap(), 25);
    assert_eq!(backend.truncate(0, 30).unwrap(), 25, "truncating never grows");
    // Two more slots share the prefix and outlive its owner.
    assert_eq!(backend.share_prefix(0, 1, 25).unwrap(), 25);
    assert_eq!(backend.share_prefix(1, 2, 99).unwrap(), 25);
    assert_eq!(backend.truncate(0, 0).unwrap(), 0);
    let rows = forward(backend, vec![all(2, 25, &ids[25..]), all(1, 25, &other)]).unwrap();
    for (i, (row, expected)) in rows.iter().zip(&whole[25..]).enumerate() {
        let d = difference(row, expected);
        assert!(d <= bound, "{name}: position {} is off by {d}", 25 + i);
    }
    let rows = forward(backend, vec![all(0, 0, &ids[..25])]).unwrap();
    assert!(difference(&rows[24], &whole[24]) <= bound, "{name}: the emptied slot starts again");
}

/// A batch that breaks a rule changes nothing. Needs two slots of 64 tokens, and batches of at most 48.
pub fn broken_batches(model: &Model, backend: &mut dyn Backend) {
    let ids = tokens(60, 37, model);
    let vocab = model.spec.vocab_size;
    forward(backend, vec![all(0, 0, &ids[..20])]).unwrap();
    let bad = [vocab as TokenId];
    let cases: Vec<(Vec<Span<'_>>, BatchError)> = vec![
        (vec![all(0, 20, &ids[..49])], BatchError::TooManyTokens { tokens: 49, limit: 48 }),
        (vec![all(2, 0, &ids[..1])], BatchError::NoSuchSlot { slot: 2, slots: 2 }),
        (vec![all(1, 0, &ids[..1]), all(1, 1, &ids[..1])], BatchError::SlotTwice { slot: 1 }),
        (vec![all(1, 0, &[])], BatchError::EmptySpan { slot: 1 }),
        (vec![all(0, 19, &ids[..1])], BatchError::WrongStart { slot: 0, start: 19, len: 20 }),
        (vec![all(0, 20, &ids[..45])], BatchError::ContextFull { slot: 0, end: 65, limit: 64 }),
        (vec![all(0, 20, &bad)], BatchError::NoSuchToken { token: bad[0], vocab }),
    ];
    for (spans, expected) in cases {
        match forward(backend, spans) {
            Err(BackendError::Batch(found)) => assert_eq!(found, expected),
            other => panic!("expected {expected:?}, found {other:?}"),
        }
    }
    assert!(matches!(backend.truncate(2, 0), Err(BackendError::NoSuchSlot { slot: 2, slots: 2 })));
    assert!(matches!(backend.share_prefix(0, 2, 1), Err(BackendError::NoSuchSlot { slot: 2, .. })));
    assert!(matches!(backend.share_prefix(0, 0, 1), Err(BackendError::Batch(BatchError::WrongStart { .. }))));
    assert_eq!(backend.share_prefix(1, 1, 9).unwrap(), 0, "an empty slot has nothing to share");
    assert_eq!(forward(backend, vec![]).unwrap().len(), 0);
    // The slot is unchanged, and a context can be filled to the last token.
    forward(backend, vec![all(0, 20, &ids[..44])]).unwrap();
}

/// A full cache is an error with `full = (needed, free)`, and the backend keeps working. Needs three slots of 128 tokens
/// and KV room for two of them.
pub fn full_cache(model: &Model, backend: &mut dyn Backend, full: (usize, usize), bound: f32) {
    let ids = tokens(128, 37, model);
    let whole = forward(backend, vec![all(0, 0, &ids)]).unwrap();
    forward(backend, vec![all(1, 0, &ids[..127])]).unwrap();
    match forward(backend, vec![all(2, 0, &ids[..2])]) {
        Err(BackendError::Batch(BatchError::KvFull { needed, free })) => assert_eq!((needed, free), full),
        other => panic!("expected `KvFull`, found {other:?}"),
    }
    let rows = forward(backend, vec![all(1, 127, &ids[127..])]).unwrap();
    assert!(difference(&rows[0], &whole[127]) <= bound);
    backend.truncate(0, 0).unwrap();
    let rows = forward(backend, vec![all(2, 0, &ids[..2])]).unwrap();
    assert!(difference(&rows[1], &whole[1]) <= bound);
}
