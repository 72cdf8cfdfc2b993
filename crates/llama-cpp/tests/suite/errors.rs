//! Failures to open a model are errors with the reason and advice, in this process and without llama.cpp's output on stderr.

use crate::common::{options, root, tiny};
use std::io::{Seek as _, SeekFrom, Write as _};
use zonda_engine::forward::BackendError;
use zonda_engine::load::Model;
use zonda_llama_cpp::{Device, LlamaCpp, LlamaCppOptions, devices, version};

fn refused(model: &Model, options: &LlamaCppOptions) -> String {
    match LlamaCpp::open(model, options) {
        Ok(_) => panic!("opened"),
        Err(BackendError::Unsupported(why) | BackendError::Failed(why)) => why,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_safetensors_folder_is_refused_with_advice_to_convert() {
    let model = Model::open(&root().join("testdata/hf/llama")).unwrap();
    let why = refused(&model, &options(&model));
    assert!(why.contains("reads GGUF") && why.contains("zonda convert"), "{why}");
}

#[test]
fn files_changed_after_our_loader_read_them_are_errors_of_llama_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let options = options(&model);
    LlamaCpp::open(&model, &options).unwrap();

    let mut file = std::fs::OpenOptions::new().write(true).open(&model.path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"none").unwrap();
    let why = refused(&model, &options);
    assert!(why.contains("could not load the model") && why.contains("magic"), "{why}");

    std::fs::remove_file(&model.path).unwrap();
    let why = refused(&model, &options);
    assert!(why.contains("No such file"), "{why}");
}

#[test]
fn invalid_options_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let most = model.spec.context_length;
    let with = |change: fn(&mut LlamaCppOptions)| {
        let mut changed = options(&model);
        change(&mut changed);
        refused(&model, &changed)
    };
    let why = with(|o| o.context = Some(usize::MAX));
    assert!(why.contains(&format!("1 to {most}")), "{why}");
    let why = with(|o| o.slots = 0);
    assert!(why.contains("0 slots"), "{why}");
    let why = with(|o| o.slots = 100_000);
    assert!(why.contains("100000 slots"), "{why}");
    let why = with(|o| o.batch_tokens = 0);
    assert!(why.contains("0 tokens a batch"), "{why}");
    let why = with(|o| o.kv_tokens = Some(usize::MAX));
    assert!(why.contains("tokens of KV cache"), "{why}");
    let why = with(|o| o.threads = Some(100_000));
    assert!(why.contains("100000 threads"), "{why}");
}

#[test]
fn a_window_that_llama_cpp_ignores_limits_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-mistral", "f32".parse().unwrap(), dir.path());
    let window = model.spec.windows[0].unwrap();
    let why = refused(&model, &LlamaCppOptions { context: Some(window + 1), ..options(&model) });
    assert!(why.contains(&format!("at most {window}")), "{why}");
    LlamaCpp::open(&model, &LlamaCppOptions { context: Some(window), ..options(&model) }).unwrap();
}

#[test]
fn a_missing_gpu_is_an_error_instead_of_a_run_on_the_cpu() {
    if let Some(gpu) = devices().iter().find(|d| d.gpu) {
        eprintln!("skipped: this build sees the GPU {}", gpu.name);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let why = refused(&model, &LlamaCppOptions { device: Device::Gpu { layers: None }, ..options(&model) });
    assert!(why.contains("GPU") && (why.contains("feature cuda") || why.contains("finds no GPU")), "{why}");
}

#[test]
fn the_cpu_is_a_device_and_the_version_is_known() {
    let devices = devices();
    assert!(devices.iter().any(|d| d.name == "CPU" && !d.gpu && d.memory_total > 0), "{devices:?}");
    assert!(
        version().contains("ggml") && version().starts_with(|c: char| c.is_ascii_digit()),
        "{}",
        version()
    );
}

/// With fewer cells than sequences llama.cpp would end the process.
#[test]
fn a_context_of_one_token_runs() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let small = LlamaCppOptions {
        slots: 4,
        context: Some(1),
        kv_tokens: Some(1),
        batch_tokens: 1,
        ..options(&model)
    };
    LlamaCpp::open(&model, &small).unwrap();
}
