//! Mistral's own layout of a folder: `params.json`, `consolidated*.safetensors` and `tekken.json`.
//!
//! The parameters become a configuration in `transformers`' spelling and the tensors get their names there, so that all checks are
//! the same. Two things differ: Q and K are stored for adjacent RoPE pairs, and the temperature of queries has its own original
//! context. Facts about the layout: mistral-inference and vLLM, which read it.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::float8::Float8;
use super::hf::{self, Config};
use super::safetensors;
use super::source::{Store, read_small};
use super::spec::{Architecture, QueryTemperature, RopePairing};
use super::validate::MAX_LAYERS;

/// The file with the parameters.
pub(super) const PARAMS: &str = "params.json";
/// How the names of files with weights begin.
pub(super) const STEM: &str = "consolidated";
/// Maximum size of `params.json`; real ones have a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;
/// The context of files that don't say one, as vLLM has it.
const DEFAULT_CONTEXT: usize = 128_000;

/// The keys that are read, and those that change nothing here: parts that read images, limits of a server.
const KEYS: [&str; 29] = [
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "hidden_dim",
    "vocab_size",
    "norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "max_seq_len",
    "max_batch_size",
    "tied_embeddings",
    "sliding_window",
    "yarn",
    "llama_4_scaling",
    "moe",
    "quantization",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "vision_encoder",
    "multimodal",
    "model_type",
    "activation",
    "use_biases",
    "causal",
];
const YARN_KEYS: [&str; 5] = ["factor", "original_max_position_embeddings", "beta", "alpha", "apply_scale"];
const SCALING_KEYS: [&str; 2] = ["original_max_position_embeddings", "beta"];
const MOE_KEYS: [&str; 12] = [
    "num_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "route_every_n",
    "expert_hidden_dim",
    "routed_scale",
    "num_shared_experts",
    "num_expert_groups",
    "num_expert_groups_per_tok",
    // how the experts were spread over machines
    "expert_parallel",
    "expert_model_parallel",
    "use_load_balancing_bias",
];

/// Whether a folder has this layout and not that of `transformers`, which is preferred.
pub(super) fn is_in(folder: &Path) -> bool {
    let has = |name: &str, stem: &str| folder.join(name).is_file() && safetensors::has_any(folder, stem);
    has(PARAMS, STEM) && !has("config.json", "model")
}

/// Reads a `params.json`.
pub(super) fn read(path: &Path) -> Result<Config, LoadError> {
    let bytes = read_small(path, "a configuration", MAX_BYTES)?;
    let object: Map<String, Json> =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::Json { path: path.to_owned(), error })?;
    let params = Object { path, prefix: "", object: &object };
    known(&params, &KEYS)?;
    for (key, runs) in [("model_type", "transformer"), ("activation", "silu")] {
        if let Some(found) = params.text(key)?.filter(|&found| found != runs) {
            return Err(params.unsupported(key, format!("{found:?}"), format!("{runs:?} is run")));
        }
    }
    for (key, runs) in [("use_biases", false), ("causal", true)] {
        if let Some(found) = params.flag(key)?.filter(|&found| found != runs) {
            return Err(params.unsupported(key, found, format!("{runs} is run")));
        }
    }
    let float8 = float8(&params)?;
    let temperature = temperature(&params)?;
    let config = configuration(&params, temperature.is_some())?;
    let mut spec = hf::parse(path, &Object { path, prefix: "", object: &config }, None)?;
    spec.rope.pairing = RopePairing::Adjacent;
    spec.extras.query_temperature = temperature;
    spec.windows = windows(&params, spec.layers)?;
    Ok(Config { spec, quantization: None, float8 })
}

/// Refuses keys that are not in the list: what they change is unknown.
fn known(object: &Object<'_>, keys: &[&str]) -> Result<(), LoadError> {
    match object.object.iter().find(|(key, value)| !keys.contains(&key.as_str()) && !value.is_null()) {
        None => Ok(()),
        Some((key, value)) => {
            Err(object.unsupported(key, value, format!("the keys {} are run", keys.join(", "))))
        }
    }
}

