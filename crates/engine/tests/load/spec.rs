//! Specs from GGUF metadata: every architecture and option, and invalid values.

use zonda_engine::load::{
    Architecture, Extras, LayerTensor, ModelSpec, Moe, RopePairing, RopeScaling, RouterScore, TensorRole,
};

use crate::build::*;

#[test]
fn llama() {
    let spec = spec(&tiny("llama").str("general.name", "Tiny").ones("output.weight", &[VOCAB, HIDDEN]));
    let expected = ModelSpec {
        architecture: Architecture::Llama,
        name: Some("Tiny".to_owned()),
        vocab_size: VOCAB,
        context_length: 128,
        hidden_size: HIDDEN,
        layers: LAYERS,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        ffn_size: FFN,
        norm_eps: 1e-5,
        rope: zonda_engine::load::Rope {
            theta: 10_000.0,
            pairing: RopePairing::Adjacent,
            width: None,
            scaling: RopeScaling::None,
        },
        windows: vec![None; LAYERS],
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: false,
        moe: None,
        extras: Extras::default(),
    };
    assert_eq!(spec, expected);
}

#[test]
fn the_other_architectures() {
    let window = spec(&tiny("llama").u32("llama.attention.sliding_window", 16));
    assert_eq!((window.architecture, window.windows), (Architecture::Mistral, vec![Some(16); 2]));
    let pattern = array(7, &[vec![0], vec![1]]);
    let g = tiny("llama").u32("llama.attention.sliding_window", 16);
    let some = spec(&g.set("llama.attention.sliding_window_pattern", 9, pattern));
    assert_eq!(some.windows, [None, Some(16)]);

    let mut qwen2 = tiny("qwen2");
    let mut qwen3 = tiny("qwen3");
    for layer in 0..LAYERS {
        for (name, width) in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)] {
            qwen2 = qwen2.ones(&format!("blk.{layer}.attn_{name}.bias"), &[width * HEAD_DIM]);
        }
        for name in ["q", "k"] {
            qwen3 = qwen3.ones(&format!("blk.{layer}.attn_{name}_norm.weight"), &[HEAD_DIM]);
        }
    }
    let qwen2 = spec(&qwen2);
    assert_eq!((qwen2.architecture, qwen2.qkv_bias, qwen2.qk_norm), (Architecture::Qwen2, true, false));
    assert_eq!((qwen2.rope.pairing, qwen2.tied_embeddings), (RopePairing::Halves, true));
    let qwen3 = spec(&qwen3);
    assert_eq!((qwen3.architecture, qwen3.qkv_bias, qwen3.qk_norm), (Architecture::Qwen3, false, true));

    let mistral3 = spec(&tiny("mistral3").str("mistral3.rope.scaling.type", "yarn"));
    assert_eq!(
        (mistral3.architecture, mistral3.rope.pairing),
        (Architecture::Mistral, RopePairing::Adjacent)
    );
}

#[test]
fn llama_with_biases_on_q_k_and_v() {
    let mut g = tiny("llama");
    for layer in 0..LAYERS {
        for (name, width) in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)] {
            g = g.ones(&format!("blk.{layer}.attn_{name}.bias"), &[width * HEAD_DIM]);
        }
    }
    assert!(spec(&g).qkv_bias);
    assert!(error(&g.without("blk.1.attn_v.bias")).contains("tensor blk.1.attn_v.bias is missing"));
}

#[test]
fn the_head_size_may_differ_from_hidden_size_over_heads() {
    let mut g = tiny("llama").u32("llama.attention.key_length", 32).u32("llama.attention.value_length", 32);
    for layer in 0..LAYERS {
        g = g
            .ones(&format!("blk.{layer}.attn_q.weight"), &[HEADS * 32, HIDDEN])
            .ones(&format!("blk.{layer}.attn_k.weight"), &[KV_HEADS * 32, HIDDEN])
            .ones(&format!("blk.{layer}.attn_v.weight"), &[KV_HEADS * 32, HIDDEN])
            .ones(&format!("blk.{layer}.attn_output.weight"), &[HIDDEN, HEADS * 32]);
    }
    assert_eq!(spec(&g).head_dim, 32);
    assert!(error(&g.clone().u32("llama.attention.value_length", 16)).contains("value_length is 16"));
    let partial = error(&g.u32("llama.rope.dimension_count", 16));
    assert!(partial.contains("llama.rope.dimension_count is 16, which is not supported"), "{partial}");
}

