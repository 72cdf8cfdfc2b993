//! Tiny models with random weights of architectures that only llama.cpp runs, and vocabularies that only it tokenises with. The
//! tensors' names and shapes are those of `llama.cpp/src/models/*.cpp`.

use std::path::{Path, PathBuf};
use zonda_convert::gguf_writer::write_gguf;
use zonda_convert::output::{Planned, Sink};
use zonda_engine::load::{DType, Metadata, Value};

/// Transformers.
pub const TRANSFORMERS: [&str; 4] = ["falcon", "gpt2", "stablelm", "starcoder2"];
/// Models that keep one state of all tokens so far.
pub const RECURRENT: [&str; 3] = ["mamba", "rwkv6", "rwkv7"];

/// Context length in tokens.
const CONTEXT: usize = 512;
/// Width of the residual stream.
const HIDDEN: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const HEAD: usize = HIDDEN / HEADS;
const FFN: usize = 128;
/// Mamba's inner width, convolution, state, and rank of time steps.
const INNER: usize = 2 * HIDDEN;
const CONV: usize = 4;
const STATE: usize = 16;
const RANK: usize = 4;
/// RWKV's inner ranks.
const LORA: usize = 8;

/// Writes `ARCHITECTURE.gguf` into a folder, with the tokenizer of another file's metadata (`tokenizer.*`), and with the keys of
/// its own that stand there (`ARCHITECTURE.*`).
pub fn foreign(architecture: &str, tokenizer: &Metadata, dir: &Path) -> PathBuf {
    let metadata = metadata(architecture, tokenizer);
    let tensors = tensors(architecture, vocab_size(&metadata));
    write(architecture, &metadata, &tensors, dir)
}

/// A file of any architecture with the keys that all have, and no other tensor than the embedding: for what needs no weights.
pub fn bare(architecture: &str, tokenizer: &Metadata, dir: &Path) -> PathBuf {
    let metadata = metadata(architecture, tokenizer);
    let shape = vec![vocab_size(&metadata), HIDDEN];
    let embedding = Planned { name: "token_embd.weight".to_owned(), holds: DType::F32.into(), shape };
    write(architecture, &metadata, &[embedding], dir)
}

fn vocab_size(metadata: &Metadata) -> usize {
    metadata.strings("tokenizer.ggml.tokens").expect("a vocabulary").len()
}

