//! The limits of llama.cpp that a model can exceed although our loader accepts it. llama.cpp checks them with
//! assertions, which would end the process. Source: `src/llama-model.cpp`, `src/llama-hparams.h` and
//! `ggml/src/ggml-impl.h` of the release in `Cargo.toml`.

use super::{llama_cpp_architectures, llama_cpp_vocabulary};
use zonda_engine::load::{Metadata, Model, ModelSpec, TensorInfo, Value};
#[cfg(any(feature = "llama-cpp", test))]
use {super::configure::unsupported, zonda_engine::forward::BackendError};

/// `LLAMA_MAX_LAYERS`
const MAX_LAYERS: usize = 512;
/// `LLAMA_MAX_EXPERTS`
const MAX_EXPERTS: u64 = 1024;
/// `TENSOR_ALIGNMENT`, in bytes: tensors are read directly from the mapped file.
const ALIGNMENT: u64 = 32;
/// `LLAMA_ROPE_SCALING_TYPES`
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];

/// Refuses a model before llama.cpp sees it.
///
/// # Errors
/// [`BackendError::Unsupported`] with the first field that exceeds a limit.
#[cfg(any(feature = "llama-cpp", test))]
pub(super) fn check(model: &Model) -> Result<(), BackendError> {
    match obstacle(&model.metadata, &model.spec).or_else(|| llama_cpp_vocabulary::obstacle(&model.metadata)) {
        Some(why) => Err(unsupported(format!("llama.cpp can't run {}: {why}", model.path.display()))),
        None => Ok(()),
    }
}

/// Why llama.cpp can't run a GGUF model, as far as its header tells; `None`: nothing is known to be in the way.
pub(super) fn why_not(model: &Model) -> Option<String> {
    let architecture = model.metadata.str("general.architecture").unwrap_or_default();
    if !llama_cpp_architectures::GENERATE.contains(&architecture) {
        return Some(not_generating(architecture).unwrap_or_else(|| {
            format!("this release of llama.cpp does not have the architecture {architecture:?}")
        }));
    }
    let unknown = |stored: &TensorInfo| stored.bytes.is_none();
    if let Some(stored) = model.tensors().into_iter().find(unknown) {
        return Some(format!("tensor {} has type {}, which it does not have", stored.name, stored.dtype));
    }
    obstacle(&model.metadata, &model.spec).or_else(|| llama_cpp_vocabulary::obstacle(&model.metadata))
}

fn not_generating(architecture: &str) -> Option<String> {
    llama_cpp_architectures::OTHERS
        .contains(&architecture)
        .then(|| format!("models of the architecture {architecture:?} do not continue a text token by token"))
}

fn obstacle(metadata: &Metadata, spec: &ModelSpec) -> Option<String> {
    let alignment = metadata.u64("general.alignment").unwrap_or(ALIGNMENT);
    if !alignment.is_multiple_of(ALIGNMENT) {
        return Some(format!("general.alignment is {alignment}; expected a multiple of {ALIGNMENT}"));
    }
    if spec.layers > MAX_LAYERS {
        return Some(format!("it has {} layers; expected at most {MAX_LAYERS}", spec.layers));
    }
    let architecture = metadata.str("general.architecture").unwrap_or_default();
    if let Some(why) = not_generating(architecture) {
        return Some(why);
    }
    let scaling = metadata.str(&format!("{architecture}.rope.scaling.type"));
    if let Some(found) = scaling.filter(|found| !ROPE_SCALINGS.contains(found)) {
        let expected = ROPE_SCALINGS.join(", ");
        return Some(format!("{architecture}.rope.scaling.type is {found:?}; expected one of {expected}"));
    }
    let count = |key: &str| most(metadata.get(&format!("{architecture}.{key}")));
    let more = |key: &str, found: u64, expected: u64| {
        Some(format!("{architecture}.{key} is {found}; expected at most {expected}"))
    };
    let predicted = count("nextn_predict_layers");
    if predicted > spec.layers as u64 {
        return more("nextn_predict_layers", predicted, spec.layers as u64);
    }
    let (used, groups) = (count("expert_used_count"), count("expert_group_count"));
    let experts = count("expert_count");
    if experts == 0 {
        return match (used, groups) {
            (0, 0) => None,
            (0, groups) => more("expert_group_count", groups, 0),
            (used, _) => more("expert_used_count", used, 0),
        }
        .map(|why| format!("{why}, since it has no experts"));
    }
    if experts > MAX_EXPERTS {
        return more("expert_count", experts, MAX_EXPERTS);
    }
    if used == 0 {
        return Some(format!("{architecture}.expert_used_count is 0; expected 1 to {experts}"));
    }
    if used > experts {
        return more("expert_used_count", used, experts);
    }
    if groups >= experts {
        return more("expert_group_count", groups, experts - 1);
    }
    if groups > 1 {
        let used = count("expert_group_used_count");
        if !experts.is_multiple_of(groups) {
            return Some(format!(
                "{architecture}.expert_group_count is {groups}; expected a divisor of {experts}, the number of experts"
            ));
        }
        if used == 0 || used >= groups {
            return Some(format!(
                "{architecture}.expert_group_used_count is {used}; expected 1 to {}",
                groups - 1
            ));
        }
    }
    None
}

