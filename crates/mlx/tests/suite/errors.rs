//! Failures to open a model are errors with the reason and advice, in this process.

use crate::common::{all, forward, options, testdata, tiny};
use std::os::unix::fs::FileExt as _;
use zonda_engine::forward::{Backend, BackendError};
use zonda_engine::load::{LoadError, Model};
use zonda_mlx::{Device, Mlx, MlxOptions, gpu};

fn refused(model: &Model, options: &MlxOptions) -> String {
    match Mlx::open(model, options) {
        Ok(_) => panic!("opened"),
        Err(BackendError::Unsupported(why) | BackendError::Failed(why)) => why,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn invalid_options_are_named() {
    let model = Model::open(&testdata().join("hf/llama")).unwrap();
    let most = model.spec.context_length;
    let with = |change: fn(&mut MlxOptions)| {
        let mut changed = options(&model);
        change(&mut changed);
        refused(&model, &changed)
    };
    let why = with(|o| o.context = Some(usize::MAX));
    assert!(why.contains(&format!("1 to {most}")), "{why}");
    assert!(with(|o| o.slots = 0).contains("0 slots"));
    assert!(with(|o| o.batch_tokens = 0).contains("0 tokens a batch"));
    let limits = MlxOptions { kv_tokens: Some(usize::MAX), ..options(&model) };
    assert_eq!(Mlx::open(&model, &limits).unwrap().limits().kv_tokens % 256, 0, "rounded, not overflowed");
    for name in ["q5", "q4_0", ""] {
        let why = name.parse::<zonda_mlx::Quantization>().unwrap_err();
        assert!(why.contains("q4 or q8"), "{why}");
    }
}

#[test]
fn a_missing_gpu_is_an_error_instead_of_a_run_on_the_cpu() {
    if let Some(gpu) = gpu() {
        eprintln!("skipped: MLX sees the GPU {gpu}");
        return;
    }
    let model = Model::open(&testdata().join("hf/llama")).unwrap();
    let why = refused(&model, &MlxOptions { device: Device::Gpu, ..options(&model) });
    assert!(why.contains("finds no GPU"), "{why}");
}

#[test]
fn non_finite_weights_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny("tiny-mistral", "f32".parse().unwrap(), dir.path()).path;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len();
    file.write_all_at(&f32::NAN.to_le_bytes(), end - 4).unwrap();
    let model = Model::open(&path).unwrap();
    let last = model.tensors().last().unwrap().name.clone();
    match Mlx::open(&model, &options(&model)) {
        Err(BackendError::Load(LoadError::NonFinite { tensor, .. })) => assert_eq!(tensor, last),
        other => panic!("expected the NaN to be found, found {other:?}"),
    }
}

#[test]
fn the_version_and_the_blas_are_known() {
    let model = Model::open(&testdata().join("hf/llama")).unwrap();
    let mut backend = Mlx::open(&model, &options(&model)).unwrap();
    let info = backend.info();
    assert!(info.version.starts_with("0.32.2"), "{}", info.version);
    assert_eq!((info.name.as_str(), info.device.as_str()), ("mlx", "cpu"));
    assert_eq!(info.threads, if info.version.contains("OpenBLAS") { 2 } else { 1 });
    assert_eq!(forward(&mut backend, vec![all(0, 0, &[1, 2])]).unwrap().len(), 2);
}
