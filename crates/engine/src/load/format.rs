//! [`Format`]: the formats of model files.

use std::fmt;
use std::path::Path;

use super::hf;

/// The supported formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One `.gguf` file, or one split into parts.
    Gguf,
    /// A Hugging Face folder: `config.json` and SafeTensors files; or one in Mistral's own layout, with `params.json`.
    SafeTensors,
    /// Such a folder with matrices quantised by MLX.
    Mlx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::Gguf => "gguf",
            Format::SafeTensors => "safetensors",
            Format::Mlx => "mlx",
        })
    }
}

impl Format {
    /// The likely format of a path; nothing is checked.
    pub fn of(path: &Path) -> Format {
        match (path.is_dir(), hf::says_mlx(&path.join("config.json"))) {
            (false, _) => Format::Gguf,
            (true, false) => Format::SafeTensors,
            (true, true) => Format::Mlx,
        }
    }
}
