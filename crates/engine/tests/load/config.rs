//! `config.json`: options in both spellings, and invalid values.

use serde_json::{Value as Json, json};
use zonda_engine::load::{LoadError, Model, ModelSpec, RopeScaling};

use crate::folder::{Folder, tiny, write};

const ALL: [(&str, &str); 9] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("mixtral", "MixtralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
    ("ministral3", "Ministral3ForCausalLM"),
    ("granite", "GraniteForCausalLM"),
    ("smollm3", "SmolLM3ForCausalLM"),
];

fn model(model_type: &str) -> Folder {
    let class = ALL.iter().find(|a| a.0 == model_type).expect("an architecture").1;
    tiny(model_type, class)
}

fn llama() -> Folder {
    model("llama")
}

fn spec(folder: &Folder) -> ModelSpec {
    let model = Model::open(folder.write().path()).expect("opens");
    model.check().expect("all tensors");
    model.spec
}

fn error(folder: &Folder) -> String {
    Model::open(folder.write().path()).expect_err("refused").to_string()
}

#[test]
fn all_architectures_open() {
    for (model_type, _) in ALL {
        assert_eq!(spec(&model(model_type)).architecture.to_string(), model_type);
    }
    for other in ["phi", "glm_moe_dsa", "deepseek_v32"] {
        let text = error(&llama().set("model_type", json!(other)));
        let expected =
            format!("architecture {other:?} is not supported; expected one of llama (with SmolLM2), mistral");
        assert!(text.contains(&expected), "{text}");
    }
    let text = error(&llama().set("architectures", json!(["LlamaForSequenceClassification"])));
    assert!(
        text.contains("architectures is LlamaForSequenceClassification; expected [\"LlamaForCausalLM\"]"),
        "{text}"
    );
    assert_eq!(spec(&llama().without("architectures")), spec(&llama()));
}

#[test]
fn defaults_of_transformers() {
    let bare = |name: &str| {
        let folder = ["rms_norm_eps", "rope_theta"].iter().fold(model(name), |f, key| f.without(key));
        let spec = spec(&folder);
        (spec.norm_eps, spec.rope.theta, spec.windows[0])
    };
    assert_eq!(bare("llama"), (1e-6, 1e4, None));
    assert_eq!(bare("mistral"), (1e-6, 1e4, Some(4096)));
    assert_eq!(bare("mixtral"), (1e-5, 1e6, None));
    assert_eq!(bare("qwen2"), (1e-6, 1e4, None));
    assert_eq!(spec(&llama().without("head_dim")).head_dim, 16);
    assert_eq!(spec(&llama().set("head_dim", Json::Null)).head_dim, 16);
    assert!(!spec(&model("qwen3_moe")).moe.expect("experts").router.normalize);

    // Some defaults contradict these tiny tensors; the error then shows the default.
    let text = error(&model("mistral").without("num_key_value_heads"));
    assert!(
        text.contains("num_key_value_heads is 8; expected a divisor of num_attention_heads, 4"),
        "{text}"
    );
    let wrong_shape = |folder: Folder| {
        let model = Model::open(folder.write().path()).expect("opens");
        model.check().expect_err("another shape").to_string()
    };
    let text = wrong_shape(llama().without("num_key_value_heads"));
    assert!(text.contains("k_proj.weight has shape [32, 64]; expected [64, 64]"), "{text}");
    let text = wrong_shape(model("qwen3").without("head_dim"));
    assert!(text.contains("q_proj.weight has shape [64, 64]; expected [512, 64]"), "{text}");
}

