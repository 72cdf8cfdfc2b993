//! Round trips through both formats keep the tensors bit for bit, the hyperparameters and the tokens.

use std::fs;
use std::path::{Path, PathBuf};
use zonda_convert::{ConvertError, SynthSpec, convert, convert_to_mlx, synth, synth_archs};
use zonda_engine::load::{Affine, GgufFile, Model, RopePairing, RopeScaling, TensorRole};
use zonda_engine::quant::Mix;
use zonda_engine::tokenize::{Encode, Tokenizer};
use zonda_kernels::DType;
use zonda_testkit::models;

fn convert_to(input: &Path, out: &Path, dtype: DType) -> Result<u64, ConvertError> {
    convert(&Model::open(input).unwrap(), out, dtype, &mut |_, _| {})
}

fn checkpoints() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf");
    let mut folders: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("config.json").is_file())
        .collect();
    folders.sort();
    assert!(folders.len() >= 10);
    folders
}

/// All tensors, compared bit for bit; the outputs hold f32.
fn assert_same_weights(a: &Model, b: &Model) {
    for role in a.spec.roles() {
        let [a, b] = [a, b].map(|m| m.tensor(role).unwrap().to_f32());
        assert!(a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())), "{role:?}");
    }
}

#[test]
fn gguf_to_folder_to_gguf_is_the_same_file() {
    for arch in synth_archs().into_iter().filter(|s| s.name.starts_with("tiny-")) {
        let dir = tempfile::tempdir().unwrap();
        let (first, folder, second) =
            (dir.path().join("1.gguf"), dir.path().join("f"), dir.path().join("2.gguf"));
        synth(&arch, Mix::Plain(DType::F32), &first, 3, &mut |_, _| {}).unwrap();
        convert_to(&first, &folder, DType::F32).unwrap();
        convert_to(&folder, &second, DType::F32).unwrap();

        let [one, two] = [&first, &second].map(|p| GgufFile::open(p).unwrap().metadata);
        let differing: Vec<_> =
            one.0.iter().filter(|(k, v)| two.get(k) != Some(*v)).map(|(k, _)| k).collect();
        // A folder stores no name other than its own.
        assert_eq!(differing, ["general.name"], "{}", arch.name);
        assert_same_weights(&Model::open(&first).unwrap(), &Model::open(&second).unwrap());
        let (one, two) = (Model::open(&first).unwrap().spec, Model::open(&second).unwrap().spec);
        assert_eq!((one.rope, one.windows, one.moe), (two.rope, two.windows, two.moe), "{}", arch.name);
    }
}

#[test]
fn folder_to_gguf_to_folder_keeps_weights_and_spec() {
    for folder in checkpoints() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "llama4" {
            continue; // no GGUF file says its sizes: native/tests/formats.rs
        }
        let dir = tempfile::tempdir().unwrap();
        let (file, back) = (dir.path().join("m.gguf"), dir.path().join("back"));
        convert_to(&folder, &file, DType::F32).unwrap_or_else(|e| panic!("{name}: {e}"));
        let original = Model::open(&folder).unwrap();
        let gguf = Model::open(&file).unwrap();
        assert_eq!(gguf.spec.name.as_deref(), Some(name.as_str()));

        let mut expected = original.spec.clone();
        expected.name = gguf.spec.name.clone();
        expected.rope.pairing = gguf.spec.rope.pairing;
        // GGUF calls a Mistral without a window llama, and stores Llama 3's scaling as factors.
        expected.architecture = gguf.spec.architecture;
        if let RopeScaling::Llama3 { factor, .. } = expected.rope.scaling {
            expected.rope.scaling = gguf.spec.rope.scaling.clone();
            assert!(
                matches!(&expected.rope.scaling, RopeScaling::Factors(f) if *f.last().unwrap() <= factor)
            );
        }
        assert_eq!(gguf.spec, expected, "{name}");
        if name.starts_with("gpt_oss") {
            assert_same_weights(&original, &gguf);
            let refused = convert_to(&file, &back, DType::F32).unwrap_err().to_string();
            assert!(refused.contains("gate and up together") && !back.exists(), "{refused}");
            continue;
        }

        convert_to(&file, &back, DType::F32).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back = Model::open(&back).unwrap();
        let mut expected = original.spec.clone();
        expected.architecture = back.spec.architecture;
        expected.name = back.spec.name.clone();
        if let (RopeScaling::Llama3 { .. }, RopeScaling::Llama3 { .. }) =
            (&expected.rope.scaling, &back.spec.rope.scaling)
        {
            // Other parameters may give the same factors; the factors are compared below.
            expected.rope.scaling = back.spec.rope.scaling.clone();
        }
        assert_eq!(back.spec, expected, "{name}");
        assert_same_weights(&original, &back);

        let again = dir.path().join("again.gguf");
        convert_to(dir.path().join("back").as_path(), &again, DType::F32).unwrap();
        if let (RopeScaling::Factors(a), RopeScaling::Factors(b)) =
            (&gguf.spec.rope.scaling, &Model::open(&again).unwrap().spec.rope.scaling)
        {
            let worst = a.iter().zip(b).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}: frequency factors off by {worst}");
        }
    }
}