/// A number, or the largest number of a list with one per layer; 0 if there is none.
fn most(value: Option<&Value>) -> u64 {
    let whole = |n: i64| n.unsigned_abs();
    match value {
        Some(&Value::U8(n)) => n.into(),
        Some(&Value::U16(n)) => n.into(),
        Some(&Value::U32(n)) => n.into(),
        Some(&Value::U64(n)) => n,
        Some(&Value::I8(n)) => whole(n.into()),
        Some(&Value::I16(n)) => whole(n.into()),
        Some(&Value::I32(n)) => whole(n.into()),
        Some(&Value::I64(n)) => whole(n),
        Some(Value::Ints(list)) => list.iter().map(|&n| whole(n.into())).max().unwrap_or(0),
        // The list contains numbers here; llama.cpp itself refuses a list of lists.
        Some(Value::Array(list)) => {
            list.iter().filter(|v| !matches!(v, Value::Array(_))).map(|v| most(Some(v))).max().unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_testkit::rules::tiny;

    #[test]
    fn what_would_end_the_process_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (arch, key, value, says) in [
            ("tiny-llama", "general.alignment", Value::U32(8), "general.alignment is 8"),
            ("tiny-llama", "general.alignment", Value::U32(1), "multiple of 32"),
            ("tiny-llama", "llama.expert_used_count", Value::U32(2), "since it has no experts"),
            ("tiny-llama", "llama.expert_used_count", Value::Ints(vec![0, 1]), "expert_used_count is 1"),
            ("tiny-llama", "llama.expert_group_count", Value::U32(1), "since it has no experts"),
            (
                "tiny-llama",
                "llama.rope.scaling.type",
                Value::String("su".into()),
                "rope.scaling.type is \"su\"",
            ),
            ("tiny-llama", "general.architecture", Value::String("bert".into()), "do not continue a text"),
            ("tiny-llama", "llama.expert_count", Value::U32(4), "expert_used_count is 0"),
            ("tiny-llama", "tokenizer.ggml.model", Value::String("plamo2".into()), "tokenizer.ggml.model"),
            ("tiny-llama", "llama.nextn_predict_layers", Value::U32(99), "nextn_predict_layers is 99"),
            ("tiny-mixtral", "llama.expert_group_count", Value::U32(4), "expert_group_count is 4"),
            ("tiny-mixtral", "llama.expert_group_count", Value::U32(3), "a divisor of 4"),
            ("tiny-mixtral", "llama.expert_group_count", Value::U32(2), "expert_group_used_count is 0"),
        ] {
            let mut model = tiny(arch, "f32".parse().unwrap(), &dir.path().join(arch));
            check(&model).unwrap();
            model.metadata.0.insert(key.to_owned(), value);
            let error = check(&model).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_number_of_layers_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
        model.spec.layers = MAX_LAYERS;
        check(&model).unwrap();
        model.spec.layers = 1024;
        assert!(check(&model).unwrap_err().to_string().contains("1024 layers; expected at most 512"));
    }
}
