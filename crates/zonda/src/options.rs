//! [`OpenOptions`]: the options for opening a backend.

use crate::error::{Detail, Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use zonda_engine::{EngineConfig, Speculate};
use zonda_kernels::attention::KvType;

/// The options for opening a backend. An option that a backend does not have is refused, never ignored.
///
/// Messages about options write them as the command line does: `--gpu-layers` is [`OpenOptions::gpu_layers`].
///
/// ```
/// let options = zonda::OpenOptions { threads: Some(4), ctx: Some(2048), ..Default::default() };
/// assert_eq!(serde_json::to_string(&options)?, r#"{"threads":4,"ctx":2048}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenOptions {
    /// The device to compute on.
    #[serde(skip_serializing_if = "is_default")]
    pub device: Device,
    /// Layers on the GPU, counting the output head as one; `None`: all. Only llama.cpp supports it.
    #[serde(skip_serializing_if = "is_default")]
    pub gpu_layers: Option<usize>,
    /// Threads; `None`: one per physical core.
    #[serde(skip_serializing_if = "is_default")]
    pub threads: Option<usize>,
    /// Context length in tokens; `None`: the model's, at most 4096.
    #[serde(skip_serializing_if = "is_default")]
    pub ctx: Option<usize>,
    /// Instruction set of the native backend, one of [`ISAS`](crate::ISAS); `None`: the best of this processor.
    #[serde(skip_serializing_if = "is_default")]
    pub isa: Option<String>,
    /// Quantises a SafeTensors model's matrices when it is loaded.
    #[serde(skip_serializing_if = "is_default")]
    pub quantize: Option<Quantization>,
    /// Type of the KV cache; `None`: f16.
    #[serde(skip_serializing_if = "is_default", with = "kv_type")]
    pub kv_type: Option<KvType>,
    /// Loads a model even if it does not seem to fit into the available memory.
    #[serde(skip_serializing_if = "is_default")]
    pub no_memory_check: bool,
    /// Copies all weights into memory instead of leaving some in the mapped file.
    #[serde(skip_serializing_if = "is_default")]
    pub no_mmap: bool,
    /// The seed of the mock's text.
    #[serde(skip_serializing_if = "is_default")]
    pub seed: Option<u64>,
    /// Milliseconds that the mock takes for a decode step.
    #[serde(skip_serializing_if = "is_default")]
    pub mock_step: Option<u64>,
    /// Faults of the mock, such as `error:100,nan:101`: each step that computes the token fails in this way. The kinds are `error`,
    /// `panic`, `nan` and `slow` (50 ms).
    #[serde(skip_serializing_if = "is_default")]
    pub mock_faults: Option<String>,
    /// Sequences that run at once; `None`: the backend's default.
    #[serde(skip_serializing_if = "is_default")]
    pub parallel: Option<usize>,
    /// Number of full contexts that the KV cache has room for; `None`: one per sequence.
    #[serde(skip_serializing_if = "is_default")]
    pub kv_contexts: Option<usize>,
    /// Where the drafts of speculative decoding come from.
    #[serde(skip_serializing_if = "is_default")]
    pub speculate: Speculate,
    /// The draft model's file or folder; `mock`: the mock.
    #[serde(skip_serializing_if = "is_default")]
    pub draft: Option<PathBuf>,
    /// Maximum tokens of a draft; `None`: the engine's default.
    #[serde(skip_serializing_if = "is_default")]
    pub draft_max: Option<usize>,
    /// Minimum tokens of a draft, even if they don't save time; `None`: 0.
    #[serde(skip_serializing_if = "is_default")]
    pub draft_min: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl OpenOptions {
    /// The options that differ from the default, as names and text: the form in benchmark records.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        crate::text_map::to_map(self)
    }

    /// The inverse of [`OpenOptions::to_map`].
    ///
    /// # Errors
    /// If an option's name is unknown or its value is not of its type.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<OpenOptions> {
        crate::text_map::from_map(map).map_err(|why| Error::Options(Detail::new(format!("options: {why}"))))
    }

    /// Applies these options' speculation to an engine's configuration.
    pub(crate) fn configure(&self, config: EngineConfig) -> EngineConfig {
        EngineConfig {
            speculate: self.speculate,
            draft_max: self.draft_max.unwrap_or(config.draft_max),
            draft_min: self.draft_min.unwrap_or(config.draft_min),
            ..config
        }
    }
}

/// The device to compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU if the backend has one.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

impl Device {
    /// All of them.
    pub const ALL: [Device; 3] = [Device::Auto, Device::Cpu, Device::Gpu];

    /// The name in options and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
        }
    }
}

