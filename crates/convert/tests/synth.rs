//! Synthetic models: the same weights in every format, readable by our own loader and tokenizers.

use std::fs;
use std::path::Path;
use zonda_convert::{ConvertError, SynthSpec, synth, synth_archs};
use zonda_engine::load::{Format, Model, RopePairing, RopeScaling, TensorRole};
use zonda_engine::quant::Mix;
use zonda_engine::tokenize::{ChatTemplate, Encode, Tokenizer};
use zonda_kernels::DType;

const F32: Mix = Mix::Plain(DType::F32);

fn make(name: &str, mix: Mix, out: &Path, seed: u64) -> u64 {
    synth(&SynthSpec::find(name).unwrap(), mix, out, seed, &mut |_, _| {}).unwrap()
}

fn tiny() -> impl Iterator<Item = SynthSpec> {
    synth_archs().into_iter().filter(|s| s.name.starts_with("tiny-"))
}

/// A tensor's rows in Hugging Face's order, computed independently: pair `i` of a head is rows `2i, 2i + 1` for adjacent
/// pairs, and rows `i, i + half` for pairs of halves.
fn rows(model: &Model, role: TensorRole) -> Vec<f32> {
    let tensor = model.tensor(role).unwrap();
    let values = tensor.to_f32();
    let rotated = tensor.name.contains("attn_q.weight") || tensor.name.contains("attn_k.weight");
    if !(rotated && model.spec.rope.pairing == RopePairing::Adjacent) {
        return values;
    }
    let (cols, half) = (tensor.cols(), model.spec.head_dim / 2);
    let heads = tensor.rows() / (2 * half);
    let mut out = Vec::new();
    for head in 0..heads {
        for side in 0..2 {
            for pair in 0..half {
                let row = head * 2 * half + 2 * pair + side;
                out.extend(&values[row * cols..][..cols]);
            }
        }
    }
    out
}

#[test]
fn gguf_and_folder_of_one_seed_are_the_same_model() {
    for arch in tiny() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("m.gguf"), dir.path().join("m"));
        let bytes = make(arch.name, F32, &file, 5);
        assert_eq!(fs::metadata(&file).unwrap().len(), bytes);
        make(arch.name, F32, &folder, 5);

        let gguf = Model::open(&file).unwrap();
        let hf = Model::open(&folder).unwrap();
        assert_eq!((gguf.format, hf.format), (Format::Gguf, Format::SafeTensors));
        gguf.check().unwrap();
        hf.check().unwrap();
        let mut expected = arch.spec.clone();
        expected.name = hf.spec.name.clone();
        assert_eq!(hf.spec, expected, "{}", arch.name);
        expected.name = Some(format!("{} (random weights, seed 5)", arch.name));
        expected.rope.pairing = gguf.spec.rope.pairing;
        if matches!(expected.rope.scaling, RopeScaling::Llama3 { .. }) {
            expected.rope.scaling = gguf.spec.rope.scaling.clone();
            assert!(
                matches!(&expected.rope.scaling, RopeScaling::Factors(f) if f.len() == 32 && f[31] == 8.0)
            );
        }
        assert_eq!(gguf.spec, expected, "{}", arch.name);
        for role in arch.spec.roles() {
            assert!(rows(&gguf, role) == rows(&hf, role), "{}: {role:?}", arch.name);
        }
    }
}

#[test]
fn a_seed_reproduces_the_bytes_and_another_seed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c"].map(|n| dir.path().join(format!("{n}.gguf")));
    for (path, seed) in paths.iter().zip([1, 1, 2]) {
        make("tiny-qwen2", Mix::Q4KM, path, seed);
    }
    let [a, b, c] = paths.map(|p| fs::read(p).unwrap());
    assert!(a == b, "same seed, different bytes");
    assert!(a.len() == c.len() && a != c, "another seed, same bytes");
}

