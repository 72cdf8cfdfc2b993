//! Folders quantised by MLX: those that `mlx-lm` wrote (`testdata/mlx/theirs`), and damaged ones.

use crate::folder::{Folder, tiny};
use serde_json::json;
use std::path::Path;
use zonda_engine::load::{Affine, DType, Format, LayerTensor, LoadError, Model, TensorRole, check_finite};

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";
const Q: TensorRole = TensorRole::Layer(0, LayerTensor::Q);

fn theirs(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/mlx/theirs").join(name);
    Model::open(&folder).expect("opens")
}

#[test]
fn every_matrix_has_the_quantisation_of_its_layer() {
    let model = theirs("llama_tied_mixed");
    assert_eq!(model.format, Format::Mlx);
    assert!(model.spec.tied_embeddings);
    model.check().expect("all tensors");
    let affine = |role| model.affine(role).expect("a tensor").map(|a| a.affine);
    let of = |bits, group_size| Some(Affine { bits, group_size });
    assert_eq!(affine(TensorRole::TokenEmbedding), of(8, 64));
    assert_eq!(affine(Q), of(2, 64));
    assert_eq!(affine(TensorRole::Layer(0, LayerTensor::V)), of(5, 32));
    assert_eq!(affine(TensorRole::Layer(1, LayerTensor::FfnUp)), of(6, 64));
    assert_eq!(affine(TensorRole::Layer(1, LayerTensor::AttnOut)), None);
    assert_eq!(affine(TensorRole::Layer(0, LayerTensor::K)), of(3, 32));
    assert_eq!(affine(TensorRole::OutputNorm), None);
    let label = model.type_label();
    for kind in ["q3_g32", "q2_g64", "q5_g32", "q6_g64", "q8_g64", "f16"] {
        assert!(label.split('+').any(|t| t == kind), "{label}");
    }
}

#[test]
fn quantised_matrices_are_exposed_as_supported_types() {
    for name in ["llama_q4", "qwen3_moe_q4", "llama_tied_mixed"] {
        let model = theirs(name);
        for role in model.spec.roles() {
            let tensor = model.tensor(role).expect("a tensor");
            assert_eq!(tensor.shape, model.spec.shape(role), "{name} {role:?}");
            check_finite(&tensor).expect("finite");
            assert_eq!(tensor.to_f32().len(), tensor.len());
        }
    }
    // Four bits with scales that binary16 can represent are exactly Q4_1.
    let model = theirs("qwen3_moe_q4");
    let expert = TensorRole::Layer(0, LayerTensor::ExpertGate(5));
    assert_eq!(model.tensor(Q).expect("Q").dtype, DType::Q4_1);
    assert_eq!(model.tensor(expert).expect("an expert").dtype, DType::Q4_1);
    assert_eq!(theirs("llama_tied_mixed").tensor(Q).expect("Q").dtype, DType::F32);
}

#[test]
fn codes_scales_and_biases_are_dequantised() {
    let folder = quantized();
    let model = Model::open(folder.write().path()).expect("opens");
    let tensor = model.tensor(Q).expect("Q");
    // value = 0.5 · code − 2, codes 0, 1, 2, … low bits first
    let values = tensor.to_f32();
    assert_eq!(values.len(), 64 * 64);
    for (i, value) in values.iter().enumerate() {
        assert_eq!(*value, 0.5 * (i % 16) as f32 - 2.0, "value {i}");
    }
    assert_eq!(model.affine(Q).expect("Q").expect("quantised").stored_bytes(), 64 * 32 + 2 * 64 * 4);
}

/// A tiny llama whose first Q matrix has 4 bits and groups of 64.
fn quantized() -> Folder {
    let codes = [0x10u8, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(64 * 4);
    tiny("llama", "LlamaForCausalLM")
        .set("quantization", json!({ "group_size": 64, "bits": 4 }))
        .without(&format!("{Q_PROJ}.weight"))
        .with(&format!("{Q_PROJ}.weight"), "U32", &[64, 8], codes)
        .with(&format!("{Q_PROJ}.scales"), "F32", &[64, 1], 0.5f32.to_le_bytes().repeat(64))
        .with(&format!("{Q_PROJ}.biases"), "F32", &[64, 1], (-2f32).to_le_bytes().repeat(64))
}

fn error(folder: &Folder) -> String {
    let opened = Model::open(folder.write().path());
    let checked: Result<(), LoadError> = opened.and_then(|model| model.check());
    checked.expect_err("refused").to_string()
}

#[test]
fn mismatches_are_named() {
    let quantization = |value| error(&quantized().set("quantization", value));
    let cases = [
        (
            json!({ "group_size": 48, "bits": 4 }),
            "quantization.group_size is 48; expected one of 32, 64, 128",
        ),
        (json!({ "group_size": 64, "bits": 7 }), "quantization.bits is 7; expected one of 2, 3, 4, 5, 6, 8"),
        (json!({ "bits": 4 }), "quantization.group_size is missing"),
        (
            json!({ "group_size": 32, "bits": 4, "mode": "mxfp4" }),
            "quantization.mode is \"mxfp4\", which is not",
        ),
        (json!({ "group_size": 64, "bits": 4, "rotate": "hadamard" }), "quantization.rotate is \"hadamard\""),
        (
            json!({ "group_size": 64, "bits": 4, "lm_head": { "bits": 4 } }),
            "quantization.group_size is missing",
        ),
        (json!("4 bits"), "quantization is \"4 bits\"; expected an object"),
        // The file has 4 bits and groups of 64.
        (json!({ "group_size": 64, "bits": 8 }), "q_proj.weight has shape [64, 8]; expected [64, 16]"),
        (json!({ "group_size": 32, "bits": 4 }), "q_proj.scales has shape [64, 1]; expected [64, 2]"),
    ];
    for (value, expected) in cases {
        let text = quantization(value.clone());
        assert!(text.contains(expected), "{value}: {text}");
    }
    let text = error(&quantized().without(&format!("{Q_PROJ}.biases")));
    assert!(text.contains("q_proj.biases is missing; expected one of shape [64, 1]"), "{text}");
    let text = error(&quantized().without(&format!("{Q_PROJ}.scales")));
    assert!(text.contains("q_proj.weight has shape [64, 8]; expected [64, 64]"), "{text}");
    let floats = quantized().ones(&format!("{Q_PROJ}.weight"), &[64, 8]);
    assert!(error(&floats).contains("has type f32 with scales"), "{}", error(&floats));
    let text = error(&quantized().ones("model.layers.0.self_attn.q_proj.extra", &[1]));
    assert!(text.contains("has no place in architecture llama"), "{text}");
    // Scales in a folder whose configuration does not mention quantisation.
    let text = error(&quantized().without("quantization"));
    assert!(text.contains("has no place in architecture llama"), "{text}");
}
