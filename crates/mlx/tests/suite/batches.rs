//! The trait's rules: chunks, batches, truncation and shared prefixes give the logits of one plain prefill; a batch that
//! breaks a rule changes nothing.

use crate::common::{all, argmax, difference, forward, options, tiny};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, BatchError, Span, Want};
use zonda_engine::load::Model;
use zonda_engine::make::synth_archs;
use zonda_mlx::{Compute, KvType, Mlx, MlxOptions};

/// Products of one row and of many add in different orders.
const BOUND: f32 = 2e-4;

fn tokens(n: usize, step: TokenId, model: &Model) -> Vec<TokenId> {
    (0..n as TokenId).map(|i| (i * step + 5) % model.spec.vocab_size as TokenId).collect()
}

/// A tiny model of every architecture with `slots` slots, its weights as floats and as they are quantised. `test` gets the
/// name, the model and the backend.
fn every_architecture(slots: usize, test: impl Fn(&str, &Model, &mut Mlx)) {
    let dir = tempfile::tempdir().unwrap();
    let tiny_archs = synth_archs().into_iter().filter(|a| a.name.starts_with("tiny-"));
    let mut archs = std::collections::HashSet::new();
    for arch in tiny_archs {
        for (mix, dequantize) in [("f32", true), ("q4_0", false)] {
            let model = tiny(arch.name, mix.parse().unwrap(), dir.path());
            let options = MlxOptions { slots, dequantize: Some(dequantize), ..options(&model) };
            let mut backend = Mlx::open(&model, &options).unwrap();
            test(&format!("{} {mix}", arch.name), &model, &mut backend);
        }
        archs.insert(arch.spec.architecture);
    }
    assert_eq!(archs.len(), 6, "a tiny shape of every architecture");
}

#[test]
fn chunks_and_decode_steps_give_the_logits_of_one_prefill() {
    every_architecture(1, |name, model, backend| {
        let ids = tokens(40, 37, model);
        let whole = forward(backend, vec![all(0, 0, &ids)]).unwrap();
        for cuts in [vec![1, 17, 40], (1..=40).collect::<Vec<_>>()] {
            backend.truncate(0, 0).unwrap();
            let mut start = 0;
            for cut in cuts {
                let rows = forward(backend, vec![all(0, start, &ids[start..cut])]).unwrap();
                for (i, row) in rows.iter().enumerate() {
                    let d = difference(row, &whole[start + i]);
                    assert!(d <= BOUND, "{name}: position {} is off by {d}", start + i);
                }
                start = cut;
            }
        }
    });
}

#[test]
fn slots_in_one_batch_do_not_see_each_other() {
    every_architecture(3, |name, model, backend| {
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
            assert!(difference(row, expected) <= BOUND, "{name}: row {i} of the first batch");
        }
        let rows = forward(backend, vec![span(1, 8, &b[8..], Want::Last), span(2, 10, &c[10..], Want::All)])
            .unwrap();
        assert_eq!(rows.len(), 21);
        for (i, (row, expected)) in
            rows.iter().zip([&alone[1][8]].into_iter().chain(&alone[2][10..])).enumerate()
        {
            assert!(difference(row, expected) <= BOUND, "{name}: row {i} of the second batch");
        }
    });
}

#[test]
fn truncated_and_shared_prefixes_go_on_as_if_computed() {
    every_architecture(3, |name, model, backend| {
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
            assert!(d <= BOUND, "{name}: position {} is off by {d}", 25 + i);
        }
        let rows = forward(backend, vec![all(0, 0, &ids[..25])]).unwrap();
        assert!(difference(&rows[24], &whole[24]) <= BOUND, "{name}: the emptied slot begins anew");
    });
}

