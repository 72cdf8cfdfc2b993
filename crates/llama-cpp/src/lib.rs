//! The llama.cpp backend: runs GGUF files on the CPU and, in builds with `cuda`, `metal`, `vulkan` or `rocm`, on GPUs.
//!
//! * [`options`]: the options for opening a model;
//! * `safe` owns llama.cpp's model, context and threads, and is the only file that calls it;
//! * `batch`: a batch in the arrays that it takes;
//! * `log` forwards its log to `tracing`, and its error messages into our errors;
//! * [`system`]: its version, instruction sets and devices;
//! * `vocabulary`: its tokenizers, for models of kinds that the engine lacks;
//! * this file implements the [`Backend`] trait: slots are sequences, a batch of spans is one `llama_decode`.
//!
//! The engine does the sampling and scheduling, and the tokenising of most models. Unlike in the native backend, the last bits of a token's logits may
//! depend on the rest of the batch: llama.cpp chooses kernels by the number of tokens.

mod batch;
mod log;
pub mod options;
mod safe;
pub mod system;
mod vocabulary;

pub use options::{Device, KvType, LlamaCppOptions};
pub use system::{DeviceInfo, devices, instruction_sets, no_gpu, version};
pub use vocabulary::tokenizer;

use batch::Tokens;
use safe::{Context, ContextOptions, DecodeError, LoadOptions, Memory, Weights};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, BatchError, Limits, Logits, Slot};
use zonda_engine::load::{Architecture, Format, GroupScore, Model, ModelSpec, RopeScaling};

/// A model opened by llama.cpp.
#[derive(Debug)]
pub struct LlamaCpp {
    spec: ModelSpec,
    limits: Limits,
    info: BackendInfo,
    context: Context,
    tokens: Tokens,
    /// Tokens in each slot, `[slots]`
    lengths: Vec<usize>,
    /// The header of exports
    layout: String,
    /// A sequence's memory is one state, which can't be shortened: see [`Memory::State`].
    one_state: bool,
}

impl LlamaCpp {
    /// Loads a GGUF model. `model` is the same file opened by our loader; a model that llama.cpp would compute differently from its
    /// spec is refused. A model that our loader opens only with [`Model::open_any`] runs as llama.cpp computes it. The calling thread becomes one of the workers (pinned according to [`LlamaCppOptions::cpus`]), so call
    /// this on the thread that will run the model.
    ///
    /// # Errors
    /// If the model is not GGUF, llama.cpp can't load it or reads it differently, a GPU was requested and there is none, or the
    /// memory is too small.
    pub fn open(model: &Model, options: &LlamaCppOptions) -> Result<LlamaCpp, BackendError> {
        if model.format != Format::Gguf {
            return Err(BackendError::Unsupported(format!(
                "llama.cpp reads GGUF files, and {} is a {} folder; `zonda convert` converts it to GGUF",
                model.path.display(),
                model.format
            )));
        }
        let spec = model.spec.clone();
        let limits = options.limits(&spec, safe::library().max_slots)?;
        let (device, gpu_layers) = choose_device(options.device, &spec)?;

        let files: Vec<_> = model.files().collect();
        let load = LoadOptions {
            gpu_layers,
            mmap: options.mmap,
            no_tokenizer: no_tokenizer(model),
            only_vocabulary: false,
        };
        let weights = Weights::load(&files, &load).map_err(BackendError::Failed)?;
        agrees_in_vocabulary(&weights, &spec)?;
        if model.unsupported().is_none() {
            // a key that llama.cpp does not read for the families that `agrees` asks about
            let own_scale = model.metadata.0.keys().any(|key| key.ends_with(".attention.scale"));
            agrees(&weights, &spec, &limits, own_scale)?;
        }
        let one_state = has_state(&weights)?;

        let threads = options.threads();
        let context = ContextOptions {
            slots: limits.slots,
            batch_tokens: limits.batch_tokens,
            kv_tokens: limits.kv_tokens,
            kv_type: options.kv_type,
            threads,
            cpus: &options.cpus,
            flash_attention: options.flash_attention,
            yarn_betas: match spec.rope.scaling {
                RopeScaling::Yarn { beta_fast, beta_slow, .. } => Some((beta_fast, beta_slow)),
                _ => None,
            },
        };
        let context = Context::new(weights, &context).map_err(BackendError::Failed)?;
        let info = BackendInfo {
            name: "llama-cpp".to_owned(),
            version: version().to_owned(),
            device,
            isa: instruction_sets(),
            threads,
            weights: model.type_label(),
            kv_type: options.kv_type.name().to_owned(),
        };
        let lengths = vec![0; limits.slots];
        let layout = layout(&spec, &limits, options);
        let tokens = Tokens::default();
        Ok(LlamaCpp { spec, limits, info, context, tokens, lengths, layout, one_state })
    }
}