#[test]
fn windows() {
    let windows = |folder: Folder| spec(&folder).windows;
    let mistral = || model("mistral");
    assert_eq!(windows(mistral().set("sliding_window", json!(16))), [Some(16); 2]);
    assert_eq!(windows(mistral().set("sliding_window", Json::Null)), [None; 2]);
    assert!(
        error(&mistral().set("sliding_window", json!(0)))
            .contains("sliding_window is 0; expected an integer from 1")
    );
    assert_eq!(windows(model("mixtral").set("sliding_window", json!(16))), [Some(16); 2]);
    assert_eq!(windows(llama().set("sliding_window", json!(16))), [None; 2]);
    let mixed = mistral().set("layer_types", json!(["full_attention", "sliding_attention"]));
    assert!(error(&mixed).contains("layer_types is a pattern at odds with sliding_window"));

    for name in ["qwen2", "qwen3"] {
        let qwen = || model(name).set("sliding_window", json!(16));
        let used = || qwen().set("use_sliding_window", json!(true));
        assert_eq!(windows(qwen()), [None; 2]);
        assert_eq!(windows(used()), [None; 2], "the first 28 layers have no window");
        assert_eq!(windows(used().set("max_window_layers", json!(1))), [None, Some(16)]);
        assert_eq!(windows(used().set("max_window_layers", json!(0))), [Some(16); 2]);
        let types = json!(["sliding_attention", "full_attention"]);
        assert_eq!(windows(used().set("layer_types", types.clone())), [Some(16), None]);
        assert_eq!(windows(qwen().set("layer_types", types)), [None; 2]);
        assert!(
            error(&used().set("layer_types", json!(["full_attention"])))
                .contains("expected an array of 2 strings")
        );
        assert!(
            error(&used().set("layer_types", json!(["linear", "full_attention"])))
                .contains("an array with \"linear\"")
        );
    }
    let moe = model("qwen3_moe").set("sliding_window", json!(16)).set("use_sliding_window", json!(true));
    assert_eq!(windows(moe), [Some(16); 2]);
}

#[test]
fn rope_in_both_spellings() {
    let new = |parameters: Json| spec(&llama().without("rope_theta").set("rope_parameters", parameters)).rope;
    let old = |theta: f64, scaling: Json| {
        spec(&llama().set("rope_theta", json!(theta)).set("rope_scaling", scaling)).rope
    };
    let linear = old(5e5, json!({ "type": "linear", "factor": 2 }));
    assert_eq!((linear.theta, &linear.scaling), (5e5, &RopeScaling::Linear { factor: 2.0 }));
    assert_eq!(linear, old(5e5, json!({ "rope_type": "linear", "factor": 2.0 })));
    assert_eq!(linear, new(json!({ "rope_theta": 5e5, "rope_type": "linear", "factor": 2.0 })));
    assert_eq!(old(1e4, json!({})).scaling, RopeScaling::None);
    assert_eq!(old(1e4, json!({ "rope_type": "default" })).scaling, RopeScaling::None);

    let same = json!({ "rope_theta": 1e6, "rope_type": "default" });
    let nested = json!({ "full_attention": same, "sliding_attention": same });
    assert_eq!(new(nested).theta, 1e6);
    let differ = json!({ "full_attention": same, "sliding_attention": { "rope_theta": 1e4 } });
    let text = error(&llama().set("rope_parameters", differ));
    assert!(text.contains("rope_parameters is one object per kind of layer, which differ"), "{text}");

    let llama3 =
        json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0 });
    let RopeScaling::Llama3 { original_context, .. } = old(1e4, llama3.clone()).scaling else {
        panic!("llama3")
    };
    assert_eq!(original_context, 128, "by default the model's context");
    let outer = llama().set("rope_scaling", llama3).set("original_max_position_embeddings", json!(32));
    assert!(matches!(spec(&outer).rope.scaling, RopeScaling::Llama3 { original_context: 32, .. }));
}