/// The configuration in `transformers`' spelling.
fn configuration(params: &Object<'_>, scaled_queries: bool) -> Result<Map<String, Json>, LoadError> {
    let mut config = Map::new();
    let mut put = |key: &str, value: Json| config.insert(key.to_owned(), value);
    put("num_hidden_layers", params.need_count("n_layers", MAX_LAYERS)?.into());
    for (from, to) in [
        ("dim", "hidden_size"),
        ("n_heads", "num_attention_heads"),
        ("n_kv_heads", "num_key_value_heads"),
        ("head_dim", "head_dim"),
        ("hidden_dim", "intermediate_size"),
        ("vocab_size", "vocab_size"),
    ] {
        put(to, params.need_count(from, MAX_COUNT)?.into());
    }
    put("rms_norm_eps", params.need_positive("norm_eps")?.into());
    put("tie_word_embeddings", params.flag("tied_embeddings")?.unwrap_or(false).into());
    let context = match params.count("max_position_embeddings", MAX_COUNT)? {
        Some(context) => Some(context),
        None => params.count("max_seq_len", MAX_COUNT)?,
    };
    put("max_position_embeddings", context.unwrap_or(DEFAULT_CONTEXT).into());
    put("sliding_window", Json::Null);

    let latent = params.json("kv_lora_rank").is_some();
    let yarn = params.child("yarn", "yarn.")?.filter(|yarn| !yarn.object.is_empty());
    let theta = params.positive("rope_theta")?.unwrap_or(10_000.0);
    put("rope_parameters", rope(yarn.as_ref(), theta, latent)?);
    let moe = params.child("moe", "moe.")?;
    if let Some(moe) = &moe {
        known(moe, &MOE_KEYS)?;
    }
    let model_type = match (&moe, latent) {
        (Some(moe), true) => {
            put("q_lora_rank", params.count("q_lora_rank", MAX_COUNT)?.map_or(Json::Null, Json::from));
            for key in ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"] {
                put(key, params.need_count(key, MAX_COUNT)?.into());
            }
            if let Some(found) = moe.flag("use_load_balancing_bias")?.filter(|&used| used) {
                return Err(moe.unsupported("use_load_balancing_bias", found, "routers without it are run"));
            }
            for (from, to) in [
                ("num_experts", "n_routed_experts"),
                ("num_experts_per_tok", "num_experts_per_tok"),
                ("expert_hidden_dim", "moe_intermediate_size"),
            ] {
                put(to, moe.need_count(from, MAX_COUNT)?.into());
            }
            put("moe_layer_freq", moe.count("route_every_n", MAX_COUNT)?.unwrap_or(1).into());
            put(
                "first_k_dense_replace",
                moe.count_or_zero("first_k_dense_replace", MAX_COUNT)?.unwrap_or(0).into(),
            );
            put("n_shared_experts", moe.count_or_zero("num_shared_experts", MAX_COUNT)?.unwrap_or(0).into());
            put("n_group", moe.count("num_expert_groups", MAX_COUNT)?.unwrap_or(1).into());
            put("topk_group", moe.count("num_expert_groups_per_tok", MAX_COUNT)?.unwrap_or(1).into());
            put("routed_scaling_factor", moe.positive("routed_scale")?.unwrap_or(1.0).into());
            "mistral4"
        }
        (Some(moe), false) => {
            if yarn.is_some()
                || scaled_queries
                || moe.count_or_zero("num_shared_experts", MAX_COUNT)? > Some(0)
            {
                let runs = "with experts, Mixtral and Mistral Small 4 (latent attention) are run";
                return Err(params.unsupported("moe", "with yarn, llama_4_scaling or shared experts", runs));
            }
            for (from, to) in
                [("num_experts", "num_local_experts"), ("num_experts_per_tok", "num_experts_per_tok")]
            {
                put(to, moe.need_count(from, MAX_COUNT)?.into());
            }
            "mixtral"
        }
        (None, true) => {
            let runs = "latent attention is run with experts, as Mistral Small 4 has them";
            return Err(params.unsupported("kv_lora_rank", "set, without moe", runs));
        }
        (None, false) if yarn.is_some() || scaled_queries => "ministral3",
        (None, false) => "mistral",
    };
    put("model_type", model_type.into());
    Ok(config)
}

