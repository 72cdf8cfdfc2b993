//! Writes small Hugging Face folders: a configuration, and SafeTensors files byte by byte.

use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;

/// One tensor of a SafeTensors file under construction: name, dtype, shape, bytes.
pub type Tensors = Vec<(String, &'static str, Vec<usize>, Vec<u8>)>;

/// A folder to be written.
#[derive(Clone)]
pub struct Folder {
    pub config: Map<String, Json>,
    pub tensors: Tensors,
}

/// A complete small model of ones, as `transformers` would save it.
pub fn tiny(model_type: &str, class: &str) -> Folder {
    let config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "vocab_size": 8,
    });
    let Json::Object(config) = config else { unreachable!("an object") };
    let mut folder = Folder { config, tensors: Vec::new() }
        .ones("model.embed_tokens.weight", &[8, 64])
        .ones("model.norm.weight", &[64])
        .ones("lm_head.weight", &[8, 64]);
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            folder = folder.clone().ones(&format!("model.layers.{layer}.{name}"), shape);
        };
        add("input_layernorm.weight", &[64]);
        add("post_attention_layernorm.weight", &[64]);
        for (name, width) in [("q", 64), ("k", 32), ("v", 32)] {
            add(&format!("self_attn.{name}_proj.weight"), &[width, 64]);
            if model_type == "qwen2" {
                add(&format!("self_attn.{name}_proj.bias"), &[width]);
            }
            if model_type.starts_with("qwen3") && name != "v" {
                add(&format!("self_attn.{name}_norm.weight"), &[16]);
            }
        }
        add("self_attn.o_proj.weight", &[64, 64]);
        match model_type {
            "mixtral" => {
                add("block_sparse_moe.gate.weight", &[4, 64]);
                for e in 0..4 {
                    add(&format!("block_sparse_moe.experts.{e}.w1.weight"), &[32, 64]);
                    add(&format!("block_sparse_moe.experts.{e}.w2.weight"), &[64, 32]);
                    add(&format!("block_sparse_moe.experts.{e}.w3.weight"), &[32, 64]);
                }
            }
            "qwen3_moe" => {
                add("mlp.gate.weight", &[4, 64]);
                for e in 0..4 {
                    add(&format!("mlp.experts.{e}.gate_proj.weight"), &[24, 64]);
                    add(&format!("mlp.experts.{e}.up_proj.weight"), &[24, 64]);
                    add(&format!("mlp.experts.{e}.down_proj.weight"), &[64, 24]);
                }
            }
            _ => {
                add("mlp.gate_proj.weight", &[32, 64]);
                add("mlp.up_proj.weight", &[32, 64]);
                add("mlp.down_proj.weight", &[64, 32]);
            }
        }
    }
    match model_type {
        "mixtral" => folder.set("num_local_experts", json!(4)).set("num_experts_per_tok", json!(2)),
        "qwen3_moe" => folder
            .set("num_experts", json!(4))
            .set("num_experts_per_tok", json!(2))
            .set("moe_intermediate_size", json!(24)),
        _ => folder,
    }
}

impl Folder {
    pub fn set(mut self, key: &str, value: Json) -> Folder {
        self.config.insert(key.to_owned(), value);
        self
    }

    pub fn without(mut self, key: &str) -> Folder {
        self.config.remove(key);
        self.tensors.retain(|t| t.0 != key);
        self
    }

    /// Adds or replaces an F32 tensor of ones.
    pub fn ones(mut self, name: &str, shape: &[usize]) -> Folder {
        let bytes = 1f32.to_le_bytes().repeat(shape.iter().product());
        self.tensors.retain(|t| t.0 != name);
        self.with(name, "F32", shape, bytes)
    }

    /// Adds a tensor.
    pub fn with(mut self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Folder {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder, "config.json", Json::Object(self.config.clone()).to_string().as_bytes());
        write(&folder, "model.safetensors", &safetensors(&self.tensors));
        folder
    }
}

pub fn write(folder: &TempDir, name: &str, bytes: &[u8]) {
    std::fs::write(folder.path().join(name), bytes).expect("a file");
}

/// A SafeTensors file with these tensors.
pub fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    raw(&Json::Object(header).to_string(), &data)
}

/// A SafeTensors file with an arbitrary header.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), data].concat()
}
