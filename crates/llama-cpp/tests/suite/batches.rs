//! The trait's rules: chunks, batches, truncation and shared prefixes give the logits of one plain prefill; a batch that
//! breaks a rule changes nothing.

use crate::common::{all, argmax, difference, forward, options, tiny};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, BatchError, Span, Want};
use zonda_engine::load::Model;
use zonda_engine::make::synth_archs;
use zonda_llama_cpp::{KvType, LlamaCpp, LlamaCppOptions};

/// Kernels for one token and for many add in different orders, and flash attention's round to 16 bits at different places.
const BOUNDS: [(bool, f32); 2] = [(false, 2e-4), (true, 5e-2)];

fn tokens(n: usize, step: TokenId, model: &Model) -> Vec<TokenId> {
    (0..n as TokenId).map(|i| (i * step + 5) % model.spec.vocab_size as TokenId).collect()
}

/// A tiny model of every architecture with `slots` slots, with and without flash attention. `test` gets the name, the
/// model, the backend and how far logits may be off.
fn every_architecture(slots: usize, test: impl Fn(&str, &Model, &mut LlamaCpp, f32)) {
    let dir = tempfile::tempdir().unwrap();
    let tiny_archs = synth_archs().into_iter().filter(|a| a.name.starts_with("tiny-"));
    let mut archs = std::collections::HashSet::new();
    for arch in tiny_archs {
        let model = tiny(arch.name, "f32".parse().unwrap(), dir.path());
        let window = model.spec.windows.iter().flatten().copied().min().unwrap_or(128);
        for (flash_attention, bound) in BOUNDS {
            let context = Some(window.min(128));
            let options = LlamaCppOptions { slots, context, flash_attention, ..options(&model) };
            let mut backend = LlamaCpp::open(&model, &options).unwrap();
            let name = format!("{}, flash attention {flash_attention}", arch.name);
            test(&name, &model, &mut backend, bound);
        }
        archs.insert(arch.spec.architecture);
    }
    assert_eq!(archs.len(), 6, "a tiny shape of every architecture");
}

#[test]
fn chunks_and_decode_steps_give_the_logits_of_one_prefill() {
    every_architecture(1, |name, model, backend, bound| {
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
    });
}

#[test]
fn slots_in_one_batch_do_not_see_each_other() {
    every_architecture(3, |name, model, backend, bound| {
        let (a, b, c) = (tokens(21, 37, model), tokens(9, 11, model), tokens(30, 5, model));
        let mut alone = Vec::new();
        for (slot, ids) in [&a, &b, &c].into_iter().enumerate() {
            alone.push(forward(backend, vec![all(slot, 0, ids)]).unwrap());
            backend.truncate(slot, 0).unwrap();
        }
        // c first and in two parts, a with its last row only, b without rows and then one step
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
        let rows = forward(backend, vec![span(1, 8, &b[8..], Want::Last), span(2, 10, &c[10..], Want::All)])
            .unwrap();
        assert_eq!(rows.len(), 21);
        for (i, (row, expected)) in
            rows.iter().zip([&alone[1][8]].into_iter().chain(&alone[2][10..])).enumerate()
        {
            assert!(difference(row, expected) <= bound, "{name}: row {i} of the second batch");
        }
    });
}

#[test]
fn truncated_and_shared_prefixes_go_on_as_if_computed() {
    every_architecture(3, |name, model, backend, bound| {
        let ids = tokens(40, 37, model);
        let other = tokens(20, 11, model);
        let whole = forward(backend, vec![all(0, 0, &ids)]).unwrap();
        // another end, then back and the first end again
        assert_eq!(backend.truncate(0, 25).unwrap(), 25);
        forward(backend, vec![all(0, 25, &other)]).unwrap();
        assert_eq!(backend.truncate(0, 25).unwrap(), 25);
        assert_eq!(backend.truncate(0, 30).unwrap(), 25, "truncating never grows");
        // two more slots share the prefix and outlive its owner
        assert_eq!(backend.share_prefix(0, 1, 25).unwrap(), 25);
        assert_eq!(backend.share_prefix(1, 2, 99).unwrap(), 25);
        assert_eq!(backend.truncate(0, 0).unwrap(), 0);
        let spans = vec![all(2, 25, &ids[25..]), all(1, 25, &other)];
        let rows = forward(backend, spans).unwrap();
        for (i, (row, expected)) in rows.iter().zip(&whole[25..]).enumerate() {
            let d = difference(row, expected);
            assert!(d <= bound, "{name}: position {} is off by {d}", 25 + i);
        }
        let rows = forward(backend, vec![all(0, 0, &ids[..25])]).unwrap();
        assert!(difference(&rows[24], &whole[24]) <= bound, "{name}: the emptied slot begins anew");
    });
}

