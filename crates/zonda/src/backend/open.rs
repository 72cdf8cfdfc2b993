//! Opens a backend, without an engine, on the calling thread.

use super::BackendKind;
#[cfg(feature = "llama-cpp")]
use super::configure::llama_cpp_options;
#[cfg(feature = "mlx")]
use super::configure::mlx_options;
#[cfg(feature = "native")]
use super::configure::native_options;
use super::configure::{mock_options, refuse, unsupported};
use crate::options::{Device, OpenOptions};
use crate::plan;
use std::sync::Arc;
use zonda_engine::forward::{Backend, BackendError};
#[cfg(feature = "llama-cpp")]
use zonda_engine::load::Format;
use zonda_engine::load::Model;
use zonda_engine::mock::Mock;
use zonda_engine::tokenize::{TokenizeError, Tokenizer};
#[cfg(feature = "llama-cpp")]
use zonda_llama_cpp::LlamaCpp;
#[cfg(feature = "mlx")]
use zonda_mlx::Mlx;
#[cfg(feature = "native")]
use {
    crate::error::Result as ZondaResult, zonda_engine::TokenId, zonda_engine::quant::Importance,
    zonda_native::Native,
};

/// Maximum number of threads that a backend is opened with.
pub const MAX_THREADS: usize = 1024;

/// Opens a backend on the calling thread. `model` is `None` for the mock.
///
/// # Errors
/// [`BackendError::Unsupported`] for an option that the backend does not have and for a model that does not fit into
/// memory; otherwise the backend's own error.
pub fn open(
    kind: BackendKind,
    model: Option<&Arc<Model>>,
    options: &OpenOptions,
) -> Result<Box<dyn Backend>, BackendError> {
    check_threads(options.threads)?;
    if options.device == Device::Gpu && !matches!(kind, BackendKind::LlamaCpp | BackendKind::Mlx) {
        let name = kind.name();
        return Err(unsupported(format!("the {name} backend computes on the processor, not on a GPU")));
    }
    if kind != BackendKind::LlamaCpp {
        refuse(kind, &[("--gpu-layers", options.gpu_layers.is_some())])?;
    }
    if let Some(model) = model.filter(|_| kind != BackendKind::Mock) {
        if let Some(why) = model.unsupported().filter(|_| !kind.has_own_forward()) {
            return Err(unsupported(why));
        }
        plan::check(model, options)?;
    }
    match (kind, model) {
        #[cfg(feature = "native")]
        (BackendKind::Native, Some(model)) => {
            Ok(Box::new(Native::open(model, &native_options(options, model)?)?))
        }
        #[cfg(feature = "llama-cpp")]
        (BackendKind::LlamaCpp, Some(model)) => {
            super::llama_cpp_limits::check(model)?;
            Ok(Box::new(LlamaCpp::open(model, &llama_cpp_options(options, model)?)?))
        }
        #[cfg(feature = "mlx")]
        (BackendKind::Mlx, Some(model)) => Ok(Box::new(Mlx::open(model, &mlx_options(options, model)?)?)),
        (BackendKind::Mock, _) => Ok(Box::new(Mock::new(mock_options(options)?))),
        (kind, _) => Err(unsupported(format!("the backend {} can't open this model", kind.name()))),
    }
}

/// The tokenizer of a model whose kind the engine lacks, from a backend that has it; `None` if none in this build does.
pub(crate) fn tokenizer(model: &Model) -> Option<Result<Tokenizer, TokenizeError>> {
    #[cfg(feature = "llama-cpp")]
    if model.format == Format::Gguf {
        return Some(match super::llama_cpp_limits::check(model) {
            Ok(()) => zonda_llama_cpp::tokenizer(model),
            Err(error) => Err(TokenizeError::Splitter(error.to_string())),
        });
    }
    let _ = model;
    None
}

/// Refuses more threads than any machine can run at once: starting them would overload the system.
fn check_threads(threads: Option<usize>) -> Result<(), BackendError> {
    match threads {
        Some(found) if found > MAX_THREADS => {
            Err(unsupported(format!("{found} threads; expected at most {MAX_THREADS}")))
        }
        _ => Ok(()),
    }
}

/// Passes the reference logits of a model's weights to `look`: one row, `[vocab]`, for every position of every
/// sequence, in order. The native backend computes them.
///
/// # Errors
/// The error of the native backend or of `look`.
#[cfg(feature = "native")]
pub fn reference(
    model: &Model,
    threads: Option<usize>,
    sequences: &[Vec<TokenId>],
    look: &mut dyn FnMut(&[f32]) -> Result<(), String>,
) -> Result<(), String> {
    check_threads(threads).map_err(|e| e.to_string())?;
    if let Some(why) = model.unsupported() {
        return Err(why.to_owned());
    }
    let mut refused = None;
    let walked = Native::reference(model, threads, sequences, &mut |row| {
        look(row).map_err(|why| {
            refused = Some(why);
            BackendError::Failed("refused".to_owned())
        })
    });
    walked.map_err(|error| refused.unwrap_or_else(|| error.to_string()))
}

/// The importance of each column of a model's matrices for a text, cut into sequences. `progress` is called with the
/// number of completed steps and of all steps. The native backend computes it.
///
/// # Errors
/// The error of the native backend.
#[cfg(feature = "native")]
pub fn calibrate(
    model: &Model,
    threads: Option<usize>,
    sequences: &[Vec<TokenId>],
    progress: &mut dyn FnMut(usize, usize),
) -> ZondaResult<Importance> {
    check_threads(threads)?;
    Ok(Native::calibrate(model, threads, sequences, progress)?)
}