#[test]
fn quantised_input_is_dequantised() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("q.gguf"), dir.path().join("f"));
    let arch = SynthSpec::find("tiny-qwen3").unwrap();
    synth(&arch, Mix::Q4KM, &file, 1, &mut |_, _| {}).unwrap();
    convert_to(&file, &folder, DType::F32).unwrap();
    let (gguf, hf) = (Model::open(&file).unwrap(), Model::open(&folder).unwrap());
    assert_eq!(gguf.spec.rope.pairing, RopePairing::Halves, "no permutation in the way");
    assert_same_weights(&gguf, &hf);

    let half = dir.path().join("half");
    convert_to(&file, &half, DType::BF16).unwrap();
    let tensor = Model::open(&half).unwrap().tensor(TensorRole::OutputNorm).unwrap();
    assert_eq!(tensor.dtype, DType::BF16);
}

#[test]
fn shards_are_read_and_the_progress_ends_at_its_total() {
    let folder = checkpoints().into_iter().find(|p| p.ends_with("llama")).unwrap();
    assert!(folder.join("model.safetensors.index.json").is_file());
    let dir = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    let mut calls = 0;
    let input = Model::open(&folder).unwrap();
    convert(&input, &dir.path().join("m.gguf"), DType::F16, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        (last, calls) = ((done, total), calls + 1);
    })
    .unwrap();
    assert!(last.0 == last.1 && calls > 10);
}

/// A vocabulary with all of SentencePiece's features: scores, bytes, control tokens, spaces as `▁`.
fn sentence_piece() -> (Vec<String>, Vec<i32>, Vec<f32>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    kinds.extend([6; 256]);
    let pieces = ["▁t", "he", "▁the", "in", "▁w", "▁win", "er", "▁wind", "▁▁", "th", "ing", "▁▁▁▁"];
    let letters = "▁etaoinshrdlwugcy,.";
    tokens.extend(pieces.map(str::to_owned));
    tokens.extend(letters.chars().map(String::from));
    kinds.resize(tokens.len(), 1);
    let scores = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { 259.0 - id as f32 }).collect();
    (tokens, kinds, scores)
}

#[test]
fn a_sentence_piece_tokenizer_round_trips() {
    use zonda_engine::load::Value;
    let dir = tempfile::tempdir().unwrap();
    let (file, folder, second) = (dir.path().join("m.gguf"), dir.path().join("f"), dir.path().join("2.gguf"));
    let (tokens, kinds, scores) = sentence_piece();
    let spec = {
        let mut spec = SynthSpec::find("tiny-mistral").unwrap();
        spec.spec.vocab_size = tokens.len().max(300);
        spec
    };
    synth(&spec, Mix::Plain(DType::F32), &file, 0, &mut |_, _| {}).unwrap();
    // The same weights with another tokenizer, written by our own writer.
    let mut model = Model::open(&file).unwrap();
    let mut metadata = model.metadata.clone();
    metadata.0.retain(|key, _| !key.starts_with("tokenizer."));
    for (key, value) in [
        ("model", Value::String("llama".into())),
        ("tokens", Value::Strings(tokens)),
        ("token_type", Value::Ints(kinds)),
        ("scores", Value::Floats(scores)),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
        ("add_bos_token", Value::Bool(true)),
    ] {
        metadata.0.insert(format!("tokenizer.ggml.{key}"), value);
    }
    model.metadata = metadata;
    convert(&model, &folder, DType::F32, &mut |_, _| {}).unwrap();
    convert_to(&folder, &second, DType::F32).unwrap();

    let original = Tokenizer::from_gguf(&model.metadata).unwrap();
    let back = Tokenizer::from_gguf(&GgufFile::open(&second).unwrap().metadata).unwrap();
    let hf = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    assert!(original.adds_bos() && back.adds_bos());
    for text in [
        "the wind in the thing",
        " the  winter    wind. ",
        "naïve 風 👋🏽",
        "ththe wininger the",
        "<s>the</s>",
        "a\nb\tc",
    ] {
        let options = Encode { add_bos: true, parse_special: false };
        let ids = original.encode(text, options).unwrap();
        assert_eq!(back.encode(text, options).unwrap(), ids, "{text:?}");
        if !text.contains("<s>") {
            assert_eq!(hf.encode(text, true).unwrap().get_ids(), ids, "{text:?}");
            assert_eq!(hf.decode(&ids, true).unwrap(), text);
        }
    }
}