/// The type to which a SafeTensors model's matrices are quantised when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// GGUF's Q8_0, 8.5 bits per weight.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// GGUF's Q4_0, 4.5 bits per weight.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// llama.cpp's mix Q4_K_M, about 4.85 bits per weight.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// MLX's 8 bits in groups of 64, 8.5 bits per weight.
    Q8,
    /// MLX's 4 bits in groups of 64, 4.5 bits per weight.
    Q4,
}

impl Quantization {
    /// All of them.
    pub const ALL: [Quantization; 5] =
        [Quantization::Q8_0, Quantization::Q4_0, Quantization::Q4KM, Quantization::Q8, Quantization::Q4];
    /// The types that the backends of this build support: the last two are MLX's.
    pub const AVAILABLE: &[Quantization] =
        Quantization::ALL.split_at(if cfg!(feature = "mlx") { 5 } else { 3 }).0;

    /// The name in options and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quantization::Q8_0 => "q8_0",
            Quantization::Q4_0 => "q4_0",
            Quantization::Q4KM => "q4_k_m",
            Quantization::Q8 => "q8",
            Quantization::Q4 => "q4",
        }
    }

    /// Bits per weight, scales included.
    pub fn bits(self) -> f64 {
        match self {
            Quantization::Q8_0 | Quantization::Q8 => 8.5,
            Quantization::Q4_0 | Quantization::Q4 => 4.5,
            Quantization::Q4KM => 4.85,
        }
    }
}

/// Display and parsing by `name`.
macro_rules! named {
    ($type:ty, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type> {
                <$type>::ALL.into_iter().find(|value| value.name() == text).ok_or_else(|| {
                    let names = <$type>::ALL.map(|value| value.name()).join(", ");
                    Error::Options(Detail::new(format!(
                        concat!($what, ": expected one of {}, found {:?}"),
                        names, text
                    )))
                })
            }
        }
    };
}

named!(Device, "device");
named!(Quantization, "quantize");

/// A KV cache type by its name.
mod kv_type {
    use super::{Deserialize, Deserializer, KvType, Serialize, Serializer};
    use serde::de::Error as _;

    #[allow(clippy::ref_option)] // serde calls it with a reference to the field
    pub fn serialize<S: Serializer>(kv: &Option<KvType>, serializer: S) -> Result<S::Ok, S::Error> {
        kv.map(KvType::name).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KvType>, D::Error> {
        let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let known = KvType::named(&name).map(Some);
        known.ok_or_else(|| {
            D::Error::custom(format!("kv_type: expected f16, q8_0, q4_0 or f32, found {name:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_a_child_process_as_they_are() {
        let options = OpenOptions {
            device: Device::Cpu,
            gpu_layers: Some(12),
            threads: Some(2),
            ctx: Some(512),
            isa: Some("scalar".into()),
            quantize: Some(Quantization::Q8_0),
            kv_type: Some(KvType::F32),
            no_memory_check: true,
            seed: Some(u64::MAX),
            no_mmap: true,
            mock_step: Some(3),
            mock_faults: Some("panic:7".into()),
            parallel: Some(4),
            kv_contexts: Some(2),
            speculate: Speculate::Draft,
            draft: Some("/models/small.gguf".into()),
            draft_max: Some(8),
            draft_min: Some(1),
        };
        let map = options.to_map();
        let shown: Vec<_> = map.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown.join(" "),
            "ctx=512 device=cpu draft=/models/small.gguf draft_max=8 draft_min=1 gpu_layers=12 isa=scalar kv_contexts=2 \
             kv_type=f32 mock_faults=panic:7 mock_step=3 no_memory_check=true no_mmap=true parallel=4 quantize=q8_0 seed=18446744073709551615 \
             speculate=draft threads=2"
        );
        assert_eq!(OpenOptions::from_map(&map).unwrap(), options);
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<OpenOptions>(&json).unwrap(), options);
        assert_eq!(OpenOptions::default().to_map(), BTreeMap::new());
        for (name, value) in
            [("threads", "two"), ("device", "tpu"), ("speed", "max"), ("speculate", "always")]
        {
            let error = OpenOptions::from_map(&BTreeMap::from([(name.into(), value.into())])).unwrap_err();
            assert!(error.to_string().contains(name) || error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn names_are_parsed_as_they_are_written() {
        for quantization in Quantization::ALL {
            assert_eq!(quantization.to_string().parse::<Quantization>().unwrap(), quantization);
            assert_eq!(serde_json::to_value(quantization).unwrap(), quantization.name());
        }
        for device in Device::ALL {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert!("q5".parse::<Quantization>().unwrap_err().to_string().contains("q4_k_m"));
    }
}
