//! The types that the mixes give the tensors of real shapes.

use std::path::Path;
use zonda_convert::SynthSpec;
use zonda_engine::load::{LayerTensor, ModelSpec, TensorRole};
use zonda_engine::quant::Mix;
use zonda_kernels::DType;

/// The layers whose tensor gets Q6_K.
fn better_layers(mix: Mix, spec: &ModelSpec, tensor: LayerTensor, cols: usize) -> Vec<usize> {
    let dtype = |layer| mix.dtype(spec, TensorRole::Layer(layer, tensor), cols);
    (0..spec.layers).filter(|&layer| dtype(layer) == DType::Q6_K).collect()
}

#[test]
fn q4_k_m_keeps_more_bits_where_llama_cpp_does() {
    let spec = SynthSpec::find("mistral-7b").unwrap().spec;
    // As in a Mistral 7B in Q4_K_M from llama.cpp.
    let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
    assert_eq!(better_layers(Mix::Q4KM, &spec, LayerTensor::V, 4096), expected);
    assert_eq!(better_layers(Mix::Q4KM, &spec, LayerTensor::FfnDown, 14_336), expected);
    assert!(better_layers(Mix::Q4KM, &spec, LayerTensor::FfnUp, 4096).is_empty());
    let role = |role| Mix::Q4KM.dtype(&spec, role, 4096);
    assert_eq!(role(TensorRole::Output), DType::Q6_K);
    assert_eq!(role(TensorRole::TokenEmbedding), DType::Q4_K);
    assert_eq!(role(TensorRole::Layer(9, LayerTensor::FfnNorm)), DType::F32);
}

#[test]
fn models_with_eight_experts_get_more_bits_for_keys_and_values() {
    let spec = SynthSpec::find("mixtral-8x7b").unwrap().spec;
    let dtype = |mix: Mix, tensor| mix.dtype(&spec, TensorRole::Layer(4, tensor), 4096);
    assert_eq!(dtype(Mix::Q4KM, LayerTensor::V), DType::Q8_0);
    assert_eq!(dtype(Mix::Q4KM, LayerTensor::AttnOut), DType::Q5_K);
    assert_eq!(dtype(Mix::Plain(DType::BF16), LayerTensor::K), DType::BF16);
    assert_eq!(dtype(Mix::Q4KM, LayerTensor::Router), DType::F32);
}

#[test]
fn vectors_stay_floats() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/gemma3/config.json");
    let spec = ModelSpec::from_config(&config).unwrap();
    let vectors: Vec<_> = spec.roles().filter(|&role| spec.shape(role).len() == 1).collect();
    assert_eq!(vectors.len(), 6 * spec.layers + 1, "four norms, those of Q and K, and the last");
    for role in vectors {
        assert_eq!(Mix::Q4KM.dtype(&spec, role, 4096), DType::F32, "{role:?}");
    }
}

#[test]
fn short_rows_fall_back_to_smaller_blocks() {
    let spec = SynthSpec::find("smollm2-135m").unwrap().spec;
    let dtype = |mix: Mix, role, cols| mix.dtype(&spec, role, cols);
    // 576 is not a multiple of 256.
    assert_eq!(dtype(Mix::Plain(DType::Q4_1), TensorRole::TokenEmbedding, 576), DType::Q8_0);
    assert_eq!(dtype(Mix::Q4KM, TensorRole::Layer(8, LayerTensor::Q), 576), DType::Q5_0);
    assert_eq!(dtype(Mix::Q5KM, TensorRole::Layer(8, LayerTensor::Q), 576), DType::Q5_1);
    assert_eq!(dtype(Mix::Plain(DType::Q2_K), TensorRole::Layer(8, LayerTensor::Q), 48), DType::F16);
}