#[test]
fn yarn_attention_factors() {
    let factor = |extra: Json| {
        let mut scaling = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 });
        let Json::Object(extra) = extra else { unreachable!("an object") };
        scaling.as_object_mut().expect("an object").extend(extra);
        match spec(&llama().set("rope_scaling", scaling)).rope.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            other => panic!("{other:?}"),
        }
    };
    let mscale = |m: f32| 0.1 * m * 4f32.ln() + 1.0;
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
    close(factor(json!({})), mscale(1.0));
    close(factor(json!({ "attention_factor": 0.5 })), 0.5);
    close(factor(json!({ "attention_factor": 0.5, "mscale": 2.0, "mscale_all_dim": 1.0 })), 0.5);
    close(factor(json!({ "mscale": 2.0, "mscale_all_dim": 0.5 })), mscale(2.0) / mscale(0.5));
    close(factor(json!({ "mscale": 2.0 })), mscale(1.0));
    close(factor(json!({ "mscale": 2.0, "mscale_all_dim": 0 })), mscale(1.0));

    let scaling = json!({
        "rope_type": "yarn", "factor": null, "original_max_position_embeddings": 32,
        "truncate": false, "beta_fast": 0, "beta_slow": 2,
    });
    let expected = RopeScaling::Yarn {
        factor: 4.0, // 128 / 32
        original_context: 32,
        beta_fast: 32.0,
        beta_slow: 2.0,
        attention_factor: mscale(1.0),
        truncate: false,
    };
    assert_eq!(spec(&llama().set("rope_scaling", scaling)).rope.scaling, expected);
}

/// `null` is what `transformers` writes for what a model doesn't have.
#[test]
fn null_is_as_good_as_nothing() {
    let optional = [
        "architectures",
        "_name_or_path",
        "hidden_act",
        "hidden_activation",
        "torch_dtype",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_local_base_freq",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "layer_types",
        "max_window_layers",
        "use_sliding_window",
        "sliding_window_pattern",
        "attention_bias",
        "mlp_bias",
        "qkv_bias",
        "use_bidirectional_attention",
        "tie_word_embeddings",
        "quantization",
        "quantization_config",
        "rms_norm_eps",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
        "embedding_multiplier",
        "residual_multiplier",
        "attention_multiplier",
        "logits_scaling",
        "no_rope_layers",
        "no_rope_layer_interval",
    ];
    for (model_type, _) in ALL {
        let mut nulls = model(model_type);
        let mut nothing = model(model_type);
        for key in optional {
            let one = spec(&model(model_type).set(key, Json::Null));
            assert_eq!(one, spec(&model(model_type).without(key)), "{model_type}: {key}");
            (nulls, nothing) = (nulls.set(key, Json::Null), nothing.without(key));
        }
        assert_eq!(spec(&nulls), spec(&nothing), "{model_type}");
    }
    let windows = model("qwen2").set("use_sliding_window", json!(true)).set("sliding_window", json!(16));
    assert_eq!(spec(&windows.clone().set("max_window_layers", Json::Null)), spec(&windows));
}

/// In `transformers`, these are derived from other numbers where they are null, and have a default where they are absent.
#[test]
fn null_heads_are_derived() {
    for model_type in ["llama", "mistral", "mixtral", "qwen2", "qwen3", "ministral3", "smollm3"] {
        let mut folder = model(model_type).set("num_key_value_heads", Json::Null).set("head_dim", Json::Null);
        for layer in 0..2 {
            for name in ["k_proj", "v_proj"] {
                folder = folder.ones(&format!("model.layers.{layer}.self_attn.{name}.weight"), &[64, 64]);
                if model_type == "qwen2" {
                    folder = folder.ones(&format!("model.layers.{layer}.self_attn.{name}.bias"), &[64]);
                }
            }
        }
        let spec = spec(&folder);
        assert_eq!((spec.kv_heads, spec.head_dim), (4, 16), "{model_type}");
    }
}

