//! Multi-head latent attention, routers beyond a softmax, and layers that predict further tokens.

use std::path::{Path, PathBuf};

use zonda_engine::load::{
    Architecture, ExpertGroups, GroupScore, LayerTensor, Mla, Model, RopeScaling, RouterScore, SharedExpert,
    TensorRole,
};

use crate::build::*;

const RANK: usize = 32;
const NOPE: usize = 12;
const ROPE: usize = 8;
const VALUE: usize = 10;
const EXPERTS: usize = 8;

/// Experts with a shared one in every layer but the first.
fn with_experts(mut g: Gguf, arch: &str) -> Gguf {
    let key = |k: &str| format!("{arch}.{k}");
    for (name, n) in [
        ("expert_count", EXPERTS),
        ("expert_used_count", 3),
        ("expert_feed_forward_length", 16),
        ("expert_shared_count", 2),
        ("leading_dense_block_count", 1),
    ] {
        g = g.u32(&key(name), n as u32);
    }
    for name in ["ffn_gate", "ffn_up", "ffn_down"] {
        g = g.without(&format!("blk.1.{name}.weight"));
    }
    g.ones("blk.1.ffn_gate_inp.weight", &[EXPERTS, HIDDEN])
        .ones("blk.1.exp_probs_b.bias", &[EXPERTS])
        .ones("blk.1.ffn_gate_exps.weight", &[EXPERTS, 16, HIDDEN])
        .ones("blk.1.ffn_up_exps.weight", &[EXPERTS, 16, HIDDEN])
        .ones("blk.1.ffn_down_exps.weight", &[EXPERTS, HIDDEN, 16])
        .ones("blk.1.ffn_gate_shexp.weight", &[32, HIDDEN])
        .ones("blk.1.ffn_up_shexp.weight", &[32, HIDDEN])
        .ones("blk.1.ffn_down_shexp.weight", &[HIDDEN, 32])
}

/// A complete DeepSeek-V3, as llama.cpp's converter writes it.
fn deepseek() -> Gguf {
    let mut g = with_experts(tiny("deepseek2"), "deepseek2");
    for (name, n) in [
        ("attention.head_count_kv", 1),
        ("attention.kv_lora_rank", RANK),
        ("attention.q_lora_rank", 24),
        ("attention.key_length", RANK + ROPE),
        ("attention.value_length", RANK),
        ("attention.key_length_mla", NOPE + ROPE),
        ("attention.value_length_mla", VALUE),
        ("rope.dimension_count", ROPE),
        ("expert_gating_func", 2),
        ("expert_group_count", 4),
        ("expert_group_used_count", 2),
        ("rope.scaling.original_context_length", 64),
    ] {
        g = g.u32(&format!("deepseek2.{name}"), n as u32);
    }
    g = g
        .bool("deepseek2.expert_weights_norm", true)
        .f32("deepseek2.expert_weights_scale", 2.5)
        .str("deepseek2.rope.scaling.type", "yarn")
        .f32("deepseek2.rope.scaling.factor", 4.0)
        .f32("deepseek2.rope.scaling.yarn_log_multiplier", 0.1);
    for layer in 0..LAYERS {
        let name = |n: &str| format!("blk.{layer}.{n}.weight");
        for plain in ["attn_q", "attn_k", "attn_v"] {
            g = g.without(&name(plain));
        }
        g = g
            .ones(&name("attn_q_a"), &[24, HIDDEN])
            .ones(&name("attn_q_a_norm"), &[24])
            .ones(&name("attn_q_b"), &[HEADS * (NOPE + ROPE), 24])
            .ones(&name("attn_kv_a_mqa"), &[RANK + ROPE, HIDDEN])
            .ones(&name("attn_kv_a_norm"), &[RANK])
            .ones(&name("attn_k_b"), &[HEADS, RANK, NOPE])
            .ones(&name("attn_v_b"), &[HEADS, VALUE, RANK])
            .ones(&name("attn_output"), &[HIDDEN, HEADS * VALUE]);
    }
    g
}

/// The same as older converters wrote it: one projection of keys and values, and widths of heads as if there were no latent.
fn older() -> Gguf {
    let mut g = deepseek()
        .without("deepseek2.attention.key_length_mla")
        .without("deepseek2.attention.value_length_mla")
        .u32("deepseek2.attention.key_length", (NOPE + ROPE) as u32)
        .u32("deepseek2.attention.value_length", VALUE as u32)
        .u32("deepseek2.attention.head_count_kv", HEADS as u32);
    for layer in 0..LAYERS {
        g = g
            .without(&format!("blk.{layer}.attn_k_b.weight"))
            .without(&format!("blk.{layer}.attn_v_b.weight"))
            .ones(&format!("blk.{layer}.attn_kv_b.weight"), &[HEADS * (NOPE + VALUE), RANK]);
    }
    g
}

