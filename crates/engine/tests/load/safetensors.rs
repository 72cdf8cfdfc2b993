//! SafeTensors weights: shards and their index, types, and damaged files.

use std::collections::BTreeMap;

use serde_json::json;
use zonda_engine::load::{LoadError, Model, TensorRole};
use zonda_kernels::DType;

use crate::folder::{Folder, Tensors, raw, safetensors, tiny, write};

fn llama() -> Folder {
    tiny("llama", "LlamaForCausalLM")
}

fn error(file: &[u8]) -> LoadError {
    let folder = llama().write();
    write(&folder, "model.safetensors", file);
    Model::open(folder.path()).map(|m| m.check()).and_then(|c| c).expect_err("refused")
}

/// A folder with the tensors split into two shards, and its index, changed by `edit`.
fn sharded(edit: impl FnOnce(&mut BTreeMap<String, String>)) -> tempfile::TempDir {
    let folder = llama().write();
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    let mut map = BTreeMap::new();
    for no in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", no + 1);
        let tensors: Tensors = llama().tensors.into_iter().skip(no).step_by(2).collect();
        map.extend(tensors.iter().map(|t| (t.0.clone(), name.clone())));
        write(&folder, &name, &safetensors(&tensors));
    }
    edit(&mut map);
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    write(&folder, "model.safetensors.index.json", index.to_string().as_bytes());
    folder
}

#[test]
fn shards_open_as_one_model() {
    let (folder, single) = (sharded(|_| ()), llama().write());
    let model = Model::open(folder.path()).expect("opens");
    let single = Model::open(single.path()).expect("opens");
    assert_eq!(model.spec, single.spec);
    assert_eq!(model.files().count(), 2);
    for role in model.spec.roles() {
        let (a, b) = (model.tensor(role).expect("there"), single.tensor(role).expect("there"));
        assert_eq!((a.name.as_str(), a.bytes()), (b.name.as_str(), b.bytes()));
    }
}

#[test]
fn an_index_never_leads_out_of_the_folder() {
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", ""] {
        let folder = sharded(|map| {
            map.insert("lm_head.weight".into(), name.into());
        });
        let error = Model::open(folder.path()).expect_err("refused");
        assert!(matches!(&error, LoadError::ShardPath { name: n, .. } if n == name), "{error}");
    }
}

#[test]
fn an_index_that_does_not_match_the_shards_is_refused() {
    let error =
        |edit: fn(&mut BTreeMap<String, String>)| Model::open(sharded(edit).path()).expect_err("refused");
    let absent = error(|map| {
        map.insert("lm_head.weight".into(), "model-00003-of-00002.safetensors".into());
    });
    assert!(absent.to_string().contains("model-00003-of-00002.safetensors: No such file"), "{absent}");
    let other = error(|map| {
        let shard = |no| format!("model-0000{no}-of-00002.safetensors");
        let wrong = if map["lm_head.weight"] == shard(1) { shard(2) } else { shard(1) };
        map.insert("lm_head.weight".into(), wrong);
    });
    assert!(matches!(&other, LoadError::NotInShard { tensor, .. } if tensor == "lm_head.weight"), "{other}");
    let folder = sharded(|_| ());
    for index in ["", "[]", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 1}}", "{}"] {
        write(&folder, "model.safetensors.index.json", index.as_bytes());
        assert!(matches!(Model::open(folder.path()), Err(LoadError::Json { .. })), "{index}");
    }
}

/// What a conversion to one file leaves behind: the index of the old shards, which may still be there.
#[test]
fn a_complete_single_file_goes_before_a_stale_index() {
    for shards_are_there in [false, true] {
        let folder = sharded(|_| ());
        // told from the shards by its ones
        let twos = 2f32.to_le_bytes().repeat(64);
        let single =
            llama().without("model.norm.weight").with("model.norm.weight", "F32", &[64], twos.clone());
        write(&folder, "model.safetensors", &safetensors(&single.tensors));
        if !shards_are_there {
            for no in 1..=2 {
                std::fs::remove_file(folder.path().join(format!("model-0000{no}-of-00002.safetensors")))
                    .expect("removed");
            }
        }
        let model = Model::open(folder.path()).expect("opens");
        model.check().expect("complete");
        assert_eq!(model.files().count(), 1);
        assert_eq!(model.tensor(TensorRole::OutputNorm).expect("there").bytes(), twos);

        // A single file that lacks a tensor is no model: the index holds.
        for absent in ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"] {
            write(&folder, "model.safetensors", &safetensors(&single.clone().without(absent).tensors));
            match (Model::open(folder.path()), shards_are_there) {
                (Ok(model), true) => assert_eq!(model.files().count(), 2, "{absent}"),
                (Err(error), false) => assert!(error.to_string().contains("00001-of-00002"), "{error}"),
                (other, _) => panic!("{absent}: {other:?}"),
            }
        }
    }
}