#[test]
fn unsupported_rope_variants_are_refused() {
    for kind in ["dynamic", "longrope", "su", "mrope", "proportional"] {
        let text = error(&llama().set("rope_scaling", json!({ "type": kind, "factor": 2.0 })));
        assert!(
            text.contains(&format!("rope_scaling.type is {kind:?}, which is not supported; default, linear")),
            "{text}"
        );
    }
    let text = error(&llama().set("partial_rotary_factor", json!(0.5)));
    assert!(text.contains("partial_rotary_factor is 0.5, which is not supported"), "{text}");
    assert!(
        error(&llama().set("rope_scaling", json!("linear")))
            .contains("rope_scaling is \"linear\"; expected an object")
    );
    let text = error(&llama().set("rope_scaling", json!({ "type": "linear" })));
    assert!(text.contains("rope_scaling.factor is missing; expected a number above 0"), "{text}");
    let text = error(&llama().set("rope_scaling", json!({ "type": "linear", "factor": -1 })));
    assert!(text.contains("rope_scaling.factor is -1; expected a number above 0"), "{text}");
    let flat = json!({ "type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 3 });
    assert!(
        error(&llama().set("rope_scaling", flat))
            .contains("high_freq_factor is 3; expected a number of at least low_freq")
    );
}

#[test]
fn unsupported_functions_are_refused() {
    let text = error(&llama().set("hidden_act", json!("gelu")));
    assert!(
        text.contains("hidden_act is \"gelu\", which is not supported; only \"silu\" is supported"),
        "{text}"
    );
    for key in ["attention_bias", "mlp_bias"] {
        assert!(
            error(&llama().set(key, json!(true))).contains(&format!("{key} is true, which is not supported"))
        );
    }
    let moe = || model("qwen3_moe");
    assert!(error(&moe().set("decoder_sparse_step", json!(2))).contains("decoder_sparse_step is 2"));
    assert!(error(&moe().set("mlp_only_layers", json!([0]))).contains("mlp_only_layers is [0]"));
}

#[test]
fn quantized_folders_are_refused_with_advice() {
    for method in ["gptq", "awq", "fbgemm_fp8", "bitsandbytes"] {
        let text = error(&llama().set("quantization_config", json!({ "quant_method": method })));
        assert!(
            text.contains(&format!("quantized with {method} are not supported; use the original")),
            "{text}"
        );
    }
}

#[test]
fn invalid_values_are_refused() {
    let keys = ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"];
    for key in keys.into_iter().chain(["max_position_embeddings"]) {
        let text = error(&llama().without(key));
        assert!(
            text.contains(&format!("config.json: {key} is missing; expected an integer from 1")),
            "{text}"
        );
        for value in [json!(0), json!(-4), json!(1.5), json!("8"), json!(1u64 << 40), json!([1]), json!({})] {
            let text = error(&llama().set(key, value));
            assert!(
                text.contains(&format!("{key} is ")) && text.contains("; expected an integer from 1"),
                "{text}"
            );
        }
    }
    let text = error(&llama().set("num_key_value_heads", json!(3)));
    assert!(
        text.contains("num_key_value_heads is 3; expected a divisor of num_attention_heads, 4"),
        "{text}"
    );
    assert!(error(&llama().set("head_dim", json!(15))).contains("head_dim is 15; expected an even number"));
    let odd = llama().without("head_dim").set("num_attention_heads", json!(6));
    assert!(error(&odd).contains("num_attention_heads is 6; expected a divisor of the hidden size, 64"));
    assert!(
        error(&llama().set("rms_norm_eps", json!(0)))
            .contains("rms_norm_eps is 0; expected a number above 0")
    );
    assert!(error(&llama().set("rms_norm_eps", json!(1e-300))).contains("expected a number above 0"));
    assert!(error(&llama().set("rope_theta", json!(1e300))).contains("rope_theta is"));
    assert!(error(&llama().set("tie_word_embeddings", json!("yes"))).contains("expected true or false"));
    assert!(error(&llama().set("model_type", json!(3))).contains("model_type is 3; expected a string"));
    assert!(error(&llama().without("model_type")).contains("model_type is missing; expected llama (with"));
    let many = model("mixtral").set("num_experts_per_tok", json!(5));
    assert!(error(&many).contains("num_experts_per_tok is 5; expected at most the number of experts, 4"));
}

#[test]
fn files_that_are_not_a_configuration_are_refused() {
    let folder = llama().write();
    for text in ["", "{", "[]", "null", "{\"a\": NaN}", "\u{feff}{}"] {
        write(&folder, "config.json", text.as_bytes());
        assert!(matches!(Model::open(folder.path()), Err(LoadError::Json { .. })), "{text:?}");
    }
    write(&folder, "config.json", "[".repeat(100_000).as_bytes());
    assert!(matches!(Model::open(folder.path()), Err(LoadError::Json { .. })), "too deeply nested");
    write(&folder, "config.json", &vec![b' '; (1 << 20) + 1]);
    assert!(matches!(Model::open(folder.path()), Err(LoadError::TooLarge { .. })));
}