#[test]
fn deepseek_in_newer_and_older_files() {
    let spec_of = spec(&deepseek());
    let mla = Mla { q_rank: Some(24), kv_rank: RANK, nope: NOPE, rope: ROPE, value: VALUE, norm_eps: 1e-5 };
    assert_eq!(spec_of.extras.mla, Some(mla));
    assert_eq!(spec_of.architecture, Architecture::DeepSeekV3);
    assert_eq!((spec_of.heads, spec_of.kv_heads, spec_of.head_dim), (HEADS, 1, RANK + ROPE));
    assert_eq!((spec_of.rope_dim(), spec_of.kv_values_per_token()), (ROPE, LAYERS * (RANK + ROPE)));
    // YaRN's scale for mscale_all_dim 1, squared
    let mscale = 1.0 + 0.1 * 4f64.ln();
    let expected = mscale * mscale / ((NOPE + ROPE) as f64).sqrt();
    assert!((f64::from(spec_of.score_scale()) - expected).abs() < 1e-7);
    assert!(matches!(spec_of.rope.scaling, RopeScaling::Yarn { attention_factor: 1.0, .. }));

    let moe = spec_of.moe.as_ref().expect("experts");
    assert_eq!((moe.experts, moe.used, moe.ffn_size, moe.dense_layers), (EXPERTS, 3, 16, 1));
    assert_eq!(moe.shared, Some(SharedExpert { ffn_size: 32, gated: false }));
    let router = &moe.router;
    assert_eq!(
        (router.score, router.correction, router.normalize, router.scale),
        (RouterScore::Sigmoid, true, true, 2.5)
    );
    assert_eq!(router.groups, Some(ExpertGroups { count: 4, used: 2, score: GroupScore::BestTwo }));
    assert!(spec_of.experts_of(0).is_none() && spec_of.experts_of(1).is_some());

    assert_eq!(spec(&older()), spec_of);
    let model = open(&older()).expect("opens");
    for tensor in [LayerTensor::KeyUp, LayerTensor::ValueUp] {
        let role = TensorRole::Layer(1, tensor);
        assert_eq!(model.tensor(role).expect("a part").shape, model.spec.shape(role));
    }
    let wrong = older().ones("blk.1.attn_kv_b.weight", &[HEADS * (NOPE + VALUE) + 1, RANK]);
    assert!(error(&wrong).contains("blk.1.attn_kv_b.weight has shape"), "{}", error(&wrong));
}

#[test]
fn one_family_by_what_its_files_say() {
    let softmax = deepseek()
        .u32("deepseek2.expert_gating_func", 1)
        .without("blk.1.exp_probs_b.bias")
        .without("deepseek2.expert_weights_norm");
    let v2 = spec(&softmax);
    assert_eq!(v2.architecture, Architecture::DeepSeekV2);
    let router = v2.moe.expect("experts").router;
    assert_eq!((router.score, router.correction, router.normalize), (RouterScore::Softmax, false, false));
    assert_eq!(router.groups, Some(ExpertGroups { count: 4, used: 2, score: GroupScore::Best }));
    // Mistral Large 3
    let large = spec(&softmax.f32("deepseek2.attention.temperature_scale", 0.1));
    assert_eq!(large.architecture, Architecture::Mistral4);
    let temperature = large.extras.query_temperature.expect("a temperature");
    assert_eq!((temperature.beta, temperature.step), (0.1, 64));
}

