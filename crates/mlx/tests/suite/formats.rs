//! Weights in other forms: quantised by ggml, by MLX while loading, and in folders that MLX quantised.

use crate::common::{all, difference, forward, options, tiny};
use zonda_engine::TokenId;
use zonda_engine::forward::Backend;
use zonda_engine::load::Model;
use zonda_mlx::{Mlx, MlxOptions};
use zonda_testkit::goldens::{cases, folders};

/// ggml's types give the same logits whether they are held as floats or regrouped.
#[test]
fn gguf_types_compute_the_same_as_floats_and_regrouped() {
    let dir = tempfile::tempdir().unwrap();
    let types = [
        ("q4_0", "q4_g32"),
        ("q4_1", "q4_g32"),
        ("q8_0", "q8_g32"),
        ("q4_k_m", "q4_g32"),
        ("q6_k", "f32"),
        ("bf16", "f32"),
    ];
    for (mix, held) in types {
        let model = tiny("tiny-mixtral", mix.parse().unwrap(), dir.path());
        let ids: Vec<TokenId> = (0..30).map(|i| (i * 37 + 5) % model.spec.vocab_size as TokenId).collect();
        let run = |dequantize| {
            let options = MlxOptions { dequantize: Some(dequantize), ..options(&model) };
            let mut backend = Mlx::open(&model, &options).unwrap();
            (backend.info().weights, forward(&mut backend, vec![all(0, 0, &ids)]).unwrap())
        };
        let ((floats, expected), (regrouped, rows)) = (run(true), run(false));
        assert_eq!(floats, "f32");
        assert!(regrouped.split('+').any(|name| name == held), "{mix} is held as {regrouped}");
        for (i, (row, expected)) in rows.iter().zip(&expected).enumerate() {
            let d = difference(row, expected);
            assert!(d <= 2e-4, "{mix} as {regrouped}: position {i} is off by {d}");
        }
    }
}

/// The mean of `1 − cosine` between rows: 0 for the same function.
fn drift(rows: &[Vec<f32>], expected: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let rows_of = expected.chunks_exact(rows[0].len());
    let each = rows.iter().zip(rows_of).map(|(a, b)| 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    each.sum::<f64>() / rows.len() as f64
}

#[test]
fn quantising_while_loading_stays_close() {
    // At most about twice the cost of rounding in these tiny random models and their routers; a wrong layout costs 1.
    let bounds = [("q8", 3e-2), ("q4", 0.5)];
    let mut quantised = 0;
    for folder in folders() {
        let (ids, expected) = cases(&folder).pop().unwrap();
        let model = Model::open(&folder).unwrap();
        if zonda_mlx::unsupported(&model.spec).is_some() {
            continue;
        }
        for (name, bound) in bounds {
            let options = MlxOptions { quantize: Some(name.parse().unwrap()), ..options(&model) };
            let mut backend = Mlx::open(&model, &options).unwrap();
            let drift = drift(&forward(&mut backend, vec![all(0, 0, &ids)]).unwrap(), &expected);
            let held = backend.info().weights;
            println!("{} as {held}: {drift:.1e}", folder.file_name().unwrap().display());
            assert!(drift < bound, "{} as {name}: {drift}", folder.display());
            quantised += usize::from(held.contains(&format!("{name}_g64")));
        }
    }
    assert!(quantised >= 20, "{quantised} of them have rows of whole groups");
}
