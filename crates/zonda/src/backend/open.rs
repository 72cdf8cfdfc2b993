//! The one place that names backends: which there are, which are in this build, and how each is opened.

use crate::args::Device;
use crate::error::{Advice as _, advised};
use crate::store::Located;
use anyhow::Context as _;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zonda_engine::forward::mock::Mock;
use zonda_engine::forward::{Backend, BackendError};
use zonda_engine::load::Model;
use zonda_engine::make::Importance;
use zonda_engine::prompt_cache::Place;
use zonda_engine::tokenize::{ChatTemplate, Tokenizer};
use zonda_engine::{Engine, EngineConfig, Extras, Parallel, PromptCacheConfig, Text, TokenId};
use zonda_kernels::Isa;
#[cfg(feature = "llama-cpp")]
use zonda_llama_cpp::LlamaCpp;
#[cfg(feature = "mlx")]
use zonda_mlx::Mlx;
use zonda_native::Native;

mod configure;
mod plan;
mod speculation;
mod status;

#[cfg(feature = "llama-cpp")]
use configure::llama_cpp_options;
#[cfg(feature = "mlx")]
use configure::mlx_options;
use configure::{mock_options, native_options, refuse, unsupported};
pub use plan::per_token;
pub use speculation::Speculation;
pub use status::{DeviceStatus, Status};

/// The instruction sets that `--isa` takes.
pub const ISAS: [&str; 4] = Isa::NAMES;
/// What `--quantize` takes.
#[cfg(not(feature = "mlx"))]
pub const QUANTIZATIONS: [&str; 3] = ["q8_0", "q4_0", "q4_k_m"];
/// What `--quantize` takes; q8 and q4 are MLX's.
#[cfg(feature = "mlx")]
pub const QUANTIZATIONS: [&str; 5] = ["q8_0", "q4_0", "q4_k_m", "q8", "q4"];
/// What `--kv-type` takes.
pub const KV_TYPES: [&str; 4] = ["f16", "q8_0", "q4_0", "f32"];

/// A backend's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Pure Rust, on the processor.
    Native,
    /// llama.cpp.
    LlamaCpp,
    /// Apple's MLX.
    Mlx,
    /// Deterministic text without a model.
    Mock,
}

impl BackendKind {
    /// Those in this build, best first.
    pub const AVAILABLE: &[BackendKind] = &[
        BackendKind::Native,
        #[cfg(feature = "llama-cpp")]
        BackendKind::LlamaCpp,
        #[cfg(feature = "mlx")]
        BackendKind::Mlx,
        BackendKind::Mock,
    ];

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Native => "native",
            BackendKind::LlamaCpp => "llama-cpp",
            BackendKind::Mlx => "mlx",
            BackendKind::Mock => "mock",
        }
    }

    /// The backend with this name.
    pub fn named(name: &str) -> Option<BackendKind> {
        Self::value_variants().iter().copied().find(|k| k.name() == name)
    }

    /// Refuses a backend that is not in this build.
    ///
    /// # Errors
    /// Says which are.
    pub fn check_available(self) -> anyhow::Result<()> {
        if Self::AVAILABLE.contains(&self) {
            return Ok(());
        }
        let available: Vec<_> = Self::AVAILABLE.iter().map(|k| k.name()).collect();
        let mut advice = format!("this build has: {}", available.join(", "));
        if let Some(how) = self.how_to_build() {
            advice = format!("{advice}; {how}");
        }
        Err(advised(format!("the backend {} is not compiled into this program", self.name()), advice))
    }

    fn how_to_build(self) -> Option<String> {
        matches!(self, BackendKind::LlamaCpp | BackendKind::Mlx).then(|| {
            let name = self.name();
            let build = format!("`cargo build --release --features {name}` makes one with {name}");
            format!("`scripts/setup.sh {name}` and {build}")
        })
    }

    /// Whether a token's logits are the same bits whatever else is in the batch.
    pub fn batch_invariant(self) -> bool {
        matches!(self, BackendKind::Native | BackendKind::Mock)
    }

    /// Whether the backend reads a model's format at all.
    pub fn reads(self, model: &Located) -> bool {
        match (self, &model.path) {
            (BackendKind::Mock, path) => path.is_none(),
            (_, None) => false,
            (BackendKind::LlamaCpp, Some(path)) => !path.is_dir(),
            (_, Some(_)) => true,
        }
    }
}