fn metadata(architecture: &str, tokenizer: &Metadata) -> Metadata {
    let of_tokenizer = |(key, _): &(&String, &Value)| key.starts_with("tokenizer.");
    let pairs = tokenizer.0.iter().filter(of_tokenizer).map(|(k, v)| (k.clone(), v.clone()));
    let mut metadata = Metadata(pairs.collect());
    metadata.0.insert("general.architecture".into(), Value::String(architecture.into()));
    let int = |n: usize| Value::U32(n as u32);
    let (heads, ffn) = match architecture {
        "mamba" => (0, 0),
        "rwkv6" | "rwkv7" => (0, FFN),
        _ => (HEADS, FFN),
    };
    let shared = [
        ("context_length", int(CONTEXT)),
        ("embedding_length", int(HIDDEN)),
        ("block_count", int(LAYERS)),
        ("feed_forward_length", int(ffn)),
        ("attention.head_count", int(heads)),
        ("attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let own = own_keys(architecture).into_iter().map(|(key, n)| (key, int(n)));
    for (key, value) in shared.into_iter().chain(own) {
        metadata.0.insert(format!("{architecture}.{key}"), value);
    }
    let changed = |(key, _): &(&String, &Value)| key.starts_with(&format!("{architecture}."));
    metadata.0.extend(tokenizer.0.iter().filter(changed).map(|(k, v)| (k.clone(), v.clone())));
    metadata
}

fn write(architecture: &str, metadata: &Metadata, tensors: &[Planned], dir: &Path) -> PathBuf {
    let path = dir.join(format!("{architecture}.gguf"));
    let mut random = Random(1);
    let mut fill = |i: usize, sink: &mut Sink<'_>| {
        let values = random.values(&tensors[i].name, &tensors[i].shape);
        sink.write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    };
    write_gguf(&path, metadata, tensors, &mut fill, &mut |_, _| {}).unwrap();
    path
}

fn own_keys(architecture: &str) -> Vec<(&'static str, usize)> {
    match architecture {
        "falcon" => vec![("attention.head_count_kv", 1)],
        "stablelm" => vec![("attention.head_count_kv", HEADS), ("rope.dimension_count", HEAD / 2)],
        "starcoder2" => vec![("attention.head_count_kv", 2)],
        "mamba" => vec![
            ("ssm.conv_kernel", CONV),
            ("ssm.inner_size", INNER),
            ("ssm.state_size", STATE),
            ("ssm.time_step_rank", RANK),
        ],
        "rwkv6" => vec![
            ("wkv.head_size", HEAD),
            ("time_mix_extra_dim", LORA),
            ("time_decay_extra_dim", LORA),
            ("token_shift_count", 2),
        ],
        "rwkv7" => vec![
            // llama.cpp's kernel takes steps of 64 values, so that threads would write to each other's smaller heads.
            ("wkv.head_size", HIDDEN),
            ("attention.decay_lora_rank", LORA),
            ("attention.iclr_lora_rank", LORA),
            ("attention.value_residual_mix_lora_rank", LORA),
            ("attention.gate_lora_rank", LORA),
            ("token_shift_count", 2),
        ],
        _ => Vec::new(),
    }
}

/// The tensors of an architecture, shapes outermost first.
fn tensors(architecture: &str, vocab: usize) -> Vec<Planned> {
    let mut out = Vec::new();
    let mut add = |name: &str, shape: &[usize]| {
        out.push(Planned { name: name.to_owned(), holds: DType::F32.into(), shape: shape.to_vec() });
    };
    add("token_embd.weight", &[vocab, HIDDEN]);
    add("output_norm.weight", &[HIDDEN]);
    add("output.weight", &[vocab, HIDDEN]);
    if architecture != "mamba" {
        add("output_norm.bias", &[HIDDEN]);
    }
    if architecture == "gpt2" {
        add("position_embd.weight", &[CONTEXT, HIDDEN]);
    }
    if architecture.starts_with("rwkv") {
        add("token_embd_norm.weight", &[HIDDEN]);
        add("token_embd_norm.bias", &[HIDDEN]);
    }
    for layer in 0..LAYERS {
        for (name, shape) in layer_tensors(architecture) {
            add(&format!("blk.{layer}.{name}"), &shape);
        }
    }
    out
}

fn layer_tensors(architecture: &str) -> Vec<(&'static str, Vec<usize>)> {
    let h = HIDDEN;
    let norm = |weight, bias| vec![(weight, vec![h]), (bias, vec![h])];
    let mut out = vec![("attn_norm.weight", vec![h])];
    if architecture != "mamba" {
        out.push(("attn_norm.bias", vec![h]));
    }
    let kv = if architecture == "starcoder2" { 2 * HEAD } else { h };
    match architecture {
        "falcon" => out.extend([
            ("attn_qkv.weight", vec![h + 2 * HEAD, h]),
            ("attn_output.weight", vec![h, h]),
            ("ffn_up.weight", vec![FFN, h]),
            ("ffn_down.weight", vec![h, FFN]),
        ]),
        "gpt2" => {
            out.extend([
                ("attn_qkv.weight", vec![3 * h, h]),
                ("attn_qkv.bias", vec![3 * h]),
                ("attn_output.weight", vec![h, h]),
                ("attn_output.bias", vec![h]),
                ("ffn_up.weight", vec![FFN, h]),
                ("ffn_up.bias", vec![FFN]),
                ("ffn_down.weight", vec![h, FFN]),
                ("ffn_down.bias", vec![h]),
            ]);
            out.extend(norm("ffn_norm.weight", "ffn_norm.bias"));
        }
        "stablelm" | "starcoder2" => {
            out.extend([
                ("attn_q.weight", vec![h, h]),
                ("attn_k.weight", vec![kv, h]),
                ("attn_v.weight", vec![kv, h]),
                ("attn_output.weight", vec![h, h]),
                ("ffn_up.weight", vec![FFN, h]),
                ("ffn_down.weight", vec![h, FFN]),
            ]);
            out.extend(norm("ffn_norm.weight", "ffn_norm.bias"));
            if architecture == "stablelm" {
                out.push(("ffn_gate.weight", vec![FFN, h]));
            } else {
                out.extend([
                    ("attn_output.bias", vec![h]),
                    ("ffn_up.bias", vec![FFN]),
                    ("ffn_down.bias", vec![h]),
                ]);
            }
        }
        "mamba" => out.extend([
            ("ssm_in.weight", vec![2 * INNER, h]),
            ("ssm_conv1d.weight", vec![INNER, CONV]),
            ("ssm_conv1d.bias", vec![INNER]),
            ("ssm_x.weight", vec![RANK + 2 * STATE, INNER]),
            ("ssm_dt.weight", vec![INNER, RANK]),
            ("ssm_dt.bias", vec![INNER]),
            ("ssm_a", vec![INNER, STATE]),
            ("ssm_d", vec![INNER]),
            ("ssm_out.weight", vec![h, INNER]),
        ]),
        "rwkv6" => {
            out.extend(norm("attn_norm_2.weight", "attn_norm_2.bias"));
            out.extend(norm("time_mix_ln.weight", "time_mix_ln.bias"));
            out.extend([
                ("time_mix_w1.weight", vec![5 * LORA, h]),
                ("time_mix_w2.weight", vec![5, h, LORA]),
                ("time_mix_lerp_x.weight", vec![1, 1, h]),
                ("time_mix_lerp_fused.weight", vec![5, 1, 1, h]),
                ("time_mix_first.weight", vec![HEADS, HEAD]),
                ("time_mix_decay.weight", vec![h]),
                ("time_mix_decay_w1.weight", vec![LORA, h]),
                ("time_mix_decay_w2.weight", vec![h, LORA]),
                ("time_mix_key.weight", vec![h, h]),
                ("time_mix_value.weight", vec![h, h]),
                ("time_mix_receptance.weight", vec![h, h]),
                ("time_mix_gate.weight", vec![h, h]),
                ("time_mix_output.weight", vec![h, h]),
                ("channel_mix_lerp_k.weight", vec![1, 1, h]),
                ("channel_mix_lerp_r.weight", vec![1, 1, h]),
                ("channel_mix_key.weight", vec![FFN, h]),
                ("channel_mix_value.weight", vec![h, FFN]),
                ("channel_mix_receptance.weight", vec![h, h]),
            ]);
        }
        "rwkv7" => {
            out.extend(norm("attn_norm_2.weight", "attn_norm_2.bias"));
            out.extend(norm("time_mix_ln.weight", "time_mix_ln.bias"));
            for (vector, down, up) in [
                ("time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight"),
                ("time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight"),
                ("time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight"),
            ] {
                out.extend([(vector, vec![h]), (down, vec![LORA, h]), (up, vec![h, LORA])]);
            }
            out.extend([
                ("time_mix_g1.weight", vec![LORA, h]),
                ("time_mix_g2.weight", vec![h, LORA]),
                ("time_mix_lerp_fused.weight", vec![6, 1, 1, h]),
                ("time_mix_k_k.weight", vec![h]),
                ("time_mix_k_a.weight", vec![h]),
                ("time_mix_r_k.weight", vec![h]),
                ("time_mix_key.weight", vec![h, h]),
                ("time_mix_value.weight", vec![h, h]),
                ("time_mix_receptance.weight", vec![h, h]),
                ("time_mix_output.weight", vec![h, h]),
                ("channel_mix_lerp_k.weight", vec![1, 1, h]),
                ("channel_mix_key.weight", vec![FFN, h]),
                ("channel_mix_value.weight", vec![h, FFN]),
            ]);
        }
        other => panic!("no tiny model of the architecture {other}"),
    }
    out
}

/// A generator of Lehmer's kind.
struct Random(u64);

impl Random {
    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Values of a tensor: gains near 1, Mamba's decay below 0, matrices that keep the size of their input.
    fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let cols = *shape.last().unwrap();
        let matrix = shape.len() == 2;
        let scale = if matrix && !name.contains("embd") { 2.0 / (cols as f32).sqrt() } else { 1.0 };
        (0..shape.iter().product())
            .map(|_| {
                let x = self.next();
                match name {
                    _ if name.contains("norm") || name.ends_with("_ln.weight") => 1.0 + 0.1 * x,
                    _ if name.ends_with("ssm_a") => -1.5 - x,
                    _ => scale * x,
                }
            })
            .collect()
    }
}

