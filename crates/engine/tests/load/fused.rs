//! Families with fused tensors, heads that turn in part, and LongRoPE: GGUF files and folders.

use serde_json::{Value as Json, json};
use zonda_engine::load::{
    Architecture, LayerTensor, LoadError, LongRope, ModelSpec, NormPlacement, RopePairing, RopeScaling,
    SharedExpert, TensorRole,
};

use crate::build::*;

const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Rows that hold their own numbers.
fn numbered(g: Gguf, name: &str, rows: usize) -> Gguf {
    let bytes = (0..rows).flat_map(|row| (row as f32).to_le_bytes().repeat(HIDDEN)).collect();
    g.filled(name, &[rows, HIDDEN], 0, bytes)
}

/// [`tiny`] with Q, K and V in one tensor, and gate and up in another.
fn fused(arch: &str) -> Gguf {
    let mut g = tiny(arch);
    for layer in 0..LAYERS {
        let name = |n: &str| format!("blk.{layer}.{n}.weight");
        for n in ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"] {
            g = g.without(&name(n));
        }
        g = numbered(g, &name("attn_qkv"), (HEADS + 2 * KV_HEADS) * HEAD_DIM);
        g = numbered(g, &name("ffn_up"), 2 * FFN);
    }
    g
}

#[test]
fn fused_tensors_are_read_in_parts() {
    for arch in ["phi3", "llama"] {
        let model = checked(&fused(arch)).expect("opens");
        for (tensor, first, rows) in [
            (LayerTensor::Q, 0, HEADS * HEAD_DIM),
            (LayerTensor::K, HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM),
            (LayerTensor::V, (HEADS + KV_HEADS) * HEAD_DIM, KV_HEADS * HEAD_DIM),
            (LayerTensor::FfnGate, 0, FFN),
            (LayerTensor::FfnUp, FFN, FFN),
        ] {
            let part = model.tensor(TensorRole::Layer(1, tensor)).expect("a part");
            assert_eq!(part.shape, [rows, HIDDEN], "{arch} {tensor:?}");
            let expected: Vec<f32> = (first..first + rows).flat_map(|row| vec![row as f32; HIDDEN]).collect();
            assert_eq!(part.to_f32(), expected, "{arch} {tensor:?}");
        }
    }
}

#[test]
fn fused_biases_are_read_in_parts() {
    let mut g = fused("chatglm");
    let rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
    let bytes: Vec<u8> = (0..rows).flat_map(|row| (row as f32).to_le_bytes()).collect();
    for layer in 0..LAYERS {
        g = g.filled(&format!("blk.{layer}.attn_qkv.bias"), &[rows], 0, bytes.clone());
    }
    let model = checked(&g).expect("opens");
    assert!(model.spec.qkv_bias);
    let bias = model.tensor(TensorRole::Layer(0, LayerTensor::KBias)).expect("a part").to_f32();
    let first = HEADS * HEAD_DIM;
    assert_eq!(bias, (first..first + KV_HEADS * HEAD_DIM).map(|i| i as f32).collect::<Vec<_>>());
    // blocks of such a vector are no rows
    let q8_0 = g.tensor("blk.0.attn_qkv.bias", &[rows], 8, rows / 32 * 34);
    assert!(error(&q8_0).contains("blk.0.attn_qkv.bias"), "{}", error(&q8_0));
}

#[test]
fn errors_name_the_tensor_that_the_family_has() {
    let rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
    let short = error(&fused("phi3").ones("blk.1.attn_qkv.weight", &[rows - 1, HIDDEN]));
    let expected = format!("blk.1.attn_qkv.weight has shape [{}, 64]; expected [{rows}, 64]", rows - 1);
    assert!(short.contains(&expected), "{short}");
    let missing = error(&fused("phi3").without("blk.0.ffn_up.weight"));
    assert!(missing.contains("tensor blk.0.ffn_up.weight is missing"), "{missing}");
    let gate = error(&tiny("llama").without("blk.0.ffn_gate.weight"));
    assert!(gate.contains("tensor blk.0.ffn_gate.weight is missing"), "{gate}");
    let up = error(&tiny("llama").ones("blk.0.ffn_up.weight", &[FFN + 1, HIDDEN]));
    assert!(
        up.contains(&format!("blk.0.ffn_up.weight has shape [{}, 64]; expected [{FFN}, 64]", FFN + 1)),
        "{up}"
    );
}

/// A Phi-3 whose heads turn by half, with these factors.
fn long(short: &[f32], long: &[f32]) -> Gguf {
    let bytes = |f: &[f32]| f.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    fused("phi3")
        .u32("phi3.rope.dimension_count", 8)
        .u32("phi3.rope.scaling.original_context_length", 64)
        .f32("phi3.rope.scaling.attn_factor", 1.25)
        .filled(SHORT, &[short.len()], 0, bytes(short))
        .filled(LONG, &[long.len()], 0, bytes(long))
}