#[test]
fn layers_that_predict_further_tokens_are_skipped() {
    let glm = || {
        let mut g = with_experts(tiny("glm4moe"), "glm4moe")
            .u32("glm4moe.attention.key_length", HEAD_DIM as u32)
            .u32("glm4moe.rope.dimension_count", 8);
        for layer in 0..LAYERS {
            g = g
                .without(&format!("blk.{layer}.ffn_norm.weight"))
                .ones(&format!("blk.{layer}.post_attention_norm.weight"), &[HIDDEN]);
            for (name, width) in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)] {
                g = g.ones(&format!("blk.{layer}.attn_{name}.bias"), &[width * HEAD_DIM]);
            }
        }
        g
    };
    let plain = spec(&glm());
    assert_eq!((plain.architecture, plain.rope_dim()), (Architecture::Glm4Moe, 8));
    assert_eq!((plain.qkv_bias, plain.qk_norm), (true, false));
    let router = &plain.moe.as_ref().expect("experts").router;
    assert_eq!((router.score, router.correction), (RouterScore::Sigmoid, true));

    let predicting = glm()
        .u32("glm4moe.block_count", LAYERS as u32 + 1)
        .u32("glm4moe.nextn_predict_layers", 1)
        .ones("blk.2.nextn.eh_proj.weight", &[HIDDEN, 2 * HIDDEN])
        .ones("blk.2.attn_norm.weight", &[HIDDEN]);
    assert_eq!(spec(&predicting), plain);
    assert!(open(&predicting).expect("opens").tensors().iter().all(|t| !t.name.starts_with("blk.2.")));
    let beyond = glm().ones("blk.2.attn_norm.weight", &[HIDDEN]);
    assert!(error(&beyond).contains("blk.2.attn_norm.weight has no place"));
    let all = predicting.u32("glm4moe.nextn_predict_layers", LAYERS as u32 + 1);
    assert!(error(&all).contains("nextn_predict_layers is 3"), "{}", error(&all));
}

#[test]
fn what_does_not_fit_is_refused() {
    let with = |key: &str, n: u32| error(&deepseek().u32(&format!("deepseek2.{key}"), n));
    for (key, n, said) in [
        ("expert_gating_func", 4, "expert_gating_func is 4, which is not supported"),
        ("expert_group_count", 3, "expert_group_count is 3; expected a divisor"),
        ("expert_group_count", 8, "expert_group_count is 8; expected at most half"),
        ("expert_group_used_count", 1, "expert_group_used_count is 1; expected"),
        ("expert_group_used_count", 5, "expert_group_used_count is 5; expected at most 4"),
        ("leading_dense_block_count", 3, "leading_dense_block_count is 3; expected at most"),
        (
            "rope.dimension_count",
            20,
            "rope.dimension_count is 20; expected an even number less than a query head, 20",
        ),
        ("rope.dimension_count", 7, "rope.dimension_count is 7; expected an even number"),
        ("attention.kv_lora_rank", 0, "attention.kv_lora_rank is 0"),
    ] {
        let found = with(key, n);
        assert!(found.contains(said), "{key} {n}: {found}");
    }
}

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf").join(name)
}

#[test]
fn configurations_of_folders() {
    let spec = |name: &str| Model::open(&checkpoint(name)).expect("opens").spec;
    let groups = |score| Some(ExpertGroups { count: 4, used: 2, score });
    for (name, architecture, score, group_score, correction, scale) in [
        ("deepseek_v2", Architecture::DeepSeekV2, RouterScore::Softmax, GroupScore::Best, false, 3.0),
        ("deepseek_v3", Architecture::DeepSeekV3, RouterScore::Sigmoid, GroupScore::BestTwo, true, 2.5),
        ("mistral4", Architecture::Mistral4, RouterScore::Softmax, GroupScore::BestTwo, false, 1.5),
    ] {
        let spec = spec(name);
        assert_eq!(spec.architecture, architecture, "{name}");
        let router = spec.moe.expect("experts").router;
        assert_eq!((router.score, router.correction, router.scale), (score, correction, scale), "{name}");
        assert_eq!(router.groups, groups(group_score), "{name}");
        let mla = spec.extras.mla.expect("latent attention");
        assert_eq!((mla.kv_rank, mla.nope, mla.rope, mla.value), (32, 16, 8, 12), "{name}");
        assert_eq!(mla.q_rank, (name != "deepseek_v2").then_some(24), "{name}");
        assert_eq!(spec.extras.query_temperature.is_some(), name == "mistral4");
    }
    let glm = spec("glm4_moe");
    assert_eq!((glm.qkv_bias, glm.qk_norm, glm.rope_dim(), glm.head_dim), (true, true, 12, 24));
}

/// Tensors of layers behind the last one belong to the prediction of further tokens in some families, and are errors in others.
#[test]
fn layers_behind_the_last_one_of_a_folder() {
    let cut = |name: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let from = checkpoint(name);
        std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors"))
            .expect("a copy");
        let config = std::fs::read_to_string(from.join("config.json")).expect("a configuration");
        let one = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
        assert_ne!(one, config);
        std::fs::write(folder.path().join("config.json"), one).expect("a configuration");
        Model::open(folder.path()).map(|model| {
            model.check().expect("all tensors");
            model.spec.layers
        })
    };
    assert_eq!(cut("glm4_moe").expect("opens"), 1);
    assert_eq!(cut("deepseek_v3").expect("opens"), 1);
    assert!(cut("llama_linear").expect_err("refused").to_string().contains("model.layers.1."));
}
