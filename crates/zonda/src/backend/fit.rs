//! [`Fit`]: which backends can run a model, as far as its header tells, and why another can't.

use super::kind::BackendKind;
use super::llama_cpp_limits;
use crate::located::Located;
use serde::Serialize;
use std::path::Path;
use zonda_engine::load::{Format, Model as ModelFiles};

/// Whether a backend can run a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fit {
    /// The backend.
    pub backend: BackendKind,
    /// Whether this build has it.
    pub compiled_in: bool,
    /// Why it can't run the model; `None`: nothing in the header is in the way.
    pub why_not: Option<String>,
}

impl Fit {
    /// How each backend but the mock fits a model, best backend first. llama.cpp is among them even if this build lacks it.
    pub fn of(model: &ModelFiles) -> Vec<Fit> {
        let known = |kind: &BackendKind| match kind {
            BackendKind::Native | BackendKind::LlamaCpp => true,
            // MLX's crate says what it runs.
            BackendKind::Mlx => cfg!(feature = "mlx"),
            BackendKind::Mock => false,
        };
        BackendKind::ALL
            .into_iter()
            .filter(known)
            .map(|backend| Fit {
                backend,
                compiled_in: BackendKind::AVAILABLE.contains(&backend),
                why_not: backend.why_not(model),
            })
            .collect()
    }
}

impl BackendKind {
    fn why_not(self, model: &ModelFiles) -> Option<String> {
        match self {
            BackendKind::LlamaCpp if model.format != Format::Gguf => {
                Some(format!("it reads GGUF files, and this is a {} folder", model.format))
            }
            BackendKind::LlamaCpp => llama_cpp_limits::why_not(model),
            BackendKind::Native => unreadable(model),
            BackendKind::Mlx => unreadable(model).or_else(|| mlx_why_not(model)),
            BackendKind::Mock => Some("it has a model of its own".to_owned()),
        }
    }

    /// Whether the backend computes every GGUF model with a forward pass of its own.
    pub(crate) fn has_own_forward(self) -> bool {
        self == BackendKind::LlamaCpp
    }
}

/// Why the engine does not read a model's tensors.
fn unreadable(model: &ModelFiles) -> Option<String> {
    model.check().err().map(|error| error.to_string())
}

/// Why MLX can't run a model of this kind.
#[cfg(feature = "mlx")]
fn mlx_why_not(model: &ModelFiles) -> Option<String> {
    zonda_mlx::unsupported(&model.spec)
}

#[cfg(not(feature = "mlx"))]
fn mlx_why_not(_: &ModelFiles) -> Option<String> {
    None
}

/// Why a backend can't run a model whose files are well-formed; `None`: nothing is known to be in the way, or the files can't be
/// opened at all.
pub fn unfit(kind: BackendKind, model: &Located) -> Option<String> {
    kind.why_not(&ModelFiles::open_any(model.path.as_deref()?).ok()?)
}

/// The backend of this build with a forward pass of its own for a GGUF file that the others can't run; `None` if they can, or
/// if it can't either.
pub(super) fn other_forward(model: &Located) -> Option<BackendKind> {
    let own = BackendKind::AVAILABLE.iter().copied().find(|kind| kind.has_own_forward())?;
    let files = foreign(model.path.as_deref()?)?;
    own.why_not(&files).is_none().then_some(own)
}

/// A GGUF file that our forward pass can't run, opened for other backends.
fn foreign(path: &Path) -> Option<ModelFiles> {
    if path.is_dir() {
        return None;
    }
    ModelFiles::open_any(path).ok().filter(|files| files.check().is_err())
}

/// What runs a file that `kind` refused, as advice; `None` if nothing else is known to run it.
pub(crate) fn instead_of(kind: BackendKind, path: &Path) -> Option<String> {
    let files = foreign(path)?;
    let fits = Fit::of(&files);
    let other = fits.into_iter().find(|fit| fit.backend != kind && fit.why_not.is_none())?;
    let name = other.backend.name();
    Some(match (other.compiled_in, other.backend.how_to_build()) {
        (true, _) => format!("the {name} backend can run it: `--backend {name}`"),
        (false, Some(how)) => format!("the {name} backend, which this program lacks, can run it; {how}"),
        (false, None) => format!("the {name} backend, which this program lacks, can run it"),
    })
}
