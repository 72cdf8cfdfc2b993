//! Scales that GGUF files store beside matrices: `blk.0.ffn_up.scale`.

use crate::build::{FFN, Gguf, HIDDEN, LAYERS, checked, error, open, tiny, tiny_moe};
use zonda_engine::load::{LayerTensor, TensorRole};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The model of ones with a tensor of f32 more.
fn with(g: Gguf, name: &str, values: &[f32]) -> Gguf {
    g.filled(name, &[values.len()], 0, floats(values))
}

#[test]
fn a_matrix_is_multiplied_by_its_scale() {
    let g = with(tiny("llama"), "blk.1.ffn_up.scale", &[0.25]);
    let model = checked(&with(g, "blk.1.ffn_up.input_scale", &[7.0])).unwrap();
    for (layer, tensor, scale) in
        [(0, LayerTensor::FfnUp, 1.0), (1, LayerTensor::FfnUp, 0.25), (1, LayerTensor::FfnGate, 1.0)]
    {
        let matrix = model.tensor(TensorRole::Layer(layer, tensor)).unwrap();
        assert_eq!(matrix.scale(), scale, "{layer} {tensor:?}");
        assert_eq!(matrix.to_f32(), vec![scale; FFN * HIDDEN]);
        let mut row = vec![0.0; HIDDEN];
        matrix.row(2, &mut row);
        assert_eq!(row, vec![scale; HIDDEN]);
        assert_eq!(matrix.into_owned().scale(), scale);
    }
}

#[test]
fn every_expert_has_a_scale_of_its_own() {
    let g = with(tiny_moe("llama", 3, 2), "blk.0.ffn_down_exps.scale", &[1.0, 2.0, -0.5]);
    let model = checked(&g).unwrap();
    for (e, scale) in [1.0, 2.0, -0.5].into_iter().enumerate() {
        let expert = model.tensor(TensorRole::Layer(0, LayerTensor::ExpertDown(e))).unwrap();
        assert_eq!(expert.to_f32(), vec![scale; FFN * HIDDEN], "expert {e}");
    }
}

#[test]
fn scales_that_would_be_ignored_or_misread_are_refused() {
    let named = |name: &str, values: &[f32]| error(&with(tiny("llama"), name, values));
    for name in ["blk.0.attn_norm.scale", "token_embd.scale", "blk.0.ffn_other.scale", "rope_freqs.scale"] {
        let error = named(name, &[1.0]);
        assert!(error.contains(name), "{error}");
    }
    let beyond = format!("blk.{LAYERS}.ffn_up.scale");
    assert!(named(&beyond, &[1.0]).contains(&beyond));
    let shape = named("blk.0.ffn_up.scale", &[1.0, 1.0]);
    assert!(shape.contains("ffn_up.scale") && shape.contains("[2]") && shape.contains("[1]"), "{shape}");
    let experts = with(tiny_moe("llama", 3, 2), "blk.0.ffn_up_exps.scale", &[1.0]);
    assert!(error(&experts).contains("ffn_up_exps.scale"));
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(named("blk.0.ffn_up.scale", &[bad]).contains("ffn_up.scale"), "{bad}");
    }
    let half = tiny("llama").filled("blk.0.ffn_up.scale", &[1], 1, vec![0, 0x3c]);
    assert!(error(&half).contains("f16"), "{}", error(&half));
    assert!(open(&half).is_ok(), "opens to be inspected");
}