/// RoPE's parameters.
fn rope(yarn: Option<&Object<'_>>, theta: f64, latent: bool) -> Result<Json, LoadError> {
    let Some(yarn) = yarn else { return Ok(json!({"rope_type": "default", "rope_theta": theta})) };
    known(yarn, &YARN_KEYS)?;
    let mut rope = json!({
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": yarn.need_positive("factor")?,
        "original_max_position_embeddings": yarn.need_count("original_max_position_embeddings", MAX_COUNT)?,
        "beta_fast": yarn.positive("beta")?.unwrap_or(32.0),
        "beta_slow": yarn.positive("alpha")?.unwrap_or(1.0),
    });
    if !yarn.flag("apply_scale")?.unwrap_or(true) {
        rope["attention_factor"] = 1.0.into();
    } else if latent {
        let runs = "latent attention is run with false: readers differ about what else means";
        return Err(yarn.unsupported("apply_scale", true, runs));
    }
    Ok(rope)
}

/// How queries grow with the position.
fn temperature(params: &Object<'_>) -> Result<Option<QueryTemperature>, LoadError> {
    let scaling = params.child("llama_4_scaling", "llama_4_scaling.")?;
    let Some(scaling) = scaling.filter(|scaling| !scaling.object.is_empty()) else { return Ok(None) };
    known(&scaling, &SCALING_KEYS)?;
    Ok(Some(QueryTemperature {
        beta: scaling.need_positive("beta")? as f32,
        step: scaling.need_count("original_max_position_embeddings", MAX_COUNT)?,
        offset: 0,
        no_rope_only: false,
    }))
}

/// The layers' windows: one for all, or a list that repeats, with null for layers without.
fn windows(params: &Object<'_>, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    const KEY: &str = "sliding_window";
    let expected = format!("an integer, or a list of integers and nulls that {layers} layers repeat");
    let window = |json: &Json| match json.as_u64() {
        _ if json.is_null() => Ok(None),
        Some(n @ 1..=MAX_COUNT) => Ok(Some(n as usize)),
        _ => Err(params.bad(KEY, json, expected.clone())),
    };
    match params.json(KEY) {
        None => Ok(vec![None; layers]),
        Some(Json::Array(list)) if !list.is_empty() && layers.is_multiple_of(list.len()) => {
            let period = list.iter().map(window).collect::<Result<Vec<_>, _>>()?;
            Ok((0..layers).map(|l| period[l % period.len()]).collect())
        }
        Some(json) => Ok(vec![window(json)?; layers]),
    }
}

/// The quantisation to one-byte floats, if there is one. Rejects others.
fn float8(params: &Object<'_>) -> Result<Option<Float8>, LoadError> {
    let Some(quantization) = params.child("quantization", "quantization.")? else { return Ok(None) };
    if quantization.object.is_empty() {
        return Ok(None);
    }
    let found = match quantization.text("qformat_weight")? {
        Some("fp8_e4m3") => return Ok(Some(Float8::PER_MATRIX)),
        Some(other) => other,
        None => quantization.text("quant_method")?.unwrap_or("an unnamed method"),
    };
    Err(LoadError::UnsupportedQuantization {
        path: params.path.to_owned(),
        found: found.to_owned(),
        instead: "use the original F32, F16 or BF16 checkpoint, one in fp8_e4m3, or a GGUF file of it",
    })
}

/// Gives the tensors the names that they have in a folder of `transformers`, and drops those of the parts that read images. Returns
/// how many these were.
pub(super) fn rename(store: &mut Store, architecture: Architecture) -> usize {
    const IMAGES: [&str; 4] =
        ["vision_encoder.", "vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm."];
    store.retain(|stored| {
        if IMAGES.iter().any(|part| stored.name.starts_with(part)) {
            return false;
        }
        // what has no name there is found when all names are checked
        if let Some(name) = hugging_face(&stored.name, architecture == Architecture::Mixtral) {
            stored.name = name;
        }
        true
    })
}

