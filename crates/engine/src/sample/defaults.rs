//! [`SamplingDefaults`]: the sampling parameters that a model's files recommend.

use super::params::SamplingParams;
use crate::load::{Format, Metadata, Model, Value as Gguf};
use serde::Serialize;
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;

/// Longest `generation_config.json` that is read, in bytes. Published ones have some hundred.
const LONGEST: u64 = 1 << 20;

/// Sampling parameters that a model's files recommend; `None`: they say nothing. Values that are out of range or not numbers
/// count as nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SamplingDefaults {
    /// [`SamplingParams::temperature`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// [`SamplingParams::top_k`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// [`SamplingParams::top_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// [`SamplingParams::min_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// [`SamplingParams::typical_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// [`SamplingParams::repeat_penalty`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// [`SamplingParams::repeat_last_n`]; -1: all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_last_n: Option<i64>,
}

impl SamplingDefaults {
    /// What an opened model recommends: in its GGUF metadata, or in the `generation_config.json` of its folder.
    pub fn of_model(model: &Model) -> SamplingDefaults {
        match (model.format, model.folder()) {
            (Format::Gguf, _) => SamplingDefaults::of_gguf(&model.metadata),
            (_, Some(folder)) => SamplingDefaults::of_folder(folder),
            (_, None) => SamplingDefaults::default(),
        }
    }

    /// From a GGUF file's metadata (`general.sampling.*`, as llama.cpp reads them).
    pub fn of_gguf(metadata: &Metadata) -> SamplingDefaults {
        let key = |name: &str| format!("general.sampling.{name}");
        let count = |name: &str| metadata.get(&key(name)).and_then(Gguf::as_i64);
        let number = |name: &str| metadata.f32(&key(name)).or_else(|| count(name).map(|n| n as f32));
        SamplingDefaults {
            temperature: number("temp"),
            // At most 0 is all.
            top_k: count("top_k").map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: number("top_p"),
            min_p: number("min_p"),
            typical_p: None,
            repeat_penalty: number("penalty_repeat"),
            repeat_last_n: count("penalty_last_n"),
        }
        .in_range()
    }

    /// From a folder's `generation_config.json` (Hugging Face); nothing if there is none or it is not JSON. As in vLLM,
    /// `do_sample` changes nothing. Its penalty applies to all tokens.
    pub fn of_folder(folder: &Path) -> SamplingDefaults {
        let Ok(file) = crate::files::open_regular(&folder.join("generation_config.json")) else {
            return SamplingDefaults::default();
        };
        let mut bytes = Vec::new();
        let read = file.take(LONGEST).read_to_end(&mut bytes);
        let config: Value = match read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()) {
            Some(config) => config,
            None => return SamplingDefaults::default(),
        };
        let number = |name: &str| config[name].as_f64().map(|value| value as f32);
        let repeat_penalty = number("repetition_penalty").filter(|&penalty| penalty != 1.0);
        SamplingDefaults {
            temperature: number("temperature"),
            top_k: config["top_k"].as_i64().map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: number("top_p"),
            min_p: number("min_p"),
            typical_p: number("typical_p"),
            repeat_penalty,
            repeat_last_n: repeat_penalty.map(|_| -1),
        }
        .in_range()
    }

    /// Whether the files recommend nothing.
    pub fn is_empty(&self) -> bool {
        *self == SamplingDefaults::default()
    }

    /// [`SamplingParams::default`] with what the files recommend.
    pub fn params(&self) -> SamplingParams {
        let plain = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_k: self.top_k.unwrap_or(plain.top_k),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            typical_p: self.typical_p.unwrap_or(plain.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(plain.repeat_penalty),
            repeat_last_n: match self.repeat_last_n {
                None => plain.repeat_last_n,
                Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            },
            ..plain
        }
    }

    /// Without the values that no request could have.
    fn in_range(self) -> SamplingDefaults {
        let within = |value: Option<f32>, low: f32, high: f32| value.filter(|v| (low..=high).contains(v));
        SamplingDefaults {
            temperature: within(self.temperature, 0.0, 100.0),
            top_p: within(self.top_p, 0.0, 1.0),
            min_p: within(self.min_p, 0.0, 1.0),
            typical_p: within(self.typical_p, 0.0, 1.0),
            repeat_penalty: within(self.repeat_penalty, 0.01, 100.0),
            repeat_last_n: self.repeat_last_n.filter(|&n| n >= -1),
            top_k: self.top_k,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_keys_are_llama_cpps() {
        let entries = [
            ("temp", Gguf::F32(0.15)),
            ("top_k", Gguf::I32(-1)),
            ("top_p", Gguf::F32(7.0)),
            ("min_p", Gguf::F32(0.01)),
            ("penalty_repeat", Gguf::F32(1.05)),
            ("penalty_last_n", Gguf::I32(-1)),
        ];
        let entries = entries.map(|(name, value)| (format!("general.sampling.{name}"), value));
        let defaults = SamplingDefaults::of_gguf(&Metadata(entries.into_iter().collect()));
        assert_eq!(defaults.top_p, None, "out of range");
        let other = [("top_k", Gguf::I8(-1)), ("penalty_last_n", Gguf::I16(-1)), ("min_p", Gguf::U8(1))];
        let other = other.map(|(name, value)| (format!("general.sampling.{name}"), value));
        let other = SamplingDefaults::of_gguf(&Metadata(other.into_iter().collect()));
        assert_eq!((other.top_k, other.repeat_last_n, other.min_p), (Some(0), Some(-1), Some(1.0)));
        let params = defaults.params();
        assert_eq!((params.temperature, params.top_k, params.min_p), (0.15, 0, 0.01));
        assert_eq!((params.repeat_penalty, params.repeat_last_n), (1.05, usize::MAX));
        assert_eq!(params.top_p, SamplingParams::default().top_p);
        assert!(params.validate(10).is_ok());
    }

    #[test]
    fn generation_configs_are_read_as_vllm_does() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
            SamplingDefaults::of_folder(folder.path())
        };
        let found = read(
            r#"{"do_sample": false, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}"#,
        );
        let params = found.params();
        assert_eq!((params.temperature, params.top_k, params.top_p), (0.7, 20, 0.8));
        assert_eq!((params.repeat_penalty, params.repeat_last_n), (1.05, usize::MAX));
        assert_eq!(params.min_p, SamplingParams::default().min_p);
        let nothing = r#"{"temperature": null, "top_k": "many", "top_p": -1, "repetition_penalty": 1.0}"#;
        for text in [nothing, "[]", "no json", ""] {
            assert!(read(text).is_empty(), "{text}");
        }
        std::fs::remove_file(folder.path().join("generation_config.json")).unwrap();
        assert_eq!(SamplingDefaults::of_folder(folder.path()).params(), SamplingParams::default());
    }
}
