//! Hugging Face folders: the committed checkpoints, and configurations made by the tests.

use std::path::{Path, PathBuf};

use zonda_engine::load::{
    Activation, Architecture, DType, Format, LayerTensor, Model, Norm, NormPlacement, QueryTemperature,
    RopePairing, RopeScaling, RouterScore, SharedExpert, TensorRole, check_finite,
};

pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf")
}

fn checkpoints() -> Vec<PathBuf> {
    let mut folders: Vec<_> = std::fs::read_dir(testdata())
        .expect("testdata/hf")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    folders.sort();
    assert_eq!(folders.len(), 38, "{folders:?}");
    folders
}

/// The checkpoint's weights with the old spelling of its configuration.
fn with_old_config(folder: &Path) -> Option<tempfile::TempDir> {
    let old = folder.join("config.old.json");
    old.exists().then(|| {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(folder).expect("a checkpoint") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        std::fs::copy(old, copy.path().join("config.json")).expect("a copy");
        copy
    })
}

#[test]
fn every_checkpoint_opens_with_all_tensors_finite() {
    for folder in checkpoints() {
        let model = Model::open(&folder).expect("opens");
        assert_eq!(model.format, Format::SafeTensors);
        assert_eq!(model.folder(), Some(folder.as_path()));
        model.check().expect("all tensors");
        let mut values = 0;
        for role in model.spec.roles() {
            let tensor = model.tensor(role).expect("a tensor");
            check_finite(&tensor).expect("finite");
            assert_eq!(tensor.shape, model.spec.shape(role));
            values += tensor.len() as u64;
        }
        // roles of a fused tensor share it
        assert_eq!(values, model.parameters(), "{}: every stored value has a role", folder.display());
    }
}

#[test]
fn both_spellings_give_one_spec() {
    let mut compared = 0;
    for folder in checkpoints() {
        let Some(old) = with_old_config(&folder) else { continue };
        let (new, old) = (Model::open(&folder).expect("new"), Model::open(old.path()).expect("old"));
        assert_eq!(new.spec, old.spec, "{}", folder.display());
        compared += 1;
    }
    assert_eq!(compared, 21);
}

#[test]
fn specs_match_the_configurations() {
    let spec = |name: &str| Model::open(&testdata().join(name)).expect("opens").spec;

    let mistral = spec("mistral_window");
    assert_eq!(mistral.architecture, Architecture::Mistral);
    assert_eq!(mistral.windows, [Some(16), Some(16)]);
    assert_eq!(mistral.rope.pairing, RopePairing::Halves);
    assert_eq!((mistral.heads, mistral.kv_heads, mistral.head_dim, mistral.group()), (4, 2, 16, 2));
    let full = spec("mistral_full");
    assert_eq!(full.windows, [None, None]);
    assert_eq!((full.heads * full.head_dim, full.hidden_size), (32, 64));
    assert_eq!(full.rope.theta, 1e6);

    assert_eq!(spec("llama").norm_eps, 1e-3);
    assert_eq!(spec("llama_linear").rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 64,
    };
    assert_eq!(spec("llama_llama3").rope.scaling, llama3);
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.138_629_4, // 0.1 ln 4 + 1
        truncate: true,
    };
    assert_eq!(spec("llama_yarn").rope.scaling, yarn);
    let given = RopeScaling::Yarn {
        factor: 2.0,
        original_context: 64,
        beta_fast: 2.0,
        beta_slow: 0.25,
        attention_factor: 0.8,
        truncate: true,
    };
    assert_eq!(spec("llama_yarn_given").rope.scaling, given);

    let smol = spec("smollm2");
    assert!(smol.tied_embeddings && !smol.qkv_bias && !smol.qk_norm);
    let qwen2 = spec("qwen2");
    assert!(qwen2.qkv_bias && qwen2.windows == [None, None]);
    assert!(spec("qwen3").qk_norm);

    let mixtral = spec("mixtral").moe.expect("experts");
    assert_eq!((mixtral.experts, mixtral.used, mixtral.ffn_size, mixtral.router.normalize), (4, 2, 48, true));
    let qwen3 = spec("qwen3_moe").moe.expect("experts");
    assert_eq!((qwen3.experts, qwen3.used, qwen3.ffn_size, qwen3.router.normalize), (8, 2, 24, true));
    assert!(!spec("qwen3_moe_unnormed").moe.expect("experts").router.normalize);

    let qwen2 = spec("qwen2_moe").moe.expect("experts");
    let shared = Some(SharedExpert { ffn_size: 48, gated: true });
    assert_eq!((qwen2.ffn_size, qwen2.shared, qwen2.router.normalize), (16, shared, false));

    let temperature = Some(QueryTemperature { beta: 0.5, step: 16, offset: 0, no_rope_only: false });
    for name in ["ministral3", "mistral3"] {
        let spec = spec(name);
        assert_eq!(
            (spec.architecture, spec.extras.query_temperature),
            (Architecture::Ministral3, temperature)
        );
        assert!(matches!(spec.rope.scaling, RopeScaling::Yarn { attention_factor: 1.0, .. }));
    }
    let gemma3 = spec("gemma3");
    assert_eq!(gemma3.windows, [Some(16), None, Some(16)]);
    let [local, full] = [0, 1].map(|l| gemma3.rope_of(l).expect("RoPE").clone());
    assert_eq!((local.theta, local.scaling), (100.0, RopeScaling::None));
    assert_eq!((full.theta, full.scaling), (1e4, RopeScaling::Linear { factor: 4.0 }));
    assert_eq!((gemma3.extras.embedding_scale, gemma3.extras.attention_scale), (8.0, Some(0.25)));
    let gemma2 = spec("gemma2").extras;
    assert_eq!((gemma2.attention_softcap, gemma2.final_softcap), (Some(2.0), Some(4.0)));
    let granite = spec("granite").extras;
    assert_eq!((granite.embedding_scale, granite.residual_scale, granite.logit_scale), (3.0, 0.5, 0.5));
    assert_eq!(granite.attention_scale, Some(0.125));
    assert_eq!(spec("smollm3").extras.no_rope, [3]);
    assert_eq!(spec("olmo2").extras.norms, NormPlacement::After);
    assert_eq!(spec("olmo3").windows, [Some(16), None]);
    let cohere2 = spec("cohere2");
    assert_eq!((cohere2.extras.norm, cohere2.rope.pairing), (Norm::Layer, RopePairing::Adjacent));
    assert!(cohere2.rope_of(0).is_some() && cohere2.rope_of(1).is_none());
    let llama4 = spec("llama4");
    assert_eq!(llama4.windows, [Some(16), Some(16), Some(16), None]);
    assert_eq!((&llama4.extras.no_rope[..], llama4.ffn_size), (&[3][..], 48));
    assert!(llama4.extras.chunked_windows && llama4.extras.norm_behind_rope);
    let temperature = QueryTemperature { beta: 0.5, step: 16, offset: 1, no_rope_only: true };
    assert_eq!(llama4.extras.query_temperature, Some(temperature));
    assert_eq!([0, 1, 2, 3].map(|l| llama4.experts_of(l).is_some()), [false, true, false, true]);
    let moe = llama4.moe.expect("experts");
    assert_eq!((moe.router.score, moe.weigh_inputs, moe.ffn_size), (RouterScore::Sigmoid, true, 24));
    assert_eq!(moe.shared, Some(SharedExpert { ffn_size: 24, gated: false }));
    for name in ["gpt_oss", "gpt_oss_mxfp4"] {
        let spec = spec(name);
        assert_eq!(spec.windows, [Some(16), None]);
        assert!(spec.qkv_bias && spec.extras.sinks && spec.extras.attention_out_bias);
        assert_eq!(spec.extras.activation, Activation::Clamped { alpha: 1.702, limit: 7.0 });
        assert!(matches!(spec.rope.scaling, RopeScaling::Yarn { truncate: false, .. }));
        let moe = spec.moe.expect("experts");
        assert_eq!((moe.router.score, moe.router.bias, moe.bias), (RouterScore::SoftmaxOfUsed, true, true));
    }
}

