//! The table of instruction sets, best first, and the choice at run time.

#[cfg(target_arch = "aarch64")]
use crate::aarch64::neon::{self, Neon};
use crate::scalar::Scalar;
use crate::simd::{Op, Simd};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has. Values come only from detecting the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Kind);

/// One row per set: the type that proves it, its name on the command line, and its description.
macro_rules! sets {
    ($($(#[$arch:meta])? $kind:ident: $set:ty, $name:literal, $describe:literal;)*) => {
        #[derive(Clone, Copy, Debug)]
        enum Kind {
            $($(#[$arch])? $kind($set),)*
        }

        impl Isa {
            /// Every instruction set this CPU has, best first. The last one is always `scalar`.
            pub fn all() -> Vec<Isa> {
                let sets = [$($(#[$arch])? <$set>::detect().map(Kind::$kind),)*];
                sets.into_iter().flatten().map(Isa).collect()
            }

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(_) => $name,)*
                }
            }

            /// The description: the name with the extensions in use.
            pub fn describe(self) -> &'static str {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(_) => $describe,)*
                }
            }

            /// Whether `bf16` weights are multiplied with `bf16` activations (in one instruction) instead of `f32` ones.
            pub fn bf16_dot(self) -> bool {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(_) => <$set as Simd>::BF16_DOT,)*
                }
            }

            /// Runs a kernel compiled for this set. Each call site compiles it once for every set, so other crates use the kernels' own
            /// functions, such as [`crate::norm::RmsNorm::on`].
            #[inline]
            pub fn run<O: Op>(self, op: O) -> O::Out {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(s) => s.vectorize(op),)*
                }
            }

            /// As [`Isa::run`] for a kernel without dot products: sets that differ only in those share its code.
            #[inline]
            pub(crate) fn run_floats<O: Op>(self, op: O) -> O::Out {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(s) => s.floats().vectorize(op),)*
                }
            }

            /// As [`Isa::run`] for a kernel without `bf16` dot products.
            #[inline]
            pub(crate) fn run_bytes<O: Op>(self, op: O) -> O::Out {
                match self.0 {
                    $($(#[$arch])? Kind::$kind(s) => s.bytes().vectorize(op),)*
                }
            }
        }
    };
}

sets! {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16: Avx512<true>, "avx512", "avx512 (VNNI, BF16)";
    #[cfg(target_arch = "x86_64")]
    Avx512: Avx512<false>, "avx512", "avx512 (VNNI)";
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni: Avx2<true>, "avx2", "avx2 (FMA, F16C, VNNI)";
    #[cfg(target_arch = "x86_64")]
    Avx2: Avx2<false>, "avx2", "avx2 (FMA, F16C)";
    #[cfg(target_arch = "aarch64")]
    NeonI8mm: Neon<{ neon::I8MM }>, "neon", "neon (dotprod, i8mm, bf16)";
    #[cfg(target_arch = "aarch64")]
    NeonDotprod: Neon<{ neon::DOTPROD }>, "neon", "neon (dotprod)";
    #[cfg(target_arch = "aarch64")]
    Neon: Neon<{ neon::PLAIN }>, "neon", "neon";
    Scalar: Scalar, "scalar", "scalar";
}

/// A name that is not in [`Isa::NAMES`], or a set that this CPU lacks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// The name is unknown.
    #[error("unknown instruction set {0:?}; expected one of scalar, avx2, avx512, neon")]
    Unknown(String),
    /// The name is known, but this CPU (or this build) lacks the set.
    #[error("this CPU cannot run {asked}; it has {available}")]
    Missing {
        /// The requested set.
        asked: String,
        /// The available sets, best first.
        available: String,
    },
}

impl Isa {
    /// The names on the command line.
    pub const NAMES: [&'static str; 4] = ["scalar", "avx2", "avx512", "neon"];

    /// The best instruction set this CPU has.
    pub fn best() -> Isa {
        Isa::all()[0]
    }

    /// The best set with this name.
    ///
    /// # Errors
    /// If the name is unknown, or the CPU lacks the set.
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        if !Isa::NAMES.contains(&name) {
            return Err(IsaError::Unknown(name.to_owned()));
        }
        let all = Isa::all();
        all.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let mut names: Vec<_> = all.iter().map(|isa| isa.name()).collect();
            names.dedup();
            IsaError::Missing { asked: name.to_owned(), available: names.join(", ") }
        })
    }
}