#[test]
fn refusals_give_the_reason_and_leave_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let arch = SynthSpec::find("tiny-llama").unwrap();
    synth(&arch, Mix::Plain(DType::F32), &file, 0, &mut |_, _| {}).unwrap();

    let error = convert_to(&file, &dir.path().join("f"), DType::Q4_0).unwrap_err().to_string();
    assert_eq!(error, "the type to convert to is q4_0; expected f32, f16 or bf16");

    // Frequency factors that Llama 3's formula can't produce.
    let mut model = Model::open(&file).unwrap();
    let RopeScaling::Factors(factors) = &mut model.spec.rope.scaling else { panic!("expected factors") };
    factors[3] = 77.0;
    let error = convert(&model, &dir.path().join("f"), DType::F32, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().starts_with("rope_freqs.weight is 32 factors from 1 to 8"), "{error}");

    // A truncated tokenizer.
    let folder = dir.path().join("g");
    convert_to(&file, &folder, DType::F32).unwrap();
    let path = folder.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(convert_to(&folder, &dir.path().join("h.gguf"), DType::F32).is_err());
    // A pre-tokenizer for which GGUF has no name.
    fs::write(&path, text.replace(r"?\\p{L}+", r"?\\p{L}{1,7}")).unwrap();
    let error = convert_to(&folder, &dir.path().join("h.gguf"), DType::F32).unwrap_err().to_string();
    assert!(error.contains("expected one with a name in GGUF") && error.contains("{1,7}"), "{error}");

    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["g", "m.gguf"]);
}

#[test]
fn smollm2_as_a_folder_tokenises_as_in_llama_cpp() {
    let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("smollm2");
    convert_to(&path, &folder, DType::BF16).unwrap();
    let model = Model::open(&folder).unwrap();
    model.check().unwrap();
    assert!(model.spec.tied_embeddings && model.parameters() == 134_515_008);

    let hf = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama_cpp/tokenize.json");
    let goldens: serde_json::Value = serde_json::from_slice(&fs::read(goldens).unwrap()).unwrap();
    let strings = goldens["strings"].as_array().unwrap();
    assert!(strings.len() > 300);
    for golden in strings {
        let text = golden["text"].as_str().unwrap();
        let expected: Vec<u32> =
            golden["special"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(hf.encode(text, true).unwrap().get_ids(), expected, "{text:?}");
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&"<|im_start|>".into(), &"<|im_end|>".into()));
    assert!(config["chat_template"].as_str().unwrap().contains("add_generation_prompt"));
}

#[test]
fn a_sentence_piece_file_becomes_gguf_metadata() {
    let Some(path) = models::find("mistral-common/tokenizer.model.v1") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (dir.path().join("f"), dir.path().join("m.gguf"));
    let mut arch = SynthSpec::find("tiny-llama").unwrap().with_layers(1).unwrap();
    arch.spec.vocab_size = 32_003;
    synth(&arch, Mix::Plain(DType::BF16), &folder, 0, &mut |_, _| {}).unwrap();
    for name in
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
    {
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::copy(&path, folder.join("tokenizer.model")).unwrap();
    convert_to(&folder, &file, DType::BF16).unwrap();

    let original = Tokenizer::from_file(&path).unwrap();
    let model = Model::open(&file).unwrap();
    let tokens = model.metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[32_002].as_str()), (32_003, "[PAD32002]"));
    let gguf = Tokenizer::for_model(&model).unwrap().unwrap();
    assert_eq!(
        (gguf.bos(), gguf.eos(), gguf.adds_bos()),
        (original.bos(), original.eos(), original.adds_bos())
    );
    // And back: the scores become merges of a `tokenizer.json`.
    convert_to(&file, &dir.path().join("back"), DType::BF16).unwrap();
    let hf = tokenizers::Tokenizer::from_file(dir.path().join("back/tokenizer.json")).unwrap();

    let strings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/text/strings.json");
    let strings: Vec<String> = serde_json::from_slice(&fs::read(strings).unwrap()).unwrap();
    assert!(strings.len() > 200);
    for text in strings {
        let options = Encode { add_bos: true, parse_special: false };
        let ids = original.encode(&text, options).unwrap();
        assert_eq!(gguf.encode(&text, options).unwrap(), ids, "{text:?}");
        if !["<s>", "</s>", "<unk>"].iter().any(|special| text.contains(special)) {
            assert_eq!(hf.encode(text.as_str(), true).unwrap().get_ids(), ids, "{text:?}");
        }
    }
}

#[test]
fn fused_tensors_are_written_as_mlx_folders_in_the_right_rows() {
    let affine = Affine { bits: 8, group_size: 32 };
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf");
    let write = |name: &str| {
        let (input, out) = (Model::open(&root.join(name)).unwrap(), dir.path().join(name));
        let made = convert_to_mlx(&input, &out, affine, DType::F32, &mut |_, _| {});
        made.map(|_| (input, out))
    };
    for name in ["granitemoe", "granitemoeshared"] {
        let error = write(name).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("experts is {name}")), "{error}");
    }
    for name in ["llama", "qwen3_moe", "phi3", "phi3_long", "glm", "glm4", "granitemoehybrid"] {
        let (input, out) = write(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back = Model::open(&out).unwrap();
        for role in input.spec.roles() {
            let (expected, found) = (input.tensor(role).unwrap(), back.tensor(role).unwrap());
            assert_eq!(expected.shape, found.shape, "{name} {role:?}");
            for (i, (a, b)) in expected.to_f32().iter().zip(found.to_f32()).enumerate() {
                // half a step of a group that spans at most 2, and some for the step that makes zero exact
                assert!((a - b).abs() < 0.012, "{name} {role:?}: value {i} is {b}, expected {a}");
            }
        }
    }
}