impl Backend for LlamaCpp {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        batch.check(&self.limits, self.spec.vocab_size, |slot| self.lengths[slot])?;
        self.tokens.clear();
        for span in &batch.spans {
            for (i, &token) in span.tokens.iter().enumerate() {
                self.tokens.push(token, span.start + i, span.slot);
            }
        }
        batch.wanted_rows().for_each(|row| self.tokens.want(row));
        self.context.decode(&mut self.tokens).map_err(|error| match error {
            DecodeError::KvFull => self.kv_full(batch),
            DecodeError::Failed(why) => BackendError::Failed(why),
        })?;
        out.reset(batch.rows(), self.spec.vocab_size);
        out.as_mut_slice().copy_from_slice(self.context.logits().map_err(BackendError::Failed)?);
        for span in &batch.spans {
            self.lengths[span.slot] = span.start + span.tokens.len();
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        let mut keep = len.min(self.lengths[slot]);
        // Also called if our count has nothing to cut, since a failed batch may have left some of its tokens.
        if !self.context.forget(slot, keep) {
            keep = 0;
            self.context.forget(slot, 0);
        }
        self.lengths[slot] = keep;
        Ok(keep)
    }

    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(from)?;
        self.limits.check_empty(to, |to| self.lengths[to])?;
        let len = len.min(self.lengths[from]);
        // Of a state, llama.cpp would share the whole, whatever length is asked for.
        if self.one_state && len < self.lengths[from] {
            return Ok(0);
        }
        if len > 0 {
            self.context.share(from, to, len);
            self.lengths[to] = len;
        }
        Ok(len)
    }

    fn export_kv(&mut self, slot: Slot, len: usize, out: &mut Vec<u8>) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        self.check_export()?;
        let len = len.min(self.lengths[slot]);
        if len > 0 {
            out.extend(self.layout.bytes());
            self.context.export(slot, len, out).map_err(BackendError::Failed)?;
        }
        Ok(len)
    }

    fn import_kv(&mut self, slot: Slot, len: usize, from: &[u8]) -> Result<usize, BackendError> {
        self.limits.check_empty(slot, |slot| self.lengths[slot])?;
        self.check_export()?;
        let state = from.strip_prefix(self.layout.as_bytes()).ok_or_else(|| self.foreign(from))?;
        if len > 0 {
            self.context.import(slot, len, state).map_err(BackendError::Failed)?;
            self.lengths[slot] = len;
        }
        Ok(len)
    }
}

impl LlamaCpp {
    /// Refuses to export a model's state: it could not be cut to the tokens that a later prompt shares.
    fn check_export(&self) -> Result<(), BackendError> {
        match self.one_state {
            false => Ok(()),
            true => Err(BackendError::Unsupported(
                "this model keeps one state instead of keys and values, so its prompts can't be stored on disk"
                    .to_owned(),
            )),
        }
    }

    /// The error if llama.cpp has no room for the batch. Slots that share cells use fewer cells than their lengths, so `free` is a
    /// lower bound.
    fn kv_full(&self, batch: &Batch<'_>) -> BackendError {
        let needed = batch.tokens();
        let free = self.limits.kv_tokens.saturating_sub(self.lengths.iter().sum());
        BatchError::KvFull { needed, free }.into()
    }

    /// The error for keys and values with another header.
    fn foreign(&self, from: &[u8]) -> BackendError {
        let line = from.split(|&b| b == b'\n').next().unwrap_or_default();
        let found = String::from_utf8_lossy(&line[..line.len().min(200)]);
        let expected = self.layout.trim_end();
        BackendError::Failed(format!("keys and values in another layout: {found:?}; expected {expected:?}"))
    }
}

/// The header line of exports. llama.cpp's states contain neither its version nor the model.
fn layout(spec: &ModelSpec, limits: &Limits, options: &LlamaCppOptions) -> String {
    let ModelSpec { layers, kv_heads, head_dim, .. } = spec;
    let (version, kv_type) = (version(), options.kv_type);
    // LongRoPE's factors depend on the context
    let long = match &spec.rope.scaling {
        RopeScaling::Long(long) if long.is_long(limits.context) => ", long RoPE factors",
        _ => "",
    };
    format!("llama.cpp {version}: {layers} layers, {kv_heads} KV heads of {head_dim}, {kv_type}{long}\n")
}

/// The device's name for reports, and the number of layers on it.
fn choose_device(device: Device, spec: &ModelSpec) -> Result<(String, i32), BackendError> {
    let Device::Gpu { layers } = device else { return Ok(("cpu".to_owned(), 0)) };
    if let Some(why) = no_gpu() {
        return Err(BackendError::Unsupported(why));
    }
    let devices = devices();
    let gpus: Vec<_> = devices.iter().filter(|d| d.gpu).map(|d| d.description.trim()).collect();
    let gpus = gpus.join(" + ");
    // The output head counts as the last layer.
    let all = spec.layers + 1;
    match layers {
        Some(0) => Err(BackendError::Unsupported(
            "0 layers on the GPU; expected at least 1, or the CPU as the device".to_owned(),
        )),
        Some(n) if n < all => Ok((format!("{gpus} ({n} of {all} layers)"), n as i32)),
        // In llama.cpp a negative number means all layers.
        _ => Ok((gpus, -1)),
    }
}

