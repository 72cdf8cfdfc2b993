//! The one table of instruction sets, best first, and the choice among them at run time.

use crate::scalar::Scalar;
use crate::simd::{Op, Simd};
#[cfg(target_arch = "x86_64")]
use crate::x86_64::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has. A value can only be had by asking the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Scalar(Scalar),
}

/// A name on the command line that is none of [`Isa::NAMES`], or one that this CPU lacks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// Not a name we know.
    #[error("unknown instruction set {0:?}; expected one of scalar, avx2, avx512, neon")]
    Unknown(String),
    /// Known, but this CPU (or this build) lacks it.
    #[error("this CPU cannot run {asked}; it has {available}")]
    Missing {
        /// The set asked for.
        asked: String,
        /// Those there are, best first.
        available: String,
    },
}

impl Isa {
    /// The names that the command line takes.
    pub const NAMES: [&'static str; 4] = ["scalar", "avx2", "avx512", "neon"];

    /// Every instruction set this CPU has, best first. The last one is always `scalar`.
    pub fn all() -> Vec<Isa> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            Avx512::<true>::detect().map(Kind::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Avx512::<false>::detect().map(Kind::Avx512),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Kind::Avx2),
            Some(Kind::Scalar(Scalar)),
        ];
        sets.into_iter().flatten().map(Isa).collect()
    }

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

    /// The name, as the command line takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(_) | Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            Kind::Scalar(_) => "scalar",
        }
    }

    /// The name with what is used beyond the plain set, for people.
    pub fn describe(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(_) => "avx512 (VNNI, BF16)",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512 (VNNI)",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2 (FMA, F16C)",
            Kind::Scalar(_) => "scalar",
        }
    }

    /// Whether `bf16` weights are multiplied with `bf16` activations (one instruction), or with `f32` ones.
    pub fn bf16_dot(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(_) => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) | Kind::Avx2(_) => false,
            Kind::Scalar(_) => false,
        }
    }

    /// Runs a kernel compiled for this set.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Out {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(s) => s.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(s) => s.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(s) => s.vectorize(op),
            Kind::Scalar(s) => s.vectorize(op),
        }
    }
}
