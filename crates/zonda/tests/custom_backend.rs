//! The backend of `examples/custom_backend` follows the rules of the `Backend` trait (`zonda_testkit::rules`) and generates.

#[path = "../examples/custom_backend/bigram.rs"]
mod bigram;

use bigram::Bigram;
use zonda::{Backend, Limits, Model, ModelFiles};
use zonda_testkit::rules;

/// A model for its vocabulary, and a backend trained on its first tokens.
fn with(limits: Limits, test: impl FnOnce(&ModelFiles, &mut Bigram)) {
    let dir = tempfile::tempdir().unwrap();
    let model = rules::tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let mut backend = Bigram::new(model.spec.clone(), limits, &rules::tokens(200, 37, &model));
    test(&model, &mut backend);
}

fn limits(slots: usize, context: usize, batch_tokens: usize, kv_tokens: usize) -> Limits {
    Limits { slots, batch_tokens, context, kv_tokens, kv_page: 1 }
}

#[test]
fn chunks_slots_and_prefixes_give_the_logits_of_one_prefill() {
    type Rule = fn(&str, &ModelFiles, &mut dyn Backend, f32);
    for rule in [rules::chunks as Rule, rules::slots_apart, rules::prefixes] {
        with(limits(3, 128, 128, 384), |model, backend| rule("bigram", model, backend, 0.0));
    }
}

#[test]
fn invalid_batches_change_nothing() {
    with(limits(2, 64, 48, 128), |model, backend| rules::broken_batches(model, backend));
}

#[test]
fn a_full_cache_is_reported() {
    with(limits(3, 128, 128, 256), |model, backend| rules::full_cache(model, backend, (2, 1), 0.0));
}

#[test]
fn it_generates_what_it_was_trained_on() {
    with(limits(2, 64, 48, 128), |model, _| {
        let (spec, text) = (model.spec.clone(), rules::tokens(50, 1, model));
        let expected = text[4..8].to_vec();
        let prompt = zonda::Prompt::Tokens(text[..4].to_vec());
        let open = move || Ok(Box::new(Bigram::new(spec, limits(2, 64, 48, 128), &text)) as _);
        let model = Model::from_backend(open, None).unwrap();
        let answer = model.request(prompt).max_tokens(4).temperature(0.0).send().unwrap();
        assert_eq!((answer.tokens, model.name()), (expected, "bigram"));
    });
}