#[test]
fn batches_that_break_a_rule_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let limits = LlamaCppOptions { slots: 2, context: Some(64), batch_tokens: 48, ..options(&model) };
    let mut backend = LlamaCpp::open(&model, &limits).unwrap();
    let ids = tokens(60, 37, &model);
    let vocab = model.spec.vocab_size;
    forward(&mut backend, vec![all(0, 0, &ids[..20])]).unwrap();
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
        match forward(&mut backend, spans) {
            Err(BackendError::Batch(found)) => assert_eq!(found, expected),
            other => panic!("expected {expected:?}, found {other:?}"),
        }
    }
    assert!(matches!(backend.truncate(2, 0), Err(BackendError::NoSuchSlot { slot: 2, slots: 2 })));
    assert!(matches!(backend.share_prefix(0, 2, 1), Err(BackendError::NoSuchSlot { slot: 2, .. })));
    assert!(matches!(backend.share_prefix(0, 0, 1), Err(BackendError::Batch(BatchError::WrongStart { .. }))));
    assert_eq!(backend.share_prefix(1, 1, 9).unwrap(), 0, "an empty slot has nothing to share");
    assert_eq!(forward(&mut backend, vec![]).unwrap().len(), 0);
    // the slot is where it was, and a full context can be filled to its last token
    forward(&mut backend, vec![all(0, 20, &ids[..44])]).unwrap();
}

#[test]
fn a_full_cache_says_so_and_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    // llama.cpp rounds the room up to 256 tokens
    let options = LlamaCppOptions { slots: 3, kv_tokens: Some(256), ..options(&model) };
    let mut backend = LlamaCpp::open(&model, &options).unwrap();
    let ids = tokens(128, 37, &model);
    let whole = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
    forward(&mut backend, vec![all(1, 0, &ids[..127])]).unwrap();
    match forward(&mut backend, vec![all(2, 0, &ids[..2])]) {
        Err(BackendError::Batch(BatchError::KvFull { needed: 2, free: 1 })) => {}
        other => panic!("expected no room for 2 tokens, found {other:?}"),
    }
    let rows = forward(&mut backend, vec![all(1, 127, &ids[127..])]).unwrap();
    assert!(difference(&rows[0], &whole[127]) <= BOUNDS[1].1);
    backend.truncate(0, 0).unwrap();
    let rows = forward(&mut backend, vec![all(2, 0, &ids[..2])]).unwrap();
    assert!(difference(&rows[1], &whole[1]) <= BOUNDS[1].1);
}

#[test]
fn kv_types_and_threads_leave_the_best_token_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let ids = tokens(40, 37, &model);
    let mut rows = Vec::new();
    for (kv_type, threads, mmap) in [
        (KvType::F32, 1, true),
        (KvType::F32, 2, false),
        (KvType::F16, 2, true),
        (KvType::Q8_0, 2, true),
        (KvType::Q4_0, 2, true),
    ] {
        let cpus = (0..threads).collect();
        let options = LlamaCppOptions { kv_type, threads: Some(threads), cpus, mmap, ..options(&model) };
        let mut backend = LlamaCpp::open(&model, &options).unwrap();
        assert_eq!((backend.info().threads, backend.info().kv_type.as_str()), (threads, kv_type.name()));
        rows.push(forward(&mut backend, vec![all(0, 0, &ids)]).unwrap());
    }
    for (other, bound) in rows[1..].iter().zip([2e-4, 2e-2, 0.3, 3.0]) {
        for (i, (row, expected)) in other.iter().zip(&rows[0]).enumerate() {
            let d = difference(row, expected);
            assert!(d <= bound, "position {i}: off by {d}, expected at most {bound}");
            let lead = expected[argmax(expected)] - expected[argmax(row)];
            assert!(lead <= 2.0 * bound, "position {i}: another best token, {lead} behind");
        }
    }
}