#[test]
fn long_rope_has_factors_for_short_and_long_contexts() {
    let factors = ([1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 4.0, 8.0]);
    let rope = checked(&long(&factors.0, &factors.1)).expect("opens").spec.rope;
    assert_eq!((rope.pairing, rope.width), (RopePairing::Halves, Some(8)));
    let RopeScaling::Long(scaling) = &rope.scaling else { panic!("{:?}", rope.scaling) };
    let expected = LongRope {
        short: factors.0.to_vec(),
        long: factors.1.to_vec(),
        original_context: 64,
        attention_factor: 1.25,
    };
    assert_eq!(scaling, &expected);
    assert_eq!((scaling.factors(64), scaling.factors(65)), (&factors.0[..], &factors.1[..]));
    let plain: Vec<f32> = (0..4).map(|i| 1.0 / 10_000f32.powf(i as f32 / 4.0)).collect();
    for (context, factors) in [(64, factors.0), (65, factors.1)] {
        let expected: Vec<f32> = plain.iter().zip(factors).map(|(f, by)| f / by).collect();
        assert_eq!(rope.frequencies(16, context), (expected, 1.25), "context {context}");
    }

    let one = error(&long(&factors.0, &factors.1).without(LONG));
    assert!(one.contains("tensor rope_factors_long.weight is missing"), "{one}");
    let three = error(&long(&factors.0[..3], &factors.1));
    assert!(three.contains("rope_factors_short.weight has shape [3]; expected [4]"), "{three}");
    let zero = error(&long(&factors.0, &[1.0, 0.0, 1.0, 1.0]));
    assert!(zero.contains("rope_factors_long.weight[1] is 0; expected a number above 0"), "{zero}");
    let yarn = error(&long(&factors.0, &factors.1).str("phi3.rope.scaling.type", "yarn"));
    assert!(yarn.contains("LongRoPE's factors are run alone"), "{yarn}");
    let odd = error(&fused("phi3").u32("phi3.rope.dimension_count", 7));
    assert!(odd.contains("phi3.rope.dimension_count is 7; expected an even number"), "{odd}");
}

#[test]
fn families_with_other_norms_positions_and_experts() {
    let mut g = fused("glm4").u32("glm4.rope.dimension_count", 8);
    for layer in 0..LAYERS {
        for norm in ["post_attention_norm", "post_ffw_norm"] {
            g = g.ones(&format!("blk.{layer}.{norm}.weight"), &[HIDDEN]);
        }
    }
    let spec = checked(&g).expect("opens").spec;
    assert_eq!((spec.architecture, spec.extras.norms), (Architecture::Glm4, NormPlacement::Both));
    assert_eq!((spec.rope.pairing, spec.rope.width, spec.qkv_bias), (RopePairing::Adjacent, Some(8), false));
    let images = error(&g.set("glm4.rope.dimension_sections", 9, array(5, &vec![vec![8, 0, 0, 0]; 4])));
    assert!(images.contains("glm4.rope.dimension_sections"), "{images}");

    let granite = |g: Gguf, arch: &str| g.f32(&format!("{arch}.logit_scale"), 2.0);
    let mut moe = granite(tiny_moe("granitemoe", 4, 2), "granitemoe");
    let spec = checked(&moe).expect("opens").spec;
    let experts = spec.moe.expect("experts");
    assert_eq!((spec.architecture, experts.ffn_size, experts.shared), (Architecture::GraniteMoe, FFN, None));
    assert_eq!((experts.router.normalize, spec.extras.logit_scale), (true, 0.5));
    moe = moe.u32("granitemoe.expert_shared_feed_forward_length", 24);
    for layer in 0..LAYERS {
        for (name, shape) in [("gate", [24, HIDDEN]), ("up", [24, HIDDEN]), ("down", [HIDDEN, 24])] {
            moe = moe.ones(&format!("blk.{layer}.ffn_{name}_shexp.weight"), &shape);
        }
    }
    let spec = checked(&moe).expect("opens").spec;
    assert_eq!(spec.architecture, Architecture::GraniteMoeShared);
    let shared = spec.moe.expect("experts").shared;
    assert_eq!(shared, Some(SharedExpert { ffn_size: 24, gated: false }));

    let plain = granite(tiny("granite"), "granite");
    assert!(checked(&plain).expect("opens").spec.rope_of(0).is_some());
    let still = checked(&plain.bool("granite.rope.scaling.finetuned", false)).expect("opens").spec;
    assert_eq!(still.architecture, Architecture::GraniteMoeHybrid);
    assert!((0..LAYERS).all(|l| still.rope_of(l).is_none()));
}

/// The configuration of a checkpoint of `testdata/hf`, changed.
fn changed(name: &str, change: impl FnOnce(&mut Json)) -> Result<ModelSpec, LoadError> {
    let path = crate::hf::testdata().join(name).join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    change(&mut config);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).expect("written");
    ModelSpec::from_config(&path)
}

fn refused(name: &str, change: impl FnOnce(&mut Json)) -> String {
    changed(name, change).expect_err("refused").to_string()
}

