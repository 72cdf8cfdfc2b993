//! The rules of the `Backend` trait (`zonda_testkit::rules`) with and without flash attention; KV types; threads.

use crate::common::options;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_llama_cpp::{KvType, LlamaCpp, LlamaCppOptions};
use zonda_testkit::rules::{self, all, argmax, difference, forward, tiny, tokens};

/// Kernels for one token and for many add in different orders, and flash attention rounds to 16 bits at different places.
const BOUNDS: [(bool, f32); 2] = [(false, 2e-4), (true, 5e-2)];

/// Calls `test` with a name, a model of every architecture, its backend with three slots, and the bound for its logits.
fn every_architecture(test: impl Fn(&str, &Model, &mut dyn Backend, f32)) {
    rules::every_architecture(&["f32"], |arch, _, model| {
        let window = model.spec.windows.iter().flatten().copied().min().unwrap_or(128);
        for (flash_attention, bound) in BOUNDS {
            let context = Some(window.min(128));
            let options = LlamaCppOptions { slots: 3, context, flash_attention, ..options(model) };
            let name = format!("{arch}, flash attention {flash_attention}");
            test(&name, model, &mut LlamaCpp::open(model, &options).unwrap(), bound);
        }
    });
}

#[test]
fn chunks_and_decode_steps_give_the_logits_of_one_prefill() {
    every_architecture(rules::chunks);
}

#[test]
fn slots_in_one_batch_do_not_affect_each_other() {
    every_architecture(rules::slots_apart);
}

#[test]
fn truncated_and_shared_prefixes_continue_as_if_computed() {
    every_architecture(rules::prefixes);
}

#[test]
fn invalid_batches_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let limits = LlamaCppOptions { slots: 2, context: Some(64), batch_tokens: 48, ..options(&model) };
    rules::broken_batches(&model, &mut LlamaCpp::open(&model, &limits).unwrap());
}

#[test]
fn a_full_cache_is_reported_and_the_backend_keeps_working() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    // llama.cpp rounds the cache size up to 256 tokens.
    let options = LlamaCppOptions { slots: 3, kv_tokens: Some(256), ..options(&model) };
    rules::full_cache(&model, &mut LlamaCpp::open(&model, &options).unwrap(), (2, 1), BOUNDS[1].1);
}

#[test]
fn kv_types_and_threads_do_not_change_the_best_token() {
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