/// How a backend is opened: the common flags, as text where only one backend knows what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// What to compute on.
    pub device: Device,
    /// Layers on the GPU; `None`: all.
    pub gpu_layers: Option<usize>,
    /// Threads; `None`: one per physical core.
    pub threads: Option<usize>,
    /// Context length in tokens; `None`: the backend's default for the model.
    pub ctx: Option<usize>,
    /// One of [`ISAS`].
    pub isa: Option<String>,
    /// One of [`QUANTIZATIONS`].
    pub quantize: Option<String>,
    /// One of [`KV_TYPES`].
    pub kv_type: Option<String>,
    /// Load what doesn't seem to fit into memory too.
    pub no_memory_check: bool,
    /// The mock's text.
    pub seed: Option<u64>,
    /// Milliseconds that the mock takes for a decode step.
    pub mock_step: Option<u64>,
    /// Sequences that run at once; `None`: the backend's default.
    pub parallel: Option<usize>,
    /// How many whole contexts the KV room holds; `None`: one for each sequence.
    pub kv_contexts: Option<usize>,
    /// Where drafts come from.
    pub speculation: Speculation,
}

/// How requests share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Sequences that run at once; `None`: measured.
    pub parallel: Option<usize>,
    /// Requests that wait beyond those.
    pub queue: usize,
    /// Most prefill tokens in a step in which other sequences decode.
    pub prefill_chunk: usize,
    /// A seeded request's tokens may depend on nothing that runs beside it.
    pub deterministic: bool,
}

impl OpenOptions {
    /// What was given, as names and text: for a record, and for a child process.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let number = |n: Option<usize>| n.map(|n| n.to_string());
        let device = (self.device != Device::Auto).then(|| self.device.name().to_owned());
        let given = [
            ("device", device),
            ("gpu_layers", number(self.gpu_layers)),
            ("threads", number(self.threads)),
            ("ctx", number(self.ctx)),
            ("isa", self.isa.clone()),
            ("quantize", self.quantize.clone()),
            ("kv_type", self.kv_type.clone()),
            ("no_memory_check", self.no_memory_check.then(|| "true".to_owned())),
            ("seed", self.seed.map(|s| s.to_string())),
            ("mock_step", self.mock_step.map(|s| s.to_string())),
            ("parallel", number(self.parallel)),
            ("kv_contexts", number(self.kv_contexts)),
        ];
        given
            .into_iter()
            .chain(self.speculation.to_map())
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }

    /// The inverse of [`OpenOptions::to_map`].
    ///
    /// # Errors
    /// If there is an option in it that we don't know, or a value that is none.
    pub fn from_map(map: &BTreeMap<String, String>) -> anyhow::Result<OpenOptions> {
        let mut options = OpenOptions::default();
        for (name, value) in map {
            let text = || Some(value.clone());
            let bad = || format!("option {name} is {value:?}");
            match name.as_str() {
                "device" => {
                    options.device =
                        Device::from_str(value, false).map_err(anyhow::Error::msg).with_context(bad)?;
                }
                "gpu_layers" => options.gpu_layers = Some(value.parse().with_context(bad)?),
                "threads" => options.threads = Some(value.parse().with_context(bad)?),
                "ctx" => options.ctx = Some(value.parse().with_context(bad)?),
                "isa" => options.isa = text(),
                "quantize" => options.quantize = text(),
                "kv_type" => options.kv_type = text(),
                "no_memory_check" => options.no_memory_check = value.parse().with_context(bad)?,
                "seed" => options.seed = Some(value.parse().with_context(bad)?),
                "mock_step" => options.mock_step = Some(value.parse().with_context(bad)?),
                "kv_contexts" => options.kv_contexts = Some(value.parse().with_context(bad)?),
                "parallel" => options.parallel = Some(value.parse().with_context(bad)?),
                _ if options.speculation.take(name, value)? => {}
                _ => anyhow::bail!("unknown option {name}"),
            }
        }
        Ok(options)
    }
}