#[test]
fn batches_that_break_a_rule_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let limits = MlxOptions { slots: 2, context: Some(64), batch_tokens: 48, ..options(&model) };
    let mut backend = Mlx::open(&model, &limits).unwrap();
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
    // two pages of 256 tokens for three slots
    let options = MlxOptions { slots: 3, kv_tokens: Some(300), ..options(&model) };
    let mut backend = Mlx::open(&model, &options).unwrap();
    assert_eq!((backend.limits().kv_tokens, backend.limits().kv_page), (512, 256));
    let ids = tokens(128, 37, &model);
    let whole = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
    forward(&mut backend, vec![all(1, 0, &ids[..127])]).unwrap();
    match forward(&mut backend, vec![all(2, 0, &ids[..2])]) {
        Err(BackendError::Batch(BatchError::KvFull { needed: 1, free: 0 })) => {}
        other => panic!("expected no room, found {other:?}"),
    }
    assert_eq!(backend.share_prefix(0, 2, 5).unwrap(), 0, "no room to share into");
    let rows = forward(&mut backend, vec![all(1, 127, &ids[127..])]).unwrap();
    assert!(difference(&rows[0], &whole[127]) <= BOUND);
    backend.truncate(0, 0).unwrap();
    let rows = forward(&mut backend, vec![all(2, 0, &ids[..2])]).unwrap();
    assert!(difference(&rows[1], &whole[1]) <= BOUND);
}

#[test]
fn caches_grow_past_a_page_and_shared_ones_apart() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let context = model.spec.context_length.min(700);
    assert!(context >= 600, "two pages and a bit");
    let wide = MlxOptions { slots: 2, context: Some(context), batch_tokens: context, ..options(&model) };
    let mut backend = Mlx::open(&model, &wide).unwrap();
    let ids = tokens(600, 37, &model);
    let whole = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
    // slot 1 shares a prefix that ends on a page and grows at once, with other tokens
    assert_eq!(backend.share_prefix(0, 1, 256).unwrap(), 256);
    forward(&mut backend, vec![all(1, 256, &tokens(200, 11, &model))]).unwrap();
    assert_eq!(backend.truncate(0, 599).unwrap(), 599);
    let rows = forward(&mut backend, vec![all(0, 599, &ids[599..])]).unwrap();
    assert!(difference(&rows[0], &whole[599]) <= BOUND, "the donor is untouched");
    assert_eq!(backend.truncate(1, 256).unwrap(), 256);
    let rows = forward(&mut backend, vec![all(1, 256, &ids[256..])]).unwrap();
    for (i, (row, expected)) in rows.iter().zip(&whole[256..]).enumerate() {
        let d = difference(row, expected);
        assert!(d <= BOUND, "position {} is off by {d}", 256 + i);
    }
}

#[test]
fn kv_types_and_the_type_computed_in_leave_the_best_token_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let ids = tokens(40, 37, &model);
    let run = |compute, kv_type, labels: (&str, &str)| {
        let options = MlxOptions { compute: Some(compute), kv_type, ..options(&model) };
        let mut backend = Mlx::open(&model, &options).unwrap();
        let info = backend.info();
        assert_eq!((info.weights.as_str(), info.kv_type.as_str()), labels);
        forward(&mut backend, vec![all(0, 0, &ids)]).unwrap()
    };
    let exact = run(Compute::F32, None, ("f32", "f32"));
    let others = [
        (Compute::F32, Some(KvType::F16), ("f32", "f16"), 2e-2),
        (Compute::F16, None, ("f16", "f16"), 5e-2),
        (Compute::BF16, None, ("bf16", "bf16"), 0.4),
    ];
    for (compute, kv_type, labels, bound) in others {
        for (i, (row, expected)) in run(compute, kv_type, labels).iter().zip(&exact).enumerate() {
            let d = difference(row, expected);
            assert!(d <= bound, "{labels:?}, position {i}: off by {d}, expected at most {bound}");
            let lead = expected[argmax(expected)] - expected[argmax(row)];
            assert!(lead <= 2.0 * bound, "{labels:?}, position {i}: another best token, {lead} behind");
        }
    }
}

#[test]
fn every_thread_can_have_a_model_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let ids = tokens(20, 37, &model);
    let run = || forward(&mut Mlx::open(&model, &options(&model)).unwrap(), vec![all(0, 0, &ids)]).unwrap();
    let here = run();
    let there = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>()
    });
    for rows in there {
        for (row, expected) in rows.iter().zip(&here) {
            assert!(difference(row, expected) <= BOUND);
        }
    }
}