#[test]
fn experts_in_common_tensors_keep_their_type_and_are_checked() {
    let role = |tensor| TensorRole::Layer(0, tensor);
    for (name, dtype) in [("gpt_oss", DType::F32), ("gpt_oss_mxfp4", DType::MXFP4)] {
        let model = Model::open(&testdata().join(name)).expect("opens");
        let [gate, up, down] =
            [LayerTensor::ExpertGate(3), LayerTensor::ExpertUp(3), LayerTensor::ExpertDown(3)]
                .map(|tensor| model.tensor(role(tensor)).expect("an expert's"));
        assert_eq!([&gate, &up, &down].map(|t| t.dtype), [dtype; 3]);
        assert_eq!((&gate.shape[..], &down.shape[..]), (&[32, 64][..], &[64, 32][..]));
        assert_ne!(gate.bytes(), up.bytes());
        let bias = model.tensor(role(LayerTensor::ExpertUpBias(3))).expect("a bias");
        assert_eq!((bias.shape, bias.dtype), (vec![32], DType::F32));

        // Another number of experts, or another width, than the tensors have.
        for (key, value) in [("num_local_experts", 3), ("intermediate_size", 64), ("hidden_size", 128)] {
            let copy = tempfile::tempdir().expect("a folder");
            for file in ["config.json", "model.safetensors"] {
                std::fs::copy(testdata().join(name).join(file), copy.path().join(file)).expect("a copy");
            }
            let path = copy.path().join("config.json");
            let text = std::fs::read(&path).expect("a configuration");
            let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            config[key] = value.into();
            std::fs::write(&path, config.to_string()).expect("written");
            let model = Model::open(copy.path()).expect("opens");
            let error =
                model.tensor(role(LayerTensor::ExpertGate(1))).expect_err("another shape").to_string();
            assert!(error.contains("mlp.experts.gate_up_proj"), "{name}, {key}: {error}");
        }
    }
}

#[test]
fn a_tied_output_head_has_no_tensor() {
    let model = Model::open(&testdata().join("smollm2")).expect("opens");
    assert!(model.find(TensorRole::Output).expect("no error").is_none());
    let error = model.tensor(TensorRole::Output).expect_err("tied").to_string();
    assert!(error.contains("lm_head.weight is missing"), "{error}");
    assert!(model.find(TensorRole::Layer(0, LayerTensor::QBias)).expect("no error").is_none());
}

/// Reading beyond the end of a cut file would end the process, also where a tensor is made of stored ones.
#[cfg(unix)]
#[test]
fn tensors_of_a_file_that_was_cut_are_errors_and_checking_a_model_reads_none() {
    for name in ["qwen3", "gemma3", "deepseek_v2", "gpt_oss", "gpt_oss_mxfp4"] {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(testdata().join(name).join(file), folder.path().join(file)).expect("a copy");
        }
        let model = Model::open(folder.path()).expect("opens");
        let weights = std::fs::OpenOptions::new().write(true).open(folder.path().join("model.safetensors"));
        weights.and_then(|file| file.set_len(0)).expect("is cut");
        model.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        for role in model.spec.roles() {
            let error = model.tensor(role).expect_err("is cut");
            assert!(
                matches!(error, zonda_engine::load::LoadError::Shrunk { found: 0, .. }),
                "{name}, {role:?}: {error}"
            );
        }
    }
}
