//! Translates the common options into each backend's own; an option that a backend does not have is refused by name.

use super::BackendKind;
#[cfg(any(feature = "llama-cpp", feature = "mlx"))]
use crate::options::Device;
use crate::options::OpenOptions;
use zonda_engine::forward::BackendError;
use zonda_engine::mock::{Fault, FaultKind, MockOptions};
#[cfg(any(feature = "native", feature = "llama-cpp", feature = "mlx"))]
use zonda_engine::{forward::Limits, load::Model};
#[cfg(feature = "llama-cpp")]
use zonda_llama_cpp::LlamaCppOptions;
#[cfg(any(feature = "llama-cpp", feature = "mlx"))]
use zonda_machine::cpus;
#[cfg(feature = "mlx")]
use zonda_mlx::MlxOptions;
#[cfg(feature = "native")]
use {zonda_engine::quant::Mix, zonda_kernels::Isa, zonda_native::NativeOptions};

/// Slots per running sequence that only keep prefixes.
const SPARE_SLOTS: usize = 1;

/// The number of slots, and the size of the KV cache in tokens, for `parallel` sequences of up to `context` tokens.
/// Spare slots keep prefixes in the memory that running sequences don't use.
fn slots(options: &OpenOptions, parallel: usize, context: usize) -> (usize, usize) {
    let contexts = options.kv_contexts.unwrap_or(parallel);
    (parallel.saturating_mul(1 + SPARE_SLOTS), contexts.saturating_mul(context))
}

#[cfg(feature = "native")]
pub(super) fn native_options(options: &OpenOptions, model: &Model) -> Result<NativeOptions, BackendError> {
    let isa = options.isa.as_deref().map(Isa::named).transpose().map_err(unsupported)?;
    let quantize = options.quantize.map(|quantize| quantize.name().parse::<Mix>());
    let quantize = quantize.transpose().map_err(|e| unsupported(e.to_string()))?;
    let kv_type = options.kv_type.unwrap_or(NativeOptions::default().kv_type);
    let (threads, context) = (options.threads, options.ctx);
    let mmap = !options.no_mmap;
    let mut chosen =
        NativeOptions { threads, isa, kv_type, quantize, context, mmap, ..NativeOptions::default() };
    if let Some(parallel) = options.parallel {
        let context = context.unwrap_or(model.spec.context_length.min(Limits::DEFAULT_CONTEXT));
        let (slots, kv_tokens) =
            slots(options, parallel, context.next_multiple_of(zonda_kernels::attention::PAGE));
        (chosen.slots, chosen.kv_tokens) = (slots, Some(kv_tokens));
    }
    Ok(chosen)
}

/// The same threads on the same cores as for the native backend.
#[cfg(feature = "llama-cpp")]
pub(super) fn llama_cpp_options(
    options: &OpenOptions,
    model: &Model,
) -> Result<LlamaCppOptions, BackendError> {
    use zonda_llama_cpp::{Device as On, no_gpu};
    refuse(
        BackendKind::LlamaCpp,
        &[("--isa", options.isa.is_some()), ("--quantize", options.quantize.is_some())],
    )?;
    let gpu = match options.device {
        Device::Gpu => true,
        Device::Cpu if options.gpu_layers.is_some() => {
            return Err(unsupported("`--gpu-layers` contradicts `--device cpu`; omit one of them"));
        }
        Device::Cpu => false,
        // `--gpu-layers` implies a GPU.
        Device::Auto => options.gpu_layers.is_some() || no_gpu().is_none(),
    };
    let threads = options.threads.unwrap_or_else(cpus::default_threads);
    let mut chosen = LlamaCppOptions {
        device: if gpu { On::Gpu { layers: options.gpu_layers } } else { On::Cpu },
        threads: Some(threads),
        cpus: cpus::pins(threads),
        context: options.ctx,
        mmap: !options.no_mmap,
        ..LlamaCppOptions::default()
    };
    if let Some(kv_type) = options.kv_type {
        chosen.kv_type = kv_type.name().parse().map_err(unsupported)?;
    }
    if let Some(parallel) = options.parallel {
        let context = options.ctx.unwrap_or(model.spec.context_length.min(Limits::DEFAULT_CONTEXT));
        let (slots, kv_tokens) = slots(options, parallel, context);
        (chosen.slots, chosen.kv_tokens) = (slots, Some(kv_tokens));
    }
    Ok(chosen)
}

