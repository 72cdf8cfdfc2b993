//! The published shapes that `synth` knows: narrowed, with all their options, they are written, read back, and give finite logits
//! that depend on the whole prompt.

use std::path::Path;
use std::sync::Arc;
use zonda_convert::{SynthSpec, synth, synth_archs};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::{Model, RopeScaling};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;
use zonda_native::{Native, NativeOptions};

const HIDDEN: usize = 256;
const TOKENS: usize = 12;

/// The shape with few layers and small matrices. Head sizes, windows, RoPE and all other options stay.
fn narrowed(arch: SynthSpec) -> SynthSpec {
    let windowed = arch.spec.windows.iter().any(Option::is_some);
    let mut arch = arch.with_layers(if windowed { 6 } else { 3 }).unwrap();
    let spec = &mut arch.spec;
    if spec.extras.embedding_scale != 1.0 {
        assert_eq!(spec.extras.embedding_scale, (spec.hidden_size as f32).sqrt());
        spec.extras.embedding_scale = (HIDDEN as f32).sqrt();
    }
    let group = spec.group().min(3);
    spec.kv_heads = spec.kv_heads.min(2);
    spec.heads = spec.kv_heads * group;
    (spec.vocab_size, spec.hidden_size, spec.ffn_size) = (512, HIDDEN, 512);
    if let Some(moe) = &mut spec.moe {
        let widths = moe.shared.map_or(1, |shared| shared.ffn_size / moe.ffn_size);
        (moe.experts, moe.used, moe.ffn_size) = (8, moe.used.min(3), 256);
        moe.shared.iter_mut().for_each(|shared| shared.ffn_size = widths * 256);
    }
    if let Some(mla) = &mut spec.extras.mla {
        mla.q_rank = mla.q_rank.map(|_| 64);
        mla.kv_rank = 64;
        spec.head_dim = mla.key();
    }
    arch
}

/// Logits of the prompt's last token, `[vocab]`.
fn last_logits(path: &Path, tokens: &[TokenId]) -> Vec<f32> {
    let model = Arc::new(Model::open(path).unwrap());
    let options = NativeOptions { context: Some(64), ..Default::default() };
    let mut native = Native::open(&model, &options).unwrap();
    let mut out = Logits::new();
    let span = Span { slot: 0, start: 0, tokens, want: Want::Last };
    native.forward(&Batch { spans: vec![span] }, &mut out).unwrap();
    out.as_mut_slice().to_vec()
}

/// Deviation of numbers from their mean.
fn deviation(values: &[f32]) -> f32 {
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
}

#[test]
fn every_published_shape_is_read_back_and_gives_logits_of_the_whole_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<TokenId> = (0..TOKENS).map(|i| (i * 37 + 5) as TokenId).collect();
    let other: Vec<TokenId> = std::iter::once(400).chain(tokens[1..].iter().copied()).collect();
    for arch in synth_archs().into_iter().filter(|arch| !arch.name.starts_with("tiny-")) {
        let arch = narrowed(arch);
        let mixes =
            if arch.spec.moe.is_some() { vec![Mix::Q4KM, Mix::Plain(DType::MXFP4)] } else { vec![Mix::Q4KM] };
        for mix in mixes {
            let path = dir.path().join("m.gguf");
            synth(&arch, mix, &path, 3, &mut |_, _| {}).unwrap();
            let what = format!("{} in {mix}", arch.name);

            let model = Model::open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
            model.check().unwrap();
            let mut expected = arch.spec.clone();
            expected.name = model.spec.name.clone();
            // GGUF files have Q and K of some families permuted, and Llama 3's scaling as factors
            expected.rope.pairing = model.spec.rope.pairing;
            if let RopeScaling::Llama3 { .. } = expected.rope.scaling {
                expected.rope.scaling = model.spec.rope.scaling.clone();
            }
            if let (Some(own), Some(found)) =
                (&mut expected.extras.window_rope, &model.spec.extras.window_rope)
            {
                own.pairing = found.pairing;
            }
            // `llama` stands for all three there
            expected.architecture = model.spec.architecture;
            assert_eq!(model.spec, expected, "{what}");
            drop(model);

            let logits = last_logits(&path, &tokens);
            assert!(logits.iter().all(|v| v.is_finite()), "{what}");
            let spread = deviation(&logits);
            assert!((0.02..20.0).contains(&spread), "{what}: logits deviate by {spread}");
            let changed = last_logits(&path, &other);
            let change: Vec<f32> = logits.iter().zip(&changed).map(|(a, b)| a - b).collect();
            let change = deviation(&change) / spread;
            println!("{what}: logits deviate by {spread}, the first of {TOKENS} tokens changes {change}");
            assert!((1e-3..1.5).contains(&change), "{what}: the first token changes logits by {change}");
        }
    }
}