#[test]
fn long_rope_of_a_configuration() {
    let attention_factor =
        |change: &dyn Fn(&mut Json)| match changed("phi3_long", change).expect("a spec").rope.scaling {
            RopeScaling::Long(long) => long.attention_factor,
            other => panic!("{other:?}"),
        };
    // the square root of 1 + ln(128 / 64) / ln 64
    let own = (1.0f64 + 2f64.ln() / 64f64.ln()).sqrt() as f32;
    assert_eq!(attention_factor(&|_| ()), own);
    assert_eq!(attention_factor(&|c| c["max_position_embeddings"] = json!(64)), 1.0);
    assert_eq!(attention_factor(&|c| c["rope_parameters"]["attention_factor"] = json!(1.5)), 1.5);
    let four = (1.0f64 + 4f64.ln() / 64f64.ln()).sqrt() as f32;
    assert_eq!(attention_factor(&|c| c["rope_parameters"]["factor"] = json!(4.0)), four);
    for kind in ["su", "yarn"] {
        assert_eq!(attention_factor(&|c| c["rope_parameters"]["rope_type"] = json!(kind)), own, "{kind}");
    }

    let kind = refused("phi3_long", |c| c["rope_parameters"]["rope_type"] = json!("linear"));
    assert!(kind.contains("default and longrope are run"), "{kind}");
    let five = refused("phi3_long", |c| c["rope_parameters"]["long_factor"] = json!([1, 1, 1, 1, 1]));
    assert!(
        five.contains("rope_parameters.long_factor is an array of 5; expected an array of 6 numbers"),
        "{five}"
    );
    let zero = refused("phi3_long", |c| c["rope_parameters"]["short_factor"] = json!([1, 1, 1, 1, 1, 0]));
    assert!(zero.contains("rope_parameters.short_factor is an array of 6"), "{zero}");
    let none = refused("phi3_long", |c| {
        c["rope_parameters"].as_object_mut().expect("an object").remove("short_factor");
    });
    assert!(none.contains("rope_parameters.short_factor is missing"), "{none}");
    let one = refused("phi3_long", |c| c["original_max_position_embeddings"] = json!(1));
    assert!(one.contains("original_max_position_embeddings is 1"), "{one}");
    for share in [json!(0.0), json!(1.5), json!(0.7), json!(-1.0)] {
        let text = refused("phi3_long", |c| c["rope_parameters"]["partial_rotary_factor"] = share.clone());
        assert!(text.contains("partial_rotary_factor is"), "{share}: {text}");
    }
}

#[test]
fn configurations_of_the_families() {
    let spec = |name: &str| changed(name, |_| ()).expect("a spec");
    let phi3 = spec("phi3");
    assert_eq!(
        (phi3.windows, phi3.rope.width, phi3.rope.scaling),
        (vec![Some(16); 2], None, RopeScaling::None)
    );
    assert_eq!(spec("phi3_long").rope.width, Some(12));
    let glm4 = spec("glm4");
    assert_eq!((glm4.rope.pairing, glm4.rope.width, glm4.qkv_bias), (RopePairing::Adjacent, Some(12), true));
    assert_eq!(glm4.extras.norms, NormPlacement::Both);
    let glm = spec("glm");
    assert_eq!((glm.rope.width, glm.qkv_bias, glm.extras.norms), (Some(8), false, NormPlacement::Before));
    let half = changed("glm", |c| {
        c["rope_parameters"].as_object_mut().expect("an object").remove("partial_rotary_factor");
    });
    assert_eq!(half.expect("a spec").rope.width, Some(8), "GLM's default is a half");

    let moe = spec("granitemoe").moe.expect("experts");
    assert_eq!(
        (moe.experts, moe.used, moe.ffn_size, moe.router.normalize, moe.shared),
        (6, 2, 32, true, None)
    );
    let shared = spec("granitemoeshared").moe.expect("experts").shared;
    assert_eq!(shared, Some(SharedExpert { ffn_size: 40, gated: false }));
    let none = changed("granitemoeshared", |c| c["shared_intermediate_size"] = json!(0));
    assert_eq!(none.expect("a spec").moe.expect("experts").shared, None);
    let hybrid = spec("granitemoehybrid");
    assert_eq!((hybrid.ffn_size, hybrid.moe.is_none(), hybrid.extras.residual_scale), (96, true, 0.5));
    assert!(hybrid.rope_of(1).is_some());
    assert!(spec("granitemoehybrid_nope").rope_of(0).is_none());

    let mamba = refused("granitemoehybrid", |c| c["layer_types"] = json!(["mamba", "attention"]));
    assert!(mamba.contains("layer_types is [\"mamba\",\"attention\"], which is not supported"), "{mamba}");
    let experts = refused("granitemoehybrid", |c| c["num_local_experts"] = json!(4));
    assert!(experts.contains("num_local_experts is 4, which is not supported"), "{experts}");
    let bias = refused("granitemoe", |c| c["attention_bias"] = json!(true));
    assert!(bias.contains("attention_bias is true, which is not supported"), "{bias}");
}