fn hugging_face(name: &str, mixtral: bool) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    let leaf = match leaf {
        "weight" => "weight",
        "qscale_weight" => "weight_scale_inv",
        "qscale_act" => "input_scale",
        _ => return None,
    };
    let module = match module {
        "tok_embeddings" => "model.embed_tokens".to_owned(),
        "norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = module.strip_prefix("layers.")?.split_once('.')?;
            layer.parse::<usize>().ok()?;
            format!("model.layers.{layer}.{}", of_layer(part, mixtral)?)
        }
    };
    Some(format!("{module}.{leaf}"))
}

/// A module of a layer.
fn of_layer(part: &str, mixtral: bool) -> Option<String> {
    let projection = |name: &str| match name {
        "w1" => Some("gate_proj"),
        "w2" => Some("down_proj"),
        "w3" => Some("up_proj"),
        _ => None,
    };
    if let Some(expert) = part.strip_prefix("feed_forward.experts.").filter(|_| mixtral) {
        return Some(format!("block_sparse_moe.experts.{expert}"));
    }
    if let Some((expert, name)) = part.strip_prefix("experts.").and_then(|rest| rest.split_once('.')) {
        return Some(format!("mlp.experts.{expert}.{}", projection(name)?));
    }
    if let Some(name) = part.strip_prefix("shared_experts.") {
        return Some(format!("mlp.shared_experts.{}", projection(name)?));
    }
    if let Some(name) = part.strip_prefix("feed_forward.").and_then(projection) {
        return Some(format!("mlp.{name}"));
    }
    let module = match part {
        "attention_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "feed_forward.gate" if mixtral => "block_sparse_moe.gate",
        "gate" => "mlp.gate",
        "attention.wq" => "self_attn.q_proj",
        "attention.wk" => "self_attn.k_proj",
        "attention.wv" => "self_attn.v_proj",
        "attention.wo" => "self_attn.o_proj",
        "attention.wq_a" => "self_attn.q_a_proj",
        "attention.q_a_norm" => "self_attn.q_a_layernorm",
        "attention.wq_b" => "self_attn.q_b_proj",
        "attention.wkv_a_with_mqa" => "self_attn.kv_a_proj_with_mqa",
        "attention.kv_a_norm" => "self_attn.kv_a_layernorm",
        "attention.wkv_b" => "self_attn.kv_b_proj",
        "attention.q_fake_quantizer" => "self_attn.q_fake_quantizer",
        "attention.k_fake_quantizer" => "self_attn.k_fake_quantizer",
        "attention.v_fake_quantizer" => "self_attn.v_fake_quantizer",
        _ => return None,
    };
    Some(module.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds() {
        for (own, name) in [
            ("tok_embeddings.weight", "model.embed_tokens.weight"),
            ("layers.3.attention.wq.weight", "model.layers.3.self_attn.q_proj.weight"),
            ("layers.0.feed_forward.w2.qscale_weight", "model.layers.0.mlp.down_proj.weight_scale_inv"),
            ("layers.0.feed_forward.w2.qscale_act", "model.layers.0.mlp.down_proj.input_scale"),
            ("layers.9.experts.12.w3.weight", "model.layers.9.mlp.experts.12.up_proj.weight"),
            ("layers.9.shared_experts.w1.weight", "model.layers.9.mlp.shared_experts.gate_proj.weight"),
            ("layers.1.attention.wkv_b.weight", "model.layers.1.self_attn.kv_b_proj.weight"),
        ] {
            assert_eq!(hugging_face(own, false).as_deref(), Some(name));
        }
        let own = ["layers.2.feed_forward.experts.7.w3.weight", "layers.2.feed_forward.gate.weight"];
        let names = own.map(|own| hugging_face(own, true));
        assert_eq!(names[0].as_deref(), Some("model.layers.2.block_sparse_moe.experts.7.w3.weight"));
        assert_eq!(names[1].as_deref(), Some("model.layers.2.block_sparse_moe.gate.weight"));
        for odd in ["layers.x.gate.weight", "layers.1.attention.wz.weight", "norm.qscale", "norm"] {
            assert_eq!(hugging_face(odd, false), None, "{odd}");
        }
    }
}
