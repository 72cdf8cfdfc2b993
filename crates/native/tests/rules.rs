//! The rules of the `Backend` trait (`zonda_testkit::rules`) on every instruction set: no bit may depend on chunks, batches or
//! shared pages.

use std::sync::Arc;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_kernels::Isa;
use zonda_kernels::attention::KvType;
use zonda_native::{Native, NativeOptions};
use zonda_testkit::rules;

fn options(model: &Model) -> NativeOptions {
    let context = Some(128.min(model.spec.context_length));
    NativeOptions { threads: Some(2), context, ..NativeOptions::default() }
}

/// A tiny model for tests that do not depend on the architecture.
fn llama() -> Arc<Model> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(rules::tiny("tiny-llama", "f32".parse().unwrap(), dir.path()))
}

/// Calls `test` with a name, a model of every architecture and its backend with three slots.
fn every_architecture(test: impl Fn(&str, &Model, &mut dyn Backend, f32)) {
    rules::every_architecture(&["f32", "q4_0"], |arch, mix, model| {
        for isa in Isa::all() {
            for kv_type in [KvType::F16, KvType::Q8_0] {
                let options = NativeOptions { slots: 3, isa: Some(isa), kv_type, ..options(model) };
                let name = format!("{arch} {mix}, {kv_type:?}, {}", isa.describe());
                test(&name, model, &mut Native::open(model, &options).unwrap(), 0.0);
            }
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
    let model = llama();
    let limits = NativeOptions { slots: 2, context: Some(64), batch_tokens: 48, ..options(&model) };
    rules::broken_batches(&model, &mut Native::open(&model, &limits).unwrap());
}

#[test]
fn a_full_cache_is_reported_and_the_backend_keeps_working() {
    let model = llama();
    // Eight pages of 32 tokens for three slots.
    let options = NativeOptions { slots: 3, kv_tokens: Some(256), ..options(&model) };
    rules::full_cache(&model, &mut Native::open(&model, &options).unwrap(), (1, 0), 0.0);
}