/// A vocabulary of a kind that only llama.cpp tokenises with: `bert` (WordPiece), `rwkv`, or `bpe` (an unknown pre-tokenizer, on
/// the vocabulary of `like`), as GGUF metadata.
pub fn vocabulary(kind: &str, like: &Metadata) -> Metadata {
    let text = |s: &str| Value::String(s.to_owned());
    let mut metadata = Metadata::default();
    let mut put = |key: &str, value: Value| metadata.0.insert(format!("tokenizer.ggml.{key}"), value);
    let words = ["▁the", "▁wind", "▁is", "▁warm", "▁and", "▁fast", "s", "er", "▁sea"];
    match kind {
        "bert" => {
            let mut tokens: Vec<String> = (0..100).map(|n| format!("[unused{n}]")).collect();
            tokens.extend(["[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned));
            tokens.extend(words.map(str::to_owned));
            tokens.extend(('a'..='z').flat_map(|c| [format!("▁{c}"), c.to_string()]).filter(|t| t != "s"));
            tokens.extend([".", ",", "?"].map(|mark| format!("▁{mark}")));
            let kinds = (0..tokens.len()).map(|id| if (100..104).contains(&id) { 3 } else { 1 });
            put("token_type", Value::Ints(kinds.collect()));
            put("tokens", Value::Strings(tokens));
            put("model", text("bert"));
            put("unknown_token_id", Value::U32(100));
            put("bos_token_id", Value::U32(101));
            put("eos_token_id", Value::U32(102));
            put("seperator_token_id", Value::U32(102));
        }
        "rwkv" => {
            let mut tokens = vec!["<s>".to_owned()];
            tokens.extend((0..=255).map(|byte| format!("\\x{byte:02x}")));
            tokens.extend(["the", " wind", " is", " warm", "\\n\\n", "é"].map(str::to_owned));
            put("token_type", Value::Ints((0..tokens.len()).map(|id| if id == 0 { 3 } else { 1 }).collect()));
            put("tokens", Value::Strings(tokens));
            put("model", text("rwkv"));
            put("eos_token_id", Value::U32(0));
        }
        "bpe" => {
            metadata = Metadata(like.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
            metadata.0.retain(|key, _| key.starts_with("tokenizer."));
            metadata.0.insert("tokenizer.ggml.pre".into(), text("jais-2"));
        }
        other => panic!("no vocabulary of the kind {other}"),
    }
    metadata
}