#[test]
fn experts_may_be_fused_or_separate() {
    let fused = tiny_moe("llama", 4, 2);
    let mut values = Vec::new();
    for expert in 0..4 {
        values.extend((expert as f32).to_le_bytes().repeat(FFN * HIDDEN));
    }
    let fused = fused.filled("blk.1.ffn_up_exps.weight", &[4, FFN, HIDDEN], 0, values);
    let model = open(&fused).expect("opens");
    model.check().expect("all tensors");
    assert_eq!(model.spec.architecture, Architecture::Mixtral);
    assert_eq!(model.spec.moe, Some(Moe::plain(4, 2, FFN, true)));
    for expert in 0..4 {
        let tensor = model.tensor(TensorRole::Layer(1, LayerTensor::ExpertUp(expert))).expect("an expert");
        assert_eq!(tensor.shape, [FFN, HIDDEN]);
        assert_eq!(tensor.to_f32(), vec![expert as f32; FFN * HIDDEN]);
    }

    let mut apart = fused;
    for layer in 0..LAYERS {
        for name in ["gate", "up", "down"] {
            apart = apart.without(&format!("blk.{layer}.ffn_{name}_exps.weight"));
            for expert in 0..4 {
                let shape = if name == "down" { [HIDDEN, FFN] } else { [FFN, HIDDEN] };
                apart = apart.ones(&format!("blk.{layer}.ffn_{name}.{expert}.weight"), &shape);
            }
        }
    }
    assert_eq!(spec(&apart).moe, model.spec.moe);
    let error = error(&apart.without("blk.0.ffn_up.3.weight"));
    assert!(error.contains("tensor blk.0.ffn_up_exps.weight[3] is missing"), "{error}");
}

#[test]
fn qwen3_moe() {
    let mut g = tiny_moe("qwen3moe", 8, 2)
        .u32("qwen3moe.expert_feed_forward_length", FFN as u32)
        .u32("qwen3moe.feed_forward_length", 999);
    for layer in 0..LAYERS {
        for name in ["q", "k"] {
            g = g.ones(&format!("blk.{layer}.attn_{name}_norm.weight"), &[HEAD_DIM]);
        }
    }
    let moe = spec(&g).moe.expect("experts");
    assert_eq!(moe, Moe::plain(8, 2, FFN, true));
    let g = g.bool("qwen3moe.expert_weights_norm", false);
    assert!(!spec(&g).moe.expect("experts").router.normalize);
    assert!(
        error(&g.clone().u32("qwen3moe.expert_used_count", 9))
            .contains("is 9; expected an integer from 1 to 8")
    );
    assert!(error(&g.without("qwen3moe.expert_count")).contains("qwen3moe.expert_count is missing"));
}

/// As llama.cpp's converter writes it: no key says that every second layer has the window.
#[test]
fn gpt_oss() {
    let mut g = tiny_moe("gpt-oss", 4, 2)
        .u32("gpt-oss.attention.sliding_window", 128)
        .u32("gpt-oss.expert_feed_forward_length", FFN as u32);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("blk.{layer}.{name}");
        g = g
            .without(&at("ffn_norm.weight"))
            .ones(&at("post_attention_norm.weight"), &[HIDDEN])
            .ones(&at("attn_sinks.weight"), &[HEADS])
            .ones(&at("attn_q.bias"), &[HEADS * HEAD_DIM])
            .ones(&at("attn_k.bias"), &[KV_HEADS * HEAD_DIM])
            .ones(&at("attn_v.bias"), &[KV_HEADS * HEAD_DIM])
            .ones(&at("attn_output.bias"), &[HIDDEN])
            .ones(&at("ffn_gate_inp.bias"), &[4])
            .ones(&at("ffn_gate_exps.bias"), &[4, FFN])
            .ones(&at("ffn_up_exps.bias"), &[4, FFN])
            .ones(&at("ffn_down_exps.bias"), &[4, HIDDEN]);
    }
    let spec = spec(&g);
    assert_eq!(spec.architecture, Architecture::GptOss);
    let windows: Vec<_> = (0..LAYERS).map(|layer| layer.is_multiple_of(2).then_some(128)).collect();
    assert_eq!(spec.windows, windows);
    let moe = spec.moe.expect("experts");
    assert_eq!((moe.router.score, moe.router.bias, moe.bias), (RouterScore::SoftmaxOfUsed, true, true));
    for name in ["blk.0.attn_sinks.weight", "blk.1.ffn_up_exps.bias", "blk.1.post_attention_norm.weight"] {
        let error = error(&g.clone().without(name));
        assert!(error.contains(name) && error.contains("is missing"), "{error}");
    }
}

