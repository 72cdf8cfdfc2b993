//! One model in every format: GGUF and SafeTensors compute the same function, quantised GGUF files stay close to their float
//! sources, and a NaN hidden in a scale is found at load.

use std::path::Path;
use std::sync::Arc;
use zonda_convert::{QuantizeOptions, SynthSpec, convert, quantize, synth, synth_archs};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, Logits, Span, Want};
use zonda_engine::load::{Architecture, Model, RopeScaling, TensorRole, gguf};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;
use zonda_kernels::attention::KvType;
use zonda_kernels::quantize::{can_quantize, random_blocks};
use zonda_native::{Native, NativeOptions};
use zonda_testkit::goldens::folders;

fn logits(path: &Path) -> Vec<f32> {
    let model = Arc::new(Model::open(path).unwrap());
    let options = NativeOptions { context: Some(64), kv_type: KvType::F32, ..Default::default() };
    let mut native = Native::open(&model, &options).unwrap();
    let tokens: Vec<TokenId> = (0..40).map(|i| (i * 37 + 5) % model.spec.vocab_size as TokenId).collect();
    let mut out = Logits::new();
    let span = Span { slot: 0, start: 0, tokens: &tokens, want: Want::All };
    native.forward(&Batch { spans: vec![span] }, &mut out).unwrap();
    out.as_mut_slice().to_vec()
}

fn tiny_archs() -> Vec<SynthSpec> {
    let tiny: Vec<_> = synth_archs().into_iter().filter(|a| a.name.starts_with("tiny-")).collect();
    for needed in [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Mixtral,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Qwen3Moe,
    ] {
        assert!(tiny.iter().any(|a| a.spec.architecture == needed), "{needed:?} has a tiny shape");
    }
    tiny
}

fn write(arch: &SynthSpec, mix: Mix, out: &Path) {
    synth(arch, mix, out, 7, &mut |_, _| {}).unwrap();
}

#[test]
fn gguf_and_safetensors_compute_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for arch in tiny_archs() {
        let folder = dir.path().join(arch.name);
        let file = dir.path().join(format!("{}.gguf", arch.name));
        let back = dir.path().join(format!("{}-back", arch.name));
        let made = dir.path().join(format!("{}-made.gguf", arch.name));
        write(&arch, Mix::Plain(DType::F32), &folder);
        write(&arch, Mix::Plain(DType::F32), &made);
        convert(&Model::open(&folder).unwrap(), &file, DType::F32, &mut |_, _| {}).unwrap();
        convert(&Model::open(&file).unwrap(), &back, DType::F32, &mut |_, _| {}).unwrap();
        let expected = logits(&folder);
        for other in [&file, &back, &made] {
            // GGUF stores Llama 3's RoPE scaling as rounded factors; everything else has the same bits.
            let bound = if matches!(arch.spec.rope.scaling, RopeScaling::Llama3 { .. }) { 1e-4 } else { 0.0 };
            let found = logits(other);
            assert_eq!(found.len(), expected.len());
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!((a - b).abs() <= bound, "{}: logit {i} is {a}, expected {b}", other.display());
            }
        }
    }
}

#[test]
fn gguf_files_of_every_checkpoint_are_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        if ["gpt_oss_mxfp4", "llama4"].contains(&name) {
            continue; // the one has matrices of two types, the other what no GGUF file says: below
        }
        let file = dir.path().join(format!("{name}.gguf"));
        let model = Model::open(&folder).unwrap();
        // of the type of the folder's weights, so that both are multiplied in the same way
        let dtype = model.tensor(TensorRole::TokenEmbedding).unwrap().dtype;
        convert(&model, &file, dtype, &mut |_, _| {}).unwrap();
        let bound = if name == "llama_llama3" { 1e-4 } else { 0.0 };
        let (expected, found) = (logits(&folder), logits(&file));
        assert_eq!(found.len(), expected.len());
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= bound, "{name}: logit {i} is {a}, expected {b}");
        }
    }
}

#[test]
fn llama4_is_written_where_it_has_the_sizes_that_no_key_says() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (dir.path().join("llama4"), dir.path().join("llama4.gguf"));
    std::fs::create_dir(&folder).unwrap();
    let from = folders().into_iter().find(|f| f.ends_with("llama4")).unwrap();
    let refused = convert(&Model::open(&from).unwrap(), &file, DType::F32, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("factor of queries"), "{refused}");
    std::fs::copy(from.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = std::fs::read(from.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    for (key, value) in [("attention_chunk_size", 8192), ("floor_scale", 8192)] {
        config[key] = value.into();
    }
    config["attn_scale"] = 0.1.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    convert(&Model::open(&folder).unwrap(), &file, DType::F32, &mut |_, _| {}).unwrap();
    // RoPE's scaling is stored as rounded factors.
    let (expected, found) = (logits(&folder), logits(&file));
    let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4 && expected.len() == found.len(), "off by {worst}");
}

