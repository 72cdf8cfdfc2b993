//! Checkpoints of one-byte floats and Mistral's own layout (`testdata/fp8`): logits against Hugging Face `transformers` on the
//! dequantised weights, on every instruction set; the same weights in both layouts give the same bits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::{DType, LayerTensor, LoadError, Model, TensorRole};
use zonda_kernels::Isa;
use zonda_kernels::attention::KvType;
use zonda_native::{Native, NativeOptions};
use zonda_testkit::goldens::cases;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fp8").join(name)
}

fn open(folder: &Path, isa: Isa) -> Native {
    let model = Arc::new(Model::open(folder).unwrap());
    let options = NativeOptions {
        isa: Some(isa),
        threads: Some(2),
        kv_type: KvType::F32,
        slots: 1,
        context: Some(128),
        ..NativeOptions::default()
    };
    Native::open(&model, &options).unwrap()
}

/// Every row's logits, of tokens in chunks.
fn logits(native: &mut Native, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for (i, tokens) in ids.chunks(chunk).enumerate() {
        let span = Span { slot: 0, start: i * chunk, tokens, want: Want::All };
        let mut out = Logits::new();
        native.forward(&Batch { spans: vec![span] }, &mut out).unwrap();
        rows.extend((0..out.rows()).map(|r| out.row(r).to_vec()));
    }
    rows
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

#[test]
fn logits_match_transformers() {
    for name in ["tensor", "tensor_own", "plain_own", "blocks", "latent_own"] {
        for isa in Isa::all() {
            let mut worst = 0.0f32;
            for (ids, expected) in cases(&folder(name)) {
                let rows = logits(&mut open(&folder(name), isa), &ids, ids.len());
                let expected: Vec<&[f32]> = expected.chunks_exact(rows[0].len()).collect();
                assert_eq!(rows.len(), expected.len());
                for (i, (row, expected)) in rows.iter().zip(expected).enumerate() {
                    for (a, b) in row.iter().zip(expected) {
                        let d = (a - b).abs();
                        assert!(d <= 1e-3, "{name} on {}: position {i}: {a}, expected {b}", isa.describe());
                        worst = worst.max(d);
                    }
                    assert_eq!(argmax(row), argmax(expected), "{name} on {}: position {i}", isa.describe());
                }
            }
            println!("{name} on {}: max abs difference {worst:.2e}", isa.describe());
        }
    }
}

#[test]
fn both_layouts_give_the_same_bits() {
    let ids = cases(&folder("tensor")).pop().unwrap().0;
    for isa in Isa::all() {
        let usual = logits(&mut open(&folder("tensor"), isa), &ids, ids.len());
        let own = logits(&mut open(&folder("tensor_own"), isa), &ids, ids.len());
        assert_eq!(usual, own, "{}", isa.describe());
    }
}

#[test]
fn one_token_at_a_time_gives_the_bits_of_a_prefill() {
    for name in ["tensor", "blocks"] {
        let ids = cases(&folder(name)).pop().unwrap().0;
        for isa in Isa::all() {
            let whole = logits(&mut open(&folder(name), isa), &ids, ids.len());
            for chunk in [1, 7] {
                assert_eq!(whole, logits(&mut open(&folder(name), isa), &ids, chunk), "{name}, {chunk}");
            }
        }
    }
}

#[test]
fn weights_stay_one_byte_wide() {
    for name in ["tensor", "tensor_own", "blocks", "latent_own"] {
        let model = Model::open(&folder(name)).unwrap();
        model.check().unwrap();
        let down = model.tensor(TensorRole::Layer(0, LayerTensor::FfnDown)).unwrap();
        assert_eq!(down.dtype, DType::F8_E4M3, "{name}");
        assert_eq!(down.bytes().len(), down.len() / 128 * 132);
        assert!(model.type_label().contains("f8_e4m3"), "{}", model.type_label());
        let weights = open(&folder(name), Isa::best()).info().weights;
        assert!(weights.contains("f8_e4m3"), "{weights}");
    }
    assert_eq!(Model::open(&folder("tensor_own")).unwrap().skipped_tensors(), 1);
}

#[test]
fn scales_of_whole_matrices_need_no_configuration() {
    let copy = changed("tensor", "config.json", "quantization_config", "unread");
    Model::open(copy.path()).unwrap().check().unwrap();
}

/// A copy of a folder with its configuration changed.
fn changed(name: &str, config: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in folder(name).read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join(config);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    copy
}

#[test]
fn what_is_not_run_is_refused() {
    for (name, config, from, to, says) in [
        ("tensor_own", "params.json", "\"dim\": 128", "\"dim\": 128, \"alibi\": true", "alibi"),
        ("tensor_own", "params.json", "\"dim\": 128,", "", "dim is missing"),
        ("tensor_own", "params.json", "fp8_e4m3", "nvfp4", "quantized with nvfp4"),
        ("tensor_own", "params.json", "\"n_layers\": 2", "\"n_layers\": 1", "model.layers.1"),
        ("latent_own", "params.json", "\"apply_scale\": false", "\"apply_scale\": true", "yarn.apply_scale"),
        ("latent_own", "params.json", "\"route_every_n\": 1", "\"route_every_n\": 2", "every layer"),
        (
            "blocks",
            "config.json",
            "\"quant_method\": \"fp8\"",
            "\"quant_method\": \"fbgemm_fp8\"",
            "fbgemm_fp8",
        ),
        (
            "blocks",
            "config.json",
            "\"weight_block_size\": [\n      128,",
            "\"weight_block_size\": [\n      0,",
            "rows and columns",
        ),
    ] {
        let copy = changed(name, config, from, to);
        let error = Model::open(copy.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // other blocks than the scales are for
    let copy = changed(
        "blocks",
        "config.json",
        "\"weight_block_size\": [\n      128,",
        "\"weight_block_size\": [\n      64,",
    );
    let error = Model::open(copy.path()).unwrap().check().unwrap_err();
    assert!(
        matches!(&error, LoadError::WrongShape { tensor, .. } if tensor.ends_with("_scale_inv")),
        "{error}"
    );
}
