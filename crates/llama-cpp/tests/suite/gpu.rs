//! A GPU gives the same logits as the CPU. Runs in builds with a GPU feature on machines with a device (`make test-vulkan`
//! uses Mesa's software device); elsewhere it prints why it is skipped.

use crate::common::{all, difference, forward, options, tiny};
use zonda_engine::TokenId;
use zonda_engine::forward::Backend as _;
use zonda_llama_cpp::{Device, LlamaCpp, LlamaCppOptions, devices, no_gpu};

#[test]
fn a_gpu_gives_the_logits_of_the_cpu() {
    if let Some(why) = no_gpu() {
        eprintln!("skipped: {why}");
        return;
    }
    let gpu = devices().into_iter().find(|d| d.gpu).unwrap().description.trim().to_owned();
    eprintln!("on {gpu}");
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<TokenId> = (0..50).map(|i| (i * 37 + 5) % 100).collect();
    for quant in ["f32", "q8_0", "q4_0", "q4_k_m"] {
        let model = tiny("tiny-llama", quant.parse().unwrap(), dir.path());
        let on = |device| {
            let options = LlamaCppOptions { device, ..options(&model) };
            let mut backend = LlamaCpp::open(&model, &options).unwrap();
            let rows = forward(&mut backend, vec![all(0, 0, &ids[..40])]).unwrap();
            let more = forward(&mut backend, vec![all(0, 40, &ids[40..])]).unwrap();
            (backend.info().device, [rows, more].concat())
        };
        let (name, expected) = on(Device::Cpu);
        assert_eq!(name, "cpu");
        let layers = model.spec.layers + 1;
        for (asked, named) in [
            (None, gpu.clone()),
            (Some(layers), gpu.clone()),
            (Some(1), format!("{gpu} (1 of {layers} layers)")),
        ] {
            let (name, found) = on(Device::Gpu { layers: asked });
            assert_eq!(name, named);
            let size = expected.iter().flatten().fold(0.0f32, |m, l| m.max(l.abs()));
            let worst = expected.iter().zip(&found).map(|(a, b)| difference(a, b)).fold(0.0, f32::max);
            println!("{quant}, {asked:?} layers: largest difference {worst:.2e} of logits up to {size:.1}");
            // For quantised weights the CPU rounds activations to 8 bits; the GPU does not.
            let bound = if quant == "f32" { 0.01 } else { 0.1 };
            assert!(worst <= bound * size, "{quant}, {asked:?}: {worst} of {size}");
        }
    }
}
