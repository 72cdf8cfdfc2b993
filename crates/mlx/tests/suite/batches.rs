//! The rules of the `Backend` trait (`zonda_testkit::rules`) for float and quantised weights; growing caches; KV types and
//! computation types; threads.

use crate::common::options;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_mlx::{Compute, KvType, Mlx, MlxOptions};
use zonda_testkit::goldens::{cases, folders};
use zonda_testkit::rules::{self, all, argmax, difference, forward, tiny, tokens};

/// Products with one row and with many add in different orders.
const BOUND: f32 = 2e-4;

/// Calls `test` with a name, a model of every architecture and its backend with three slots: made ones, and the checkpoints of
/// `testdata/hf`, where every option acts within 40 tokens.
fn every_architecture(test: impl Fn(&str, &Model, &mut dyn Backend, f32)) {
    rules::every_architecture(&["f32", "q4_0"], |arch, mix, model| {
        if zonda_mlx::unsupported(&model.spec).is_some() {
            return;
        }
        let options = MlxOptions { slots: 3, dequantize: Some(mix == "f32"), ..options(model) };
        test(&format!("{arch} {mix}"), model, &mut Mlx::open(model, &options).unwrap(), BOUND);
    });
    let mut run = 0;
    for folder in folders() {
        let model = Model::open(&folder).unwrap();
        if zonda_mlx::unsupported(&model.spec).is_none() {
            let options = MlxOptions { slots: 3, dequantize: Some(false), ..options(&model) };
            let name = folder.file_name().unwrap().to_string_lossy();
            test(&name, &model, &mut Mlx::open(&model, &options).unwrap(), BOUND);
            run += 1;
        }
    }
    assert!(run >= 35, "{run} checkpoints");
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
    let limits = MlxOptions { slots: 2, context: Some(64), batch_tokens: 48, ..options(&model) };
    rules::broken_batches(&model, &mut Mlx::open(&model, &limits).unwrap());
}

#[test]
fn a_full_cache_is_reported_and_the_backend_keeps_working() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    // Two pages of 256 tokens for three slots.
    let options = MlxOptions { slots: 3, kv_tokens: Some(300), ..options(&model) };
    let mut backend = Mlx::open(&model, &options).unwrap();
    assert_eq!((backend.limits().kv_tokens, backend.limits().kv_page), (512, 256));
    rules::full_cache(&model, &mut backend, (1, 0), BOUND);
    assert_eq!(backend.share_prefix(1, 0, 5).unwrap(), 0, "no room to share into");
}

#[test]
fn caches_grow_past_a_page_and_shared_prefixes_diverge() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let context = model.spec.context_length.min(700);
    assert!(context >= 600, "more than two pages");
    let wide = MlxOptions { slots: 2, context: Some(context), batch_tokens: context, ..options(&model) };
    let mut backend = Mlx::open(&model, &wide).unwrap();
    let ids = tokens(600, 37, &model);
    let whole = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
    // Slot 1 shares a prefix that ends at a page boundary and grows at once with other tokens.
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
fn kv_types_and_computation_types_do_not_change_the_best_token() {
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

/// As on GPUs, where weights keep the model's own type. On the CPU MLX refuses experts that are not in f32.
#[test]
fn every_option_is_computed_in_bf16() {
    for folder in folders() {
        let model = Model::open(&folder).unwrap();
        if zonda_mlx::unsupported(&model.spec).is_some() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        // The longest: which factors LongRoPE uses follows from the context that a backend was opened with.
        let (ids, expected) = cases(&folder).pop().unwrap();
        let options = MlxOptions { compute: Some(Compute::BF16), ..options(&model) };
        let mut backend = match Mlx::open(&model, &options) {
            Err(refused) if model.spec.moe.is_some() => {
                let refused = refused.to_string();
                assert!(refused.contains("experts in f32 only, not in bf16"), "{name}: {refused}");
                continue;
            }
            opened => opened.unwrap(),
        };
        assert!(model.spec.moe.is_none(), "{name}: experts in bf16");
        let rows = forward(&mut backend, vec![all(0, 0, &ids)]).unwrap();
        let computed = rows.concat();
        let size =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let off = size(&mut computed.iter().zip(&expected).map(|(a, b)| a - b));
        let share = off / size(&mut expected.iter().copied());
        println!("{name}: off by {share:.1e} of the logits' size");
        assert!(share <= 0.1, "{name}: off by {share:.1e} of the logits' size");
    }
}

#[test]
fn every_thread_can_have_its_own_model() {
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
