//! Writes small valid and invalid GGUF files byte by byte. It shares no code with the reader, which [`open`] calls.

use std::path::{Path, PathBuf};

use zonda_engine::load::{LoadError, Model, ModelSpec};

/// A GGUF file under construction.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    /// Key, type number and value.
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Raw>,
    pub alignment: usize,
}

/// A tensor: dimensions as GGUF stores them (fastest first), ggml type number, bytes.
#[derive(Clone)]
pub struct Raw {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    /// Written instead of the correct offset.
    pub offset: Option<u64>,
}

pub fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

/// An array's bytes: element type, count, elements.
pub fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

impl Gguf {
    pub fn new() -> Gguf {
        Gguf { version: 3, pairs: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    /// Sets a key of any type, replacing an earlier value.
    pub fn set(mut self, key: &str, kind: u32, value: Vec<u8>) -> Gguf {
        self.pairs.retain(|p| p.0 != key);
        self.pairs.push((key.to_owned(), kind, value));
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Gguf {
        self.set(key, 4, value.to_le_bytes().to_vec())
    }

    pub fn f32(self, key: &str, value: f32) -> Gguf {
        self.set(key, 6, value.to_le_bytes().to_vec())
    }

    pub fn bool(self, key: &str, value: bool) -> Gguf {
        self.set(key, 7, vec![value.into()])
    }

    pub fn str(self, key: &str, value: &str) -> Gguf {
        self.set(key, 8, string(value))
    }

    pub fn without(mut self, key: &str) -> Gguf {
        self.pairs.retain(|p| p.0 != key);
        self.tensors.retain(|t| t.name != key);
        self
    }

    /// Adds or replaces a tensor of the given row-major shape, of zeros.
    pub fn tensor(self, name: &str, shape: &[usize], kind: u32, bytes: usize) -> Gguf {
        self.filled(name, shape, kind, vec![0; bytes])
    }

    /// Adds or replaces a tensor of these bytes.
    pub fn filled(mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Gguf {
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        let raw = Raw { name: name.to_owned(), dims, kind, bytes, offset: None };
        match self.tensors.iter_mut().find(|t| t.name == name) {
            Some(old) => *old = raw,
            None => self.tensors.push(raw),
        }
        self
    }

    /// An f32 tensor of ones.
    pub fn ones(self, name: &str, shape: &[usize]) -> Gguf {
        let values: usize = shape.iter().product();
        self.filled(name, shape, 0, 1f32.to_le_bytes().repeat(values))
    }

    pub fn edit(mut self, name: &str, edit: impl FnOnce(&mut Raw)) -> Gguf {
        edit(self.tensors.iter_mut().find(|t| t.name == name).expect("a tensor of this name"));
        self
    }

    /// Everything before the data, unpadded.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut offset = 0;
        for t in &self.tensors {
            out.extend(string(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            out.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.unwrap_or(offset as u64).to_le_bytes());
            offset = (offset + t.bytes.len()).next_multiple_of(self.alignment);
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&t.bytes);
        }
        out
    }

    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).expect("a file");
        path
    }
}

/// The sizes of [`tiny`]: vocabulary, hidden size, heads and KV heads of 16 values, feed-forward size.
pub const VOCAB: usize = 8;
pub const HIDDEN: usize = 64;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 16;
pub const FFN: usize = 32;
pub const LAYERS: usize = 2;

/// A complete dense model of ones, with the given `general.architecture`.
pub fn tiny(arch: &str) -> Gguf {
    let key = |k: &str| format!("{arch}.{k}");
    let mut g = Gguf::new()
        .str("general.architecture", arch)
        .u32(&key("block_count"), LAYERS as u32)
        .u32(&key("context_length"), 128)
        .u32(&key("embedding_length"), HIDDEN as u32)
        .u32(&key("feed_forward_length"), FFN as u32)
        .u32(&key("attention.head_count"), HEADS as u32)
        .u32(&key("attention.head_count_kv"), KV_HEADS as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .ones("token_embd.weight", &[VOCAB, HIDDEN])
        .ones("output_norm.weight", &[HIDDEN]);
    for layer in 0..LAYERS {
        let name = |n: &str| format!("blk.{layer}.{n}");
        g = g
            .ones(&name("attn_norm.weight"), &[HIDDEN])
            .ones(&name("attn_q.weight"), &[HEADS * HEAD_DIM, HIDDEN])
            .ones(&name("attn_k.weight"), &[KV_HEADS * HEAD_DIM, HIDDEN])
            .ones(&name("attn_v.weight"), &[KV_HEADS * HEAD_DIM, HIDDEN])
            .ones(&name("attn_output.weight"), &[HIDDEN, HEADS * HEAD_DIM])
            .ones(&name("ffn_norm.weight"), &[HIDDEN])
            .ones(&name("ffn_gate.weight"), &[FFN, HIDDEN])
            .ones(&name("ffn_up.weight"), &[FFN, HIDDEN])
            .ones(&name("ffn_down.weight"), &[HIDDEN, FFN]);
    }
    g
}

/// [`tiny`] with experts instead of the dense feed-forward layers: fused tensors of `[experts, .., ..]`.
pub fn tiny_moe(arch: &str, experts: usize, used: u32) -> Gguf {
    let mut g = tiny(arch)
        .u32(&format!("{arch}.expert_count"), experts as u32)
        .u32(&format!("{arch}.expert_used_count"), used);
    for layer in 0..LAYERS {
        let name = |n: &str| format!("blk.{layer}.{n}.weight");
        for dense in ["ffn_gate", "ffn_up", "ffn_down"] {
            g = g.without(&name(dense));
        }
        g = g
            .ones(&name("ffn_gate_inp"), &[experts, HIDDEN])
            .ones(&name("ffn_gate_exps"), &[experts, FFN, HIDDEN])
            .ones(&name("ffn_up_exps"), &[experts, FFN, HIDDEN])
            .ones(&name("ffn_down_exps"), &[experts, HIDDEN, FFN]);
    }
    g
}

/// Opens a file.
pub fn open(g: &Gguf) -> Result<Model, LoadError> {
    let folder = tempfile::tempdir().expect("a folder");
    Model::open(&g.write(folder.path(), "m.gguf"))
}

/// Opens a file with all tensors of its model.
pub fn checked(g: &Gguf) -> Result<Model, LoadError> {
    let model = open(g)?;
    model.check().map(|()| model)
}

/// The spec of such a file.
pub fn spec(g: &Gguf) -> ModelSpec {
    checked(g).expect("opens with all tensors").spec
}

/// The error of a file that is not one.
pub fn error(g: &Gguf) -> String {
    checked(g).expect_err("refused").to_string()
}
