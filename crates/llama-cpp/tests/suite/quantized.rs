//! Files of `zonda quantize` are loaded and computed with: logits near those of the weights they were made from.

use crate::common::{all, difference, forward, options, tiny};
use zonda_engine::load::Model;
use zonda_engine::make::{Mix, QuantizeOptions, quantize};
use zonda_llama_cpp::LlamaCpp;

#[test]
fn quantised_files_load_and_stay_near_their_source() {
    let dir = tempfile::tempdir().unwrap();
    for arch in ["tiny-mistral", "tiny-mixtral"] {
        let source = tiny(arch, Mix::Plain(zonda_engine::load::DType::F32), dir.path());
        let logits = |model: &Model| {
            let mut backend = LlamaCpp::open(model, &options(model)).unwrap();
            forward(&mut backend, vec![all(0, 0, &[1, 5, 9, 2])]).unwrap().concat()
        };
        let exact = logits(&source);
        let spread = exact.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        let mut off = Vec::new();
        for name in ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_1", "q4_0"] {
            let out = dir.path().join("q.gguf");
            quantize(&source, &out, name.parse().unwrap(), &QuantizeOptions::default(), &mut |_, _| {})
                .unwrap();
            off.push(difference(&logits(&Model::open(&out).unwrap()), &exact) / spread);
            println!("{arch} {name}: {}", off[off.len() - 1]);
        }
        assert!(off[0] < 0.1 && off.iter().all(|&off| off < 0.8), "{arch}: {off:?}");
        assert!(off[0] < off[5], "{arch}: more bits, smaller errors: {off:?}");
    }
}