/// As many threads as for the native backend, if MLX's matrix products use threads.
#[cfg(feature = "mlx")]
pub(super) fn mlx_options(options: &OpenOptions, model: &Model) -> Result<MlxOptions, BackendError> {
    use zonda_mlx::{Device as On, gpu};
    refuse(BackendKind::Mlx, &[("--isa", options.isa.is_some())])?;
    let on_gpu = match options.device {
        Device::Gpu => true,
        Device::Cpu => false,
        Device::Auto => gpu().is_some(),
    };
    let mut chosen = MlxOptions {
        device: if on_gpu { On::Gpu } else { On::Cpu },
        threads: Some(options.threads.unwrap_or_else(cpus::default_threads)),
        kv_type: options.kv_type.map(|kv| kv.name().parse()).transpose().map_err(unsupported)?,
        quantize: options.quantize.map(|q| q.name().parse()).transpose().map_err(unsupported)?,
        context: options.ctx,
        ..MlxOptions::default()
    };
    if let Some(parallel) = options.parallel {
        let context = options.ctx.unwrap_or(model.spec.context_length.min(Limits::DEFAULT_CONTEXT));
        let (slots, kv_tokens) = slots(options, parallel, context);
        (chosen.slots, chosen.kv_tokens) = (slots, Some(kv_tokens));
    }
    Ok(chosen)
}

/// Faults as `KIND:TOKEN`, separated by commas.
fn mock_faults(text: &str) -> Result<Vec<Fault>, BackendError> {
    let fault = |text: &str| {
        let (kind, token) = text.split_once(':')?;
        let kind = match kind {
            "error" => FaultKind::Error,
            "panic" => FaultKind::Panic,
            "nan" => FaultKind::Nan,
            "slow" => FaultKind::Slow(std::time::Duration::from_millis(50)),
            _ => return None,
        };
        Some(Fault::token(token.parse().ok()?, kind))
    };
    let one = |text| {
        fault(text).ok_or_else(|| {
            let kinds = "error, panic, nan, slow";
            unsupported(format!("--mock-faults: expected KIND:TOKEN with a kind of {kinds}; found {text:?}"))
        })
    };
    text.split(',').map(one).collect()
}

pub(super) fn mock_options(options: &OpenOptions) -> Result<MockOptions, BackendError> {
    let given = [
        ("--isa", options.isa.is_some()),
        ("--quantize", options.quantize.is_some()),
        ("--kv-type", options.kv_type.is_some()),
        ("--threads", options.threads.is_some()),
        ("--no-mmap", options.no_mmap),
    ];
    refuse(BackendKind::Mock, &given)?;
    let mut mock = MockOptions {
        seed: options.seed.unwrap_or(0),
        per_token: std::time::Duration::from_millis(options.mock_step.unwrap_or(0)),
        faults: options.mock_faults.as_deref().map(mock_faults).transpose()?.unwrap_or_default(),
        ..MockOptions::default()
    };
    if let Some(context) = options.ctx {
        mock.limits.context = context;
    }
    let context = mock.limits.context.next_multiple_of(mock.limits.kv_page);
    (mock.limits.slots, mock.limits.kv_tokens) = match options.parallel {
        Some(parallel) => slots(options, parallel, context),
        None => (mock.limits.slots, context.saturating_mul(mock.limits.slots)),
    };
    Ok(mock)
}

/// Refuses flags that a backend does not have.
pub(super) fn refuse(kind: BackendKind, flags: &[(&str, bool)]) -> Result<(), BackendError> {
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(unsupported(format!("the {} backend has no {flag}", kind.name()))),
        None => Ok(()),
    }
}

pub(super) fn unsupported(why: impl std::fmt::Display) -> BackendError {
    BackendError::Unsupported(why.to_string())
}