#[test]
fn experts_in_mxfp4_are_the_same_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folders().into_iter().find(|f| f.ends_with("gpt_oss_mxfp4")).unwrap();
    let model = Model::open(&folder).unwrap();
    let (floats, mxfp4) = (dir.path().join("floats.gguf"), dir.path().join("mxfp4.gguf"));
    convert(&model, &floats, DType::F32, &mut |_, _| {}).unwrap();
    // The values of all weights are the same.
    let reference = |path: &Path| {
        let mut rows = Vec::new();
        let ids = vec![(0..40).map(|i| (i * 37 + 5) % 160).collect::<Vec<TokenId>>()];
        Native::reference(&Model::open(path).unwrap(), Some(2), &ids, &mut |row| {
            rows.extend_from_slice(row);
            Ok::<_, BackendError>(())
        })
        .unwrap();
        rows
    };
    assert!(reference(&folder) == reference(&floats), "as floats");
    // Experts are copied, not quantised again.
    let options = QuantizeOptions::default();
    quantize(&model, &mxfp4, Mix::Plain(DType::MXFP4), &options, &mut |_, _| {}).unwrap();
    let written = Model::open(&mxfp4).unwrap();
    for role in model.spec.roles() {
        let (ours, theirs) = (written.tensor(role).unwrap(), model.tensor(role).unwrap());
        let expert = theirs.dtype == DType::MXFP4;
        assert_eq!(ours.dtype == DType::MXFP4, expert, "{role:?}");
        assert!(!expert || ours.bytes() == theirs.bytes(), "{role:?}");
    }
    // The other matrices have 8 bits now, which gives some tokens other experts.
    let drift = drift(&logits(&mxfp4), &logits(&folder));
    assert!(drift < 5e-2, "{drift}");
}

/// `1 − cosine`
fn drift(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn quantised_files_stay_close_to_their_sources() {
    let dir = tempfile::tempdir().unwrap();
    let arch = SynthSpec::find("tiny-mistral").unwrap();
    for mix in Mix::all() {
        let file = dir.path().join(format!("{mix}.gguf"));
        write(&arch, mix, &file);
        // The same values as floats: only the rounding of activations differs.
        let floats = dir.path().join(format!("{mix}"));
        convert(&Model::open(&file).unwrap(), &floats, DType::F32, &mut |_, _| {}).unwrap();
        let drift = drift(&logits(&file), &logits(&floats));
        println!("{mix}: {drift:.1e}");
        assert!(drift < 5e-3, "{mix}: {drift}");
    }
}

/// A copy of a GGUF file of floats, in which the layers' matrices are random blocks of a type that is only read, and those of the
/// feed-forward half have a scale.
fn in_blocks(file: &Path, dtype: DType, scale: f32, out: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let header = gguf::parse(&bytes).unwrap();
    let string = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let first = string(&header.tensors[0].name);
    let metadata = bytes.windows(first.len()).position(|w| w == first).unwrap();
    let mut tensors = Vec::new();
    for (i, tensor) in header.tensors.iter().enumerate() {
        let stored = bytes[tensor.range.clone().unwrap()].to_vec();
        let (values, cols): (usize, _) = (tensor.shape.iter().product(), *tensor.shape.last().unwrap());
        if tensor.shape.len() == 1 || !tensor.name.starts_with("blk.") {
            tensors.push((tensor.name.clone(), tensor.shape.clone(), DType::F32, stored));
            continue;
        }
        let mut blocks = Vec::new();
        let scaled = tensor.name.contains(".ffn_");
        let deviation = 1.0 / (cols as f32).sqrt() / if scaled { scale } else { 1.0 };
        random_blocks(dtype, values, deviation, i as u64, &mut blocks);
        tensors.push((tensor.name.clone(), tensor.shape.clone(), dtype, blocks));
        if scaled {
            let name = tensor.name.replace(".weight", ".scale");
            tensors.push((name, vec![1], DType::F32, scale.to_le_bytes().to_vec()));
        }
    }
    let mut made = bytes[..metadata].to_vec();
    made[8..16].copy_from_slice(&(tensors.len() as u64).to_le_bytes());
    let mut data = Vec::new();
    for (name, shape, dtype, stored) in &tensors {
        made.extend(string(name));
        made.extend((shape.len() as u32).to_le_bytes());
        made.extend(shape.iter().rev().flat_map(|&d| (d as u64).to_le_bytes()));
        made.extend(dtype.ggml_id().to_le_bytes());
        made.extend((data.len() as u64).to_le_bytes());
        data.extend(stored);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    made.resize(made.len().next_multiple_of(32), 0);
    made.extend(data);
    std::fs::write(out, made).unwrap();
}

#[test]
fn types_that_are_only_read_compute_what_their_floats_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.gguf");
    write(&SynthSpec::find("tiny-mistral").unwrap(), Mix::Plain(DType::F32), &source);
    for dtype in DType::ALL.into_iter().filter(|&dtype| !can_quantize(dtype)) {
        let (file, floats) = (dir.path().join(format!("{dtype}.gguf")), dir.path().join(format!("{dtype}")));
        in_blocks(&source, dtype, 0.125, &file);
        assert!(Model::open(&file).unwrap().type_label().contains(dtype.name()));
        convert(&Model::open(&file).unwrap(), &floats, DType::F32, &mut |_, _| {}).unwrap();
        let drift = drift(&logits(&file), &logits(&floats));
        println!("{dtype}: {drift:.1e}");
        assert!(drift < 5e-3, "{dtype}: {drift}");
    }
}

#[test]
fn a_nan_in_any_weight_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let arch = SynthSpec::find("tiny-mistral").unwrap();
    for dtype in DType::ALL.into_iter().filter(|&dtype| can_quantize(dtype) && dtype.in_gguf()) {
        let file = dir.path().join(format!("{dtype}.gguf"));
        write(&arch, Mix::Plain(dtype), &file);
        let mut bytes = std::fs::read(&file).unwrap();
        // Overwrites the last tensors: all bytes 0xff are NaN in f16, bf16 and f32.
        let from = bytes.len() - bytes.len() / 4;
        bytes[from..].fill(0xff);
        std::fs::write(&file, bytes).unwrap();
        let model = Arc::new(Model::open(&file).unwrap());
        let error = Native::open(&model, &NativeOptions::default()).unwrap_err().to_string();
        assert!(error.contains("NaN") && error.contains("tensor"), "{dtype}: {error}");
    }
}