/// For a file without a tokenizer: the key under which llama.cpp looks for the vocabulary's size.
fn no_tokenizer(model: &Model) -> Option<(String, usize)> {
    let architecture = model.metadata.str("general.architecture")?;
    let has = model.metadata.get("tokenizer.ggml.model").is_some();
    (!has).then(|| (format!("{architecture}.vocab_size"), model.spec.vocab_size))
}

/// Whether a model keeps a state; refuses models that don't continue a text.
fn has_state(weights: &Weights) -> Result<bool, BackendError> {
    match weights.memory() {
        Memory::KeysAndValues => Ok(false),
        Memory::State => Ok(true),
        Memory::Encoder => Err("an encoder"),
        Memory::Diffusion => Err("a diffusion model"),
    }
    .map_err(|what| {
        BackendError::Unsupported(format!(
            "this is {what}; models that continue a text token by token are run"
        ))
    })
}

/// Refuses a model of whose vocabulary llama.cpp reads another size than our loader.
fn agrees_in_vocabulary(weights: &Weights, spec: &ModelSpec) -> Result<(), BackendError> {
    let vocab = weights.vocab_size();
    if vocab == spec.vocab_size {
        return Ok(());
    }
    Err(BackendError::Unsupported(format!(
        "llama.cpp sees a vocabulary of {vocab} in this file; expected {}",
        spec.vocab_size
    )))
}

/// Refuses a model that llama.cpp reads differently from our loader: comparing the two backends would be meaningless.
fn agrees(
    weights: &Weights,
    spec: &ModelSpec,
    limits: &Limits,
    own_attention_scale: bool,
) -> Result<(), BackendError> {
    // llama.cpp normalises the weights of all families run here but two, or reads whether to
    let normalises = !matches!(spec.architecture, Architecture::Qwen2Moe | Architecture::Llama4);
    let reads = spec.extras.mla.is_some() || spec.architecture == Architecture::Glm4Moe;
    if spec.moe.as_ref().is_some_and(|moe| !reads && moe.router.normalize != normalises) {
        let (this, they) =
            if normalises { ("not normalised", "normalises") } else { ("normalised", "does not normalise") };
        return Err(BackendError::Unsupported(format!(
            "this model's expert weights are {this}, and llama.cpp {they} them; the native backend supports it"
        )));
    }
    let groups = spec.moe.as_ref().and_then(|moe| moe.router.groups);
    if groups.is_some_and(|groups| groups.score == GroupScore::Best) {
        return Err(BackendError::Unsupported(
            "this model ranks groups of experts by their best one, and llama.cpp by their two best; the native backend supports it"
                .to_owned(),
        ));
    }
    let extras = &spec.extras;
    if matches!(spec.architecture, Architecture::Gemma2 | Architecture::Gemma3) && own_attention_scale {
        return Err(BackendError::Unsupported(format!(
            "this model's attention scale is {}, and llama.cpp takes the one that its layers and sizes imply; the native \
             backend supports it",
            spec.score_scale()
        )));
    }
    let caps = [extras.attention_softcap, extras.final_softcap];
    if spec.architecture == Architecture::Gemma2 && caps.contains(&None) {
        return Err(BackendError::Unsupported(
            "this model lacks a softcap, and llama.cpp always computes them for gemma2; the native backend supports it".to_owned(),
        ));
    }
    // llama.cpp lets the room of all sequences together, in whole blocks of 256, decide on LongRoPE's factors.
    let room = limits.kv_tokens.max(limits.slots + 1).next_multiple_of(256);
    if let RopeScaling::Long(long) = &spec.rope.scaling
        && long.is_long(room) != long.is_long(limits.context)
    {
        return Err(BackendError::Unsupported(format!(
            "in a context of {} tokens this model has LongRoPE's short factors, and llama.cpp takes the long ones because the KV \
             room is {room} tokens; expected at most {} of KV room, or a longer context",
            limits.context, long.original_context
        )));
    }
    // llama.cpp does not support windows in the llama architecture, which Mistral's files use.
    let matters = |window: &usize| *window < limits.context;
    let ours = spec.windows.iter().flatten().copied().min().filter(matters);
    let theirs = weights.window().filter(matters);
    if ours == theirs {
        return Ok(());
    }
    let describe = |window: Option<usize>| window.map_or("none".to_owned(), |w| format!("one of {w} tokens"));
    Err(BackendError::Unsupported(format!(
        "this model has an attention window, {}, and llama.cpp computes with {}; a context of at most {} makes no \
         difference",
        describe(ours),
        describe(theirs),
        ours.into_iter().chain(theirs).min().unwrap_or(0)
    )))
}