#[test]
fn rope_scalings() {
    let scaling = |g: Gguf| spec(&g).rope.scaling;
    let llama = || tiny("llama").f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(scaling(llama()), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        scaling(llama().str("llama.rope.scaling.type", "linear")),
        RopeScaling::Linear { factor: 4.0 }
    );
    assert_eq!(scaling(llama().str("llama.rope.scaling.type", "none")), RopeScaling::None);
    assert_eq!(scaling(llama().f32("llama.rope.scaling.factor", 0.0)), RopeScaling::None);
    assert_eq!(
        scaling(tiny("llama").f32("llama.rope.scale_linear", 2.0)),
        RopeScaling::Linear { factor: 2.0 }
    );

    let freqs: Vec<f32> = (1..=HEAD_DIM / 2).map(|i| i as f32).collect();
    let bytes: Vec<u8> = freqs.iter().flat_map(|f| f.to_le_bytes()).collect();
    let llama3 = tiny("llama").filled("rope_freqs.weight", &[HEAD_DIM / 2], 0, bytes);
    assert_eq!(scaling(llama3.clone()), RopeScaling::Factors(freqs.clone()));
    let both = llama3.clone().f32("llama.rope.scaling.factor", 2.0);
    assert_eq!(scaling(both), RopeScaling::Factors(freqs.iter().map(|f| f * 2.0).collect()));
    assert!(
        error(&llama3.clone().str("llama.rope.scaling.type", "yarn")).contains("yarn with rope_freqs.weight")
    );
    let wide = llama3.clone().ones("rope_freqs.weight", &[HEAD_DIM]);
    assert!(error(&wide).contains("rope_freqs.weight has shape [16]; expected [8]"));
    let nan = llama3.filled("rope_freqs.weight", &[8], 0, f32::NAN.to_le_bytes().repeat(8));
    assert!(error(&nan).contains("rope_freqs.weight[0] is NaN; expected a number above 0"));

    for other in ["longrope", "dynamic"] {
        let text = error(&llama().str("llama.rope.scaling.type", other));
        assert!(text.contains(other) && text.contains("none, linear and yarn are run"), "{text}");
    }
    assert!(error(&llama().f32("llama.rope.scaling.attn_factor", 2.0)).contains("attn_factor is 2"));
}

#[test]
fn yarn_attention_factors_are_resolved_as_in_llama_cpp() {
    let yarn = |edit: fn(Gguf) -> Gguf| {
        let g = tiny("llama").str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
        match spec(&edit(g.u32("llama.rope.scaling.original_context_length", 32))).rope.scaling {
            RopeScaling::Yarn {
                attention_factor, factor: 4.0, original_context: 32, truncate: true, ..
            } => attention_factor,
            other => panic!("{other:?}"),
        }
    };
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
    let plain = 0.1 * 4f32.ln() + 1.0;
    close(yarn(|g| g), plain);
    close(yarn(|g| g.f32("llama.rope.scaling.attn_factor", 0.5)), plain * 0.5);
    close(yarn(|g| g.f32("llama.rope.scaling.yarn_log_multiplier", 1.0)), 1.0);
    close(yarn(|g| g.f32("llama.rope.scaling.yarn_log_multiplier", 2.0)), plain / (0.2 * 4f32.ln() + 1.0));
    let g =
        tiny("llama").str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.yarn_beta_fast", 8.0);
    let RopeScaling::Yarn { beta_fast, beta_slow, original_context, factor, .. } = spec(&g).rope.scaling
    else {
        panic!("yarn")
    };
    assert_eq!((beta_fast, beta_slow, original_context, factor), (8.0, 1.0, 128, 1.0));
    assert!(error(&g.f32("llama.rope.scaling.yarn_ext_factor", 0.5)).contains("yarn_ext_factor is 0.5"));
}

#[test]
fn missing_keys_are_named() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let text = error(&tiny("llama").without(&format!("llama.{key}")));
        assert!(text.contains(&format!("m.gguf: llama.{key} is missing; expected ")), "{text}");
    }
    let text = error(&tiny("llama").without("general.architecture"));
    assert!(text.contains("general.architecture is missing; expected llama (Llama, Mistral"), "{text}");
    assert_eq!(spec(&tiny("llama").without("llama.attention.head_count_kv").all_heads()).kv_heads, HEADS);
}

trait AllHeads {
    fn all_heads(self) -> Self;
}