#[test]
fn three_float_types_are_supported_and_others_are_named() {
    let with = |dtype: &'static str, bytes: usize| {
        let mut folder = llama();
        folder.tensors.retain(|t| t.0 != "model.norm.weight");
        folder.tensors.push(("model.norm.weight".into(), dtype, vec![64], vec![0; 64 * bytes]));
        let folder = folder.write();
        Model::open(folder.path()).expect("opens").tensor(TensorRole::OutputNorm)
    };
    for (name, bytes, dtype) in [("F32", 4, DType::F32), ("F16", 2, DType::F16), ("BF16", 2, DType::BF16)] {
        assert_eq!(with(name, bytes).expect("run").dtype, dtype);
    }
    for (name, bytes) in [("F64", 8), ("F8_E4M3", 1), ("I8", 1), ("U32", 4)] {
        let error = with(name, bytes).expect_err("not run");
        let found = name.to_lowercase();
        assert!(error.to_string().contains(&format!("model.norm.weight has type {found}")), "{error}");
    }
}

#[test]
fn a_missing_output_head_is_the_embedding() {
    let model = Model::open(llama().without("lm_head.weight").write().path()).expect("opens");
    assert!(model.spec.tied_embeddings);
    assert!(!Model::open(llama().write().path()).expect("opens").spec.tied_embeddings);
    let both = llama().set("tie_word_embeddings", json!(true)).write();
    let both = Model::open(both.path()).expect("opens");
    assert!(both.spec.tied_embeddings && both.find(TensorRole::Output).expect("no error").is_none());
}

#[test]
fn damaged_headers_are_refused() {
    let good = safetensors(&llama().tensors);
    let header = 8 + u64::from_le_bytes(good[..8].try_into().expect("8")) as usize;
    for len in (0..header).step_by(7).chain(header.saturating_sub(3)..header + 3).chain([good.len() - 1]) {
        let error = error(&good[..len]);
        assert!(matches!(error, LoadError::SafeTensors { .. }), "{len}: {error}");
    }
    let longer = error(&[good.as_slice(), &[0]].concat());
    assert!(matches!(longer, LoadError::SafeTensors { .. }), "{longer}");
    for length in [u64::MAX, 1 << 60, 1 << 30, (32 << 20) + 1] {
        let error = error(&[length.to_le_bytes().as_slice(), &good[8..]].concat());
        assert!(matches!(error, LoadError::TooLarge { found, .. } if found == length), "{error}");
    }
}

#[test]
fn tensors_that_do_not_match_their_header_are_refused() {
    let one = |entry: &str| error(&raw(&format!("{{\"model.norm.weight\":{entry}}}"), &[0; 256]));
    for entry in [
        r#"{"dtype":"F32","shape":[64],"data_offsets":[0,512]}"#,
        r#"{"dtype":"F32","shape":[63],"data_offsets":[0,256]}"#,
        r#"{"dtype":"F32","shape":[1152921504606846976,16],"data_offsets":[0,256]}"#,
        r#"{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,256]}"#,
        r#"{"dtype":"F32","shape":[64],"data_offsets":[256,0]}"#,
        r#"{"dtype":"F32","shape":[64],"data_offsets":[4,260]}"#,
        r#"{"dtype":"F32","shape":[64],"data_offsets":[0,18446744073709551615]}"#,
        r#"{"dtype":"Q9","shape":[64],"data_offsets":[0,256]}"#,
        r#"{"dtype":"F32","shape":[-64],"data_offsets":[0,256]}"#,
        r#"{"dtype":"F32","data_offsets":[0,256]}"#,
        "7",
    ] {
        let error = one(entry);
        assert!(matches!(error, LoadError::SafeTensors { .. }), "{entry}: {error}");
    }
    let error = one(r#"{"dtype":"F32","shape":[64],"data_offsets":[0,256]}"#);
    assert!(
        matches!(&error, LoadError::MissingTensor { tensor, .. } if tensor == "model.embed_tokens.weight"),
        "{error}"
    );
}

#[test]
fn wrong_tensors_are_refused() {
    let error = |folder: Folder| {
        Model::open(folder.write().path())
            .map(|m| m.check())
            .and_then(|c| c)
            .expect_err("refused")
            .to_string()
    };
    let text = error(llama().without("model.layers.1.mlp.up_proj.weight"));
    assert!(
        text.contains("model.layers.1.mlp.up_proj.weight is missing; expected one of shape [32, 64]"),
        "{text}"
    );
    let text = error(llama().ones("model.layers.0.self_attn.k_proj.weight", &[64, 32]));
    assert!(text.contains("k_proj.weight has shape [64, 32]; expected [32, 64]"), "{text}");
    for name in ["model.layers.0.self_attn.o_proj.bias", "model.layers.2.mlp.up_proj.weight", "score.weight"]
    {
        let text = error(llama().ones(name, &[64]));
        assert!(text.contains(&format!("tensor {name} has no place in architecture llama")), "{text}");
    }
    let old = llama().ones("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    Model::open(old.write().path()).expect("it opens, since frequencies are computed from the spec");
}

#[test]
fn folders_without_weights_are_refused() {
    let folder = llama().write();
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    write(&folder, "pytorch_model.bin", b"PK");
    let text = Model::open(folder.path()).expect_err("no weights").to_string();
    assert!(text.contains("neither model.safetensors nor model.safetensors.index.json"), "{text}");
}