/// The backend for a model: the one that was asked for, else the best one that can load it.
///
/// # Errors
/// If the one that was asked for is not in this build, or is not for this model.
pub fn choose(asked: Option<BackendKind>, model: &Located) -> anyhow::Result<BackendKind> {
    let Some(kind) = asked else {
        return Ok(if model.path.is_none() { BackendKind::Mock } else { BackendKind::Native });
    };
    kind.check_available()?;
    match (kind, &model.path) {
        (BackendKind::Mock, Some(_)) => Err(advised(
            format!("the mock backend has a model of its own and does not run {}", model.name),
            "use -m mock with it, or another backend",
        )),
        (BackendKind::Mock, None) | (_, Some(_)) => Ok(kind),
        (_, None) => Err(advised(
            format!("the model mock runs on the mock backend only, not on {}", kind.name()),
            "leave --backend out, or name a real model",
        )),
    }
}

/// Opens a model's files. `None` for the mock.
///
/// # Errors
/// As [`Model::open`].
pub fn open_model(model: &Located) -> anyhow::Result<Option<Arc<Model>>> {
    let open = |path: &Path| Model::open(path).advise("`zonda inspect` shows what a file holds");
    Ok(model.path.as_deref().map(open).transpose()?.map(Arc::new))
}

/// The model's tokenizer and chat template; `None` for a model that comes without a tokenizer.
///
/// # Errors
/// If there is one and it can't be read.
pub fn text_of(model: Option<&Model>) -> anyhow::Result<Option<Text>> {
    let Some(model) = model else { return Ok(Some(Text::mock())) };
    let Some(tokenizer) = Tokenizer::for_model(model)? else { return Ok(None) };
    let template = ChatTemplate::for_model(model, &tokenizer)?.map(Arc::new);
    Ok(Some(Text { tokenizer: Arc::new(tokenizer), template }))
}

/// Opens a backend on the calling thread. `model` is `None` for the mock.
///
/// # Errors
/// What the backend says, or an option that it does not have.
pub fn open(
    kind: BackendKind,
    model: Option<&Arc<Model>>,
    options: &OpenOptions,
) -> Result<Box<dyn Backend>, BackendError> {
    if options.device == Device::Gpu && !matches!(kind, BackendKind::LlamaCpp | BackendKind::Mlx) {
        let name = kind.name();
        return Err(unsupported(format!("the {name} backend computes on the processor, not on a GPU")));
    }
    if kind != BackendKind::LlamaCpp {
        refuse(kind, &[("--gpu-layers", options.gpu_layers.is_some())])?;
    }
    if let Some(model) = model {
        plan::check(kind, model, options)?;
    }
    match (kind, model) {
        (BackendKind::Native, Some(model)) => {
            Ok(Box::new(Native::open(model, &native_options(options, model)?)?))
        }
        #[cfg(feature = "llama-cpp")]
        (BackendKind::LlamaCpp, Some(model)) => {
            Ok(Box::new(LlamaCpp::open(model, &llama_cpp_options(options, model)?)?))
        }
        #[cfg(feature = "mlx")]
        (BackendKind::Mlx, Some(model)) => Ok(Box::new(Mlx::open(model, &mlx_options(options, model)?)?)),
        (BackendKind::Mock, _) => Ok(Box::new(Mock::new(mock_options(options)?))),
        (kind, _) => Err(unsupported(format!("the backend {} can't open this model", kind.name()))),
    }
}