#[test]
fn every_type_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let embedding = |mix: Mix| match mix.base() {
        DType::MXFP4 => DType::Q8_0,
        base => base,
    };
    let head = |mix: Mix| match mix.base() {
        DType::MXFP4 => DType::Q8_0,
        base if base.is_quantized() && base != DType::Q8_0 => DType::Q6_K,
        base => base,
    };
    for mix in Mix::all() {
        let path = dir.path().join(format!("{mix}.gguf"));
        make("tiny-mixtral", mix, &path, 0);
        let model = Model::open(&path).unwrap();
        model.check().unwrap();
        assert_eq!(model.metadata.u64("general.file_type"), Some(mix.file_type().into()));
        assert_eq!(model.tensor(TensorRole::TokenEmbedding).unwrap().dtype, embedding(mix), "{mix}");
        assert_eq!(model.tensor(TensorRole::Output).unwrap().dtype, head(mix), "{mix}");
        assert_eq!(model.tensor(TensorRole::OutputNorm).unwrap().dtype, DType::F32);
        // Values are close to those in f32, within the type's error on bell-shaped rows.
        let role = TensorRole::TokenEmbedding;
        let values = model.tensor(role).unwrap().to_f32();
        let power = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((power * 256.0 - 1.0).abs() < 0.1, "{mix}: variance {power}");
    }
}

#[test]
fn tokenizers_of_both_formats_agree_and_are_lossless() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-llama", "tiny-qwen3"] {
        let (file, folder) = (dir.path().join(format!("{name}.gguf")), dir.path().join(name));
        make(name, F32, &file, 0);
        make(name, F32, &folder, 0);
        let gguf = Tokenizer::for_model(&Model::open(&file).unwrap()).unwrap().unwrap();
        let hf = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        for text in [
            "Hello, please explain the difference between a river and a mountain.",
            "fn main() {\n    let x = 42;\n\n\n}\t\t  end  ",
            "naïve 你好 👋🏽 العربية  ",
            "<|im_start|>user\nhi<|im_end|>\n",
            "",
            "   ",
        ] {
            let ids = gguf.encode(text, Encode { add_bos: gguf.adds_bos(), parse_special: true }).unwrap();
            assert_eq!(hf.encode(text, true).unwrap().get_ids(), ids, "{name}: {text:?}");
            let ids = gguf.encode(text, Encode { add_bos: false, parse_special: true }).unwrap();
            assert_eq!(gguf.decode(&ids, false), text);
        }
        assert_eq!(gguf.adds_bos(), name == "tiny-llama");
        assert_eq!(gguf.vocab_size(), 512);
        assert!(ChatTemplate::for_model(&Model::open(&file).unwrap(), &gguf).unwrap().is_some());
    }
}

#[test]
fn common_english_takes_few_tokens_in_a_real_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let spec = SynthSpec::find("smollm2-135m").unwrap().with_layers(1).unwrap();
    synth(&spec, Mix::Plain(DType::Q4_0), &path, 0, &mut |_, _| {}).unwrap();
    let tokenizer = Tokenizer::for_model(&Model::open(&path).unwrap()).unwrap().unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    let text = "The wind came down from the mountains and crossed the river before the morning light.";
    let ids = tokenizer.encode(text, Encode::default()).unwrap();
    assert!(ids.len() <= 24, "{} tokens", ids.len());
}

#[test]
fn refusals_give_the_reason_and_leave_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let spec = SynthSpec::find("tiny-llama").unwrap();
    let try_synth = |mix, out: &Path| synth(&spec, mix, out, 0, &mut |_, _| {});

    let error = try_synth(Mix::Q4KM, &dir.path().join("folder")).unwrap_err();
    assert!(error.to_string().contains("found q4_k_m"), "{error}");

    let used = dir.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("precious"), "x").unwrap();
    assert!(matches!(try_synth(F32, &used), Err(ConvertError::Exists { .. })));
    assert_eq!(fs::read_dir(&used).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    try_synth(F32, &empty).unwrap();
    Model::open(&empty).unwrap().check().unwrap();

    let unknown = "q7_k".parse::<Mix>().unwrap_err().to_string();
    assert!(unknown.contains("q7_k") && unknown.contains("q4_k_m"), "{unknown}");
}
