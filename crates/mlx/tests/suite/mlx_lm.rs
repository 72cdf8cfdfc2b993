//! Against mlx-lm (`testdata/mlx`): folders quantised by mlx-lm or by us give mlx-lm's logits and greedy tokens.

use crate::common::{all, difference, forward, options, testdata};
use safetensors::SafeTensors;
use std::path::Path;
use zonda_convert::{convert, convert_to_mlx};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Span, Want};
use zonda_engine::load::{Affine, DType, Format, Model};
use zonda_mlx::{Mlx, MlxOptions};

/// The results of mlx-lm for a folder.
struct Golden {
    ids: Vec<TokenId>,
    /// `[ids * vocab]`
    logits: Vec<f32>,
    /// The tokens that follow the ids.
    greedy: Vec<TokenId>,
}

fn golden(path: &Path) -> Golden {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect()
    };
    let ids = |name| words(name).into_iter().map(|b| i32::from_le_bytes(b) as TokenId).collect();
    let logits = words("logits").into_iter().map(f32::from_le_bytes).collect();
    Golden { ids: ids("ids"), logits, greedy: ids("greedy") }
}

fn argmax(row: &[f32]) -> TokenId {
    crate::common::argmax(row) as TokenId
}

/// Runs the ids, then continues greedily: a prefill and decode steps.
fn same(model: &Model, options: &MlxOptions, golden: &Golden) -> String {
    let mut backend = Mlx::open(model, options).unwrap();
    let name = model.path.display();
    let rows = forward(&mut backend, vec![all(0, 0, &golden.ids)]).unwrap();
    let mut worst = 0.0f32;
    for (i, (row, expected)) in rows.iter().zip(golden.logits.chunks_exact(rows[0].len())).enumerate() {
        let d = difference(row, expected);
        assert!(d <= 1e-4, "{name}: position {i} is off by {d}");
        worst = worst.max(d);
    }
    println!("{name}, held as {}: max abs difference {worst:.1e}", backend.info().weights);
    let mut token = argmax(rows.last().unwrap());
    for (i, &expected) in golden.greedy.iter().enumerate() {
        assert_eq!(token, expected, "{name}: token {i}");
        let tokens = [token];
        let span = Span { slot: 0, start: golden.ids.len() + i, tokens: &tokens, want: Want::Last };
        token = argmax(&forward(&mut backend, vec![span]).unwrap()[0]);
    }
    backend.info().weights
}

/// Runs a folder quantised as it is, as floats, and in the form that other backends read.
fn in_every_form(model: &Model, golden: &Golden) -> String {
    let as_stored = MlxOptions { dequantize: Some(false), ..options(model) };
    let held = same(model, &as_stored, golden);
    assert_eq!(same(model, &options(model), golden), "f32");
    let dir = tempfile::tempdir().unwrap();
    let gguf = dir.path().join("m.gguf");
    convert(model, &gguf, DType::F32, &mut |_, _| {}).unwrap();
    same(&Model::open(&gguf).unwrap(), &options(model), golden);
    held
}

#[test]
fn folders_quantised_by_mlx_lm_give_its_results() {
    let held = [("llama_q4", "q4_g32"), ("qwen3_moe_q4", "q4_g64"), ("llama_tied_mixed", "q3_g32")];
    for (name, expected) in held {
        let folder = testdata().join("mlx/theirs").join(name);
        let model = Model::open(&folder).unwrap();
        assert_eq!(model.format, Format::Mlx);
        model.check().unwrap();
        let held = in_every_form(&model, &golden(&folder.join("goldens.safetensors")));
        println!("{name}: {held}; stored {}", model.type_label());
        assert!(held.contains(expected), "{name} is held as {held}");
    }
}

#[test]
fn folders_quantised_by_us_give_the_results_of_mlx_lm() {
    let dir = tempfile::tempdir().unwrap();
    // As in `make_mlx.py`.
    let cases = [
        ("llama_q4", "llama", 4, 64, DType::F32),
        ("qwen2_q8", "qwen2", 8, 32, DType::F16),
        ("qwen3_q5", "qwen3", 5, 32, DType::BF16),
        ("mixtral_q6", "mixtral", 6, 32, DType::F32),
        ("llama_llama3_q3", "llama_llama3", 3, 64, DType::F16),
    ];
    for (name, checkpoint, bits, group_size, dtype) in cases {
        let input = Model::open(&testdata().join("hf").join(checkpoint)).unwrap();
        let out = dir.path().join(name);
        convert_to_mlx(&input, &out, Affine { bits, group_size }, dtype, &mut |_, _| {}).unwrap();
        let model = Model::open(&out).unwrap();
        assert_eq!((model.format, model.parameters()), (Format::Mlx, input.parameters()));
        let golden = golden(&testdata().join("mlx/ours").join(format!("{name}.safetensors")));
        let held = in_every_form(&model, &golden);
        assert!(held.contains(&format!("q{bits}_g{group_size}")), "{name} is held as {held}");
    }
}

/// Quantising with MLX at load gives the same as our quantiser in a folder with f32 scales.
#[test]
fn our_quantiser_matches_mlx() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bits) in [("q4", 4), ("q8", 8)] {
        for checkpoint in ["llama", "mixtral", "qwen3"] {
            let input = Model::open(&testdata().join("hf").join(checkpoint)).unwrap();
            let out = dir.path().join(format!("{checkpoint}-{name}"));
            let affine = Affine { bits, group_size: 64 };
            convert_to_mlx(&input, &out, affine, DType::F32, &mut |_, _| {}).unwrap();
            let ids: Vec<TokenId> = (0..40).map(|i| (i * 37 + 5) % 160).collect();
            let run = |model: &Model, quantize| {
                let options = MlxOptions { quantize, dequantize: Some(false), ..options(model) };
                forward(&mut Mlx::open(model, &options).unwrap(), vec![all(0, 0, &ids)]).unwrap()
            };
            let at_load = run(&input, Some(name.parse().unwrap()));
            let in_folder = run(&Model::open(&out).unwrap(), None);
            for (i, (a, b)) in at_load.iter().zip(&in_folder).enumerate() {
                let d = difference(a, b);
                assert!(d <= 1e-4, "{checkpoint} as {name}: position {i} is off by {d}");
            }
        }
    }
}