/// Hands the exact logits of a model's weights to `look`: of every position of every sequence, in order.
///
/// # Errors
/// What the native backend says, which computes them, and what `look` says.
pub fn exact(
    model: &Model,
    threads: Option<usize>,
    sequences: &[Vec<TokenId>],
    look: &mut dyn FnMut(&[f32]) -> Result<(), String>,
) -> Result<(), String> {
    let mut refused = None;
    let walked = Native::exact(model, threads, sequences, &mut |row| {
        look(row).map_err(|why| {
            refused = Some(why);
            BackendError::Failed("refused".to_owned())
        })
    });
    walked.map_err(|error| refused.unwrap_or_else(|| error.to_string()))
}

/// How much the columns of a model's matrices matter on a text, cut into sequences; `progress` is told how many of how many
/// steps are done.
///
/// # Errors
/// What the native backend says, which computes it.
pub fn calibrate(
    model: &Model,
    threads: Option<usize>,
    sequences: &[Vec<TokenId>],
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Importance> {
    Ok(Native::calibrate(model, threads, sequences, progress)?)
}

/// Starts an engine on a backend. `text` may be `None`: prompts are token ids then.
///
/// # Errors
/// What the backend says.
pub fn start(
    kind: BackendKind,
    model: Option<Arc<Model>>,
    text: Option<Text>,
    options: &OpenOptions,
    prompts: Option<Place>,
) -> anyhow::Result<Engine> {
    let (draft, config) =
        (options.draft_model(kind)?, options.speculation.configure(EngineConfig::default()));
    let options = options.clone();
    let prompts = prompts.map(|place| prompt_cache(place, model.as_deref(), &options));
    let open = move || open(kind, model.as_ref(), &options);
    Ok(Engine::start_with(open, text, config, Extras { draft, prompts })?)
}

/// Prompts on disk belong to a model's weights; the mock's to its seed.
fn prompt_cache(place: Place, model: Option<&Model>, options: &OpenOptions) -> PromptCacheConfig {
    let mock = || format!("mock {}", options.seed.unwrap_or(0));
    PromptCacheConfig { place, model: model.map_or_else(mock, Model::fingerprint) }
}

/// Most sequences that run at once unless told.
const MOST_PARALLEL: usize = 16;
/// Whole contexts that their KV room holds.
const MEASURED_CONTEXTS: usize = 4;

/// Starts an engine that many requests share.
///
/// # Errors
/// What the backend says.
pub fn start_shared(
    kind: BackendKind,
    model: Option<Arc<Model>>,
    text: Option<Text>,
    options: &OpenOptions,
    sharing: Sharing,
    prompts: Option<Place>,
) -> anyhow::Result<Engine> {
    let prompts = prompts.map(|place| prompt_cache(place, model.as_deref(), options));
    let alone = sharing.deterministic && !kind.batch_invariant();
    let fixed = if alone { Some(1) } else { sharing.parallel };
    let options = OpenOptions {
        parallel: Some(fixed.unwrap_or(MOST_PARALLEL)),
        // Few conversations fill their context: so many share the room of some.
        kv_contexts: fixed.is_none().then_some(MEASURED_CONTEXTS),
        ..options.clone()
    };
    let config = EngineConfig {
        prefill_chunk: sharing.prefill_chunk,
        parallel: fixed.map_or(Parallel::Measured(MOST_PARALLEL), Parallel::AtMost),
        max_waiting: sharing.queue,
        prefix_cache: !alone,
        ..EngineConfig::default()
    };
    let (draft, config) = (options.draft_model(kind)?, options.speculation.configure(config));
    let open = move || open(kind, model.as_ref(), &options);
    Ok(Engine::start_with(open, text, config, Extras { draft, prompts })?)
}

#[cfg(test)]
#[path = "backends_tests.rs"]
mod tests;