impl AllHeads for Gguf {
    /// As many KV heads as heads.
    fn all_heads(mut self) -> Gguf {
        for layer in 0..LAYERS {
            for name in ["attn_k", "attn_v"] {
                self = self.ones(&format!("blk.{layer}.{name}.weight"), &[HEADS * HEAD_DIM, HIDDEN]);
            }
        }
        self
    }
}

#[test]
fn invalid_values_are_refused() {
    let wrong = |key: &str, value: u32| error(&tiny("llama").u32(&format!("llama.{key}"), value));
    for key in
        ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"]
    {
        for value in [0, u32::MAX] {
            let text = wrong(key, value);
            assert!(text.contains(&format!("llama.{key} is {value}; expected an integer from 1")), "{text}");
        }
    }
    assert!(
        wrong("attention.head_count_kv", 3)
            .contains("is 3; expected a divisor of llama.attention.head_count, 4")
    );
    assert!(
        wrong("attention.head_count_kv", 8)
            .contains("is 8; expected a divisor of llama.attention.head_count, 4")
    );
    assert!(
        wrong("attention.head_count", 7)
            .contains("head_count is 7; expected a divisor of the hidden size, 64")
    );
    assert!(wrong("attention.key_length", 15).contains("key_length is 15; expected an even number from 2"));
    assert!(wrong("attention.key_length", 1 << 20).contains("expected an even number from 2 to 4096"));
    for eps in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1.0] {
        let text = error(&tiny("llama").f32("llama.attention.layer_norm_rms_epsilon", eps));
        assert!(text.contains("layer_norm_rms_epsilon is") && text.contains("; expected a"), "{text}");
    }
    for theta in [f32::NAN, 0.0, -5.0, 0.5] {
        assert!(error(&tiny("llama").f32("llama.rope.freq_base", theta)).contains("llama.rope.freq_base is"));
    }
    let text = error(&tiny("llama").str("llama.block_count", "two"));
    assert!(text.contains("llama.block_count is \"two\"; expected an integer from 1 to 1024"), "{text}");
    let text = error(&tiny("llama").set("llama.block_count", 5, (-2i32).to_le_bytes().to_vec()));
    assert!(text.contains("llama.block_count is i32 -2; expected"), "{text}");
    let text = error(&tiny("llama").u32("llama.block_count", 3));
    assert!(text.contains("tensor blk.2.attn_norm.weight is missing; expected one of shape [64]"), "{text}");
    let tokens: Vec<_> = (0..9).map(|_| string("t")).collect();
    let text = error(&tiny("llama").set("tokenizer.ggml.tokens", 9, array(8, &tokens)));
    assert!(text.contains("tokenizer.ggml.tokens is an array of 9 strings; expected at most 8"), "{text}");
}

#[test]
fn head_counts_per_layer_must_be_equal() {
    let per_layer = |values: [i32; 2]| array(5, &values.map(|v| v.to_le_bytes().to_vec()));
    let same = tiny("llama").set("llama.attention.head_count_kv", 9, per_layer([2, 2]));
    assert_eq!(spec(&same).kv_heads, 2);
    let text = error(&tiny("llama").set("llama.attention.head_count_kv", 9, per_layer([2, 4])));
    assert!(text.contains("head_count_kv is an array of 2 numbers that are negative or differ"), "{text}");
}

/// A number of GGUF's integer types 0 to 5, 10 and 11.
fn integer(kind: u32, n: i64) -> Vec<u8> {
    let bytes = [1, 1, 2, 2, 4, 4, 0, 0, 0, 0, 8, 8][kind as usize];
    n.to_le_bytes()[..bytes].to_vec()
}

#[test]
fn integers_may_have_any_integer_type() {
    for kind in [0, 1, 2, 3, 4, 5, 10, 11] {
        let list = |values: [i64; 2]| array(kind, &values.map(|n| integer(kind, n)));
        let kv_heads = |value| tiny("llama").set("llama.attention.head_count_kv", 9, value);
        assert_eq!(spec(&kv_heads(list([2, 2]))).kv_heads, KV_HEADS, "type {kind}");
        let text = error(&kv_heads(list([2, 4])));
        assert!(text.contains("head_count_kv is an array of 2 numbers"), "type {kind}: {text}");

        let mut whole = tiny("llama");
        for (key, value) in [
            ("block_count", LAYERS),
            ("context_length", 100),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", FFN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.sliding_window", 16),
            ("attention.sliding_window_pattern", 2),
        ] {
            whole = whole.set(&format!("llama.{key}"), kind, integer(kind, value as i64));
        }
        assert_eq!(spec(&whole).windows, [Some(16), None], "type {kind}");
        let pattern = whole.set("llama.attention.sliding_window_pattern", 9, list([0, 1]));
        assert_eq!(spec(&pattern).windows, [None, Some(16)], "type {kind}");
        let text = error(&pattern.set("llama.attention.sliding_window_pattern", 9, list([0, 2])));
        assert!(text.contains("sliding_window_pattern is an array"), "type {kind}: {text}");
    }
    for (kind, n) in [(10, -1), (11, i64::MIN), (1, -2), (3, 0)] {
        let text = error(&tiny("llama").set("llama.block_count", kind, integer(kind, n)));
        assert!(text.contains("; expected an integer from 1 to"), "{text}");
        let list = array(kind, &[integer(kind, n), integer(kind, n)]);
        let text = error(&tiny("llama").set("llama.attention.head_count_kv", 9, list));
        assert!(text.contains("; expected an integer from 1 to"), "{text}");
    }
}

