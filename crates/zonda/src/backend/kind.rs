//! [`BackendKind`]: the backends by name.

use crate::error::{Detail, Error, Result};
use crate::located::Located;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A backend by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
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
    /// All of them.
    pub const ALL: [BackendKind; 4] =
        [BackendKind::Native, BackendKind::LlamaCpp, BackendKind::Mlx, BackendKind::Mock];

    /// The backends in this build, best first.
    pub const AVAILABLE: &[BackendKind] = &[
        #[cfg(feature = "native")]
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

    /// A short description.
    pub fn about(self) -> &'static str {
        match self {
            BackendKind::Native => "Pure Rust, on the processor",
            BackendKind::LlamaCpp => "llama.cpp",
            BackendKind::Mlx => "Apple's MLX",
            BackendKind::Mock => "Deterministic text without a model",
        }
    }

    /// The backend with this name.
    pub fn named(name: &str) -> Option<BackendKind> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }

    /// Refuses a backend that is not in this build.
    ///
    /// # Errors
    /// [`Error::Unavailable`], which lists the backends in this build.
    pub fn check_available(self) -> Result<()> {
        if Self::AVAILABLE.contains(&self) {
            return Ok(());
        }
        let available: Vec<_> = Self::AVAILABLE.iter().map(|k| k.name()).collect();
        let mut advice = format!("this build has: {}", available.join(", "));
        if let Some(how) = self.how_to_build() {
            advice = format!("{advice}; {how}");
        }
        let message = format!("the backend {} is not compiled into this program", self.name());
        Err(Error::Unavailable(Detail::new(message).advise(advice)))
    }

    /// How to build a `zonda` with this backend, if a default build does not have it.
    pub(super) fn how_to_build(self) -> Option<String> {
        matches!(self, BackendKind::LlamaCpp | BackendKind::Mlx).then(|| {
            let name = self.name();
            format!("`scripts/setup.sh {name}` and `cargo build --release --features {name}` build a `zonda` with it")
        })
    }

    /// Whether a token's logits are the same bits whatever else is in the batch.
    pub fn batch_invariant(self) -> bool {
        matches!(self, BackendKind::Native | BackendKind::Mock)
    }

    /// Whether the backend reads a model's format.
    pub fn reads(self, model: &Located) -> bool {
        match (self, &model.path) {
            (BackendKind::Mock, path) => path.is_none(),
            (_, None) => false,
            (BackendKind::LlamaCpp, Some(path)) => !path.is_dir(),
            (_, Some(_)) => true,
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<BackendKind> {
        BackendKind::named(text).ok_or_else(|| {
            let names = BackendKind::ALL.map(BackendKind::name).join(", ");
            Error::Options(Detail::new(format!("backend: expected one of {names}, found {text:?}")))
        })
    }
}