#[test]
fn wrong_tensors_are_refused() {
    let text = error(&tiny("llama").without("blk.1.ffn_down.weight"));
    assert!(
        text.contains("tensor blk.1.ffn_down.weight is missing; expected one of shape [64, 32]"),
        "{text}"
    );
    let text = error(&tiny("llama").ones("blk.0.attn_k.weight", &[HIDDEN, 32]));
    assert!(text.contains("blk.0.attn_k.weight has shape [64, 32]; expected [32, 64]"), "{text}");
    let text = error(&tiny("llama").ones("token_embd.weight", &[8]));
    assert!(text.contains("token_embd.weight has shape [8]"), "{text}");
    assert!(
        error(&tiny("llama").without("token_embd.weight")).contains("tensor token_embd.weight is missing")
    );
    let text = error(&tiny_moe("llama", 4, 2).ones("blk.0.ffn_up_exps.weight", &[3, FFN, HIDDEN]));
    assert!(text.contains("blk.0.ffn_up_exps.weight has shape [3, 32, 64]; expected [4, 32, 64]"), "{text}");
}

#[test]
fn unsupported_variants_are_refused() {
    for name in [
        "blk.0.attn_output.bias",
        "blk.1.ffn_up.bias",
        "blk.0.attn_q_norm.weight",
        "blk.7.attn_q.weight",
        "cls.weight",
    ] {
        let text = error(&tiny("llama").ones(name, &[HIDDEN]));
        assert!(text.contains(&format!("tensor {name} has no place in architecture llama")), "{text}");
    }
    let fifth = error(&tiny_moe("llama", 4, 2).ones("blk.0.ffn_up.4.weight", &[FFN, HIDDEN]));
    assert!(fifth.contains("tensor blk.0.ffn_up.4.weight has no place in architecture mixtral"), "{fifth}");
    spec(&tiny("llama").ones("blk.0.attn_rot_embd.weight", &[8]));
    for key in ["attention.scale", "final_logit_softcapping", "attention.temperature_scale"] {
        let text = error(&tiny("llama").f32(&format!("llama.{key}"), 0.5));
        assert!(text.contains(&format!("llama.{key} is 0.5, which is not supported")), "{text}");
        spec(&tiny("llama").f32(&format!("llama.{key}"), 0.0));
    }
    assert!(error(&tiny("llama").bool("llama.attention.causal", false)).contains("causal is false"));
    for arch in ["gemma4", "phi2", "mamba"] {
        let text = error(&tiny(arch));
        assert!(
            text.contains(&format!("architecture {arch:?} is not supported; expected one of llama (")),
            "{text}"
        );
    }
}

#[test]
fn inspection_has_the_right_figures() {
    let model = open(&tiny("llama").tensor("blk.0.attn_q.weight", &[64, 64], 8, 64 * 68)).expect("opens");
    assert_eq!(model.spec.kv_bytes_per_token(2), 2 * 2 * 2 * 16 * 2);
    let memory = model.memory(100, 2);
    assert_eq!((memory.kv, memory.total()), (25_600, 25_600 + model.weight_bytes()));
    assert_eq!(model.type_label(), "f32+q8_0");
    let types = model.types();
    assert_eq!(types.iter().map(|t| t.tensors).sum::<usize>(), model.tensors().len());
    assert_eq!(types.iter().map(|t| t.bytes).sum::<u64>(), model.weight_bytes());
    assert_eq!(types[1].bytes, 64 * 68);
    let layer = 2 * 64 + 64 * 64 * 2 + 32 * 64 * 2 + 3 * 32 * 64;
    assert_eq!(model.parameters(), 8 * 64 + 64 + 2 * layer);
}
