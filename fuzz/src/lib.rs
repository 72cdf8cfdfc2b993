//! The fuzz targets: each takes any bytes and gives them to one parser. A target fails by a panic, an abort or a time-out;
//! errors are the parser's normal answer.
//!
//! `make fuzz` mutates inputs under libFuzzer; `cargo test -p zonda-fuzz` runs every input in `corpus/`.

mod files;
mod server;
mod text;

/// A target: its name, which is also the name of its folder in `corpus/`, and what it does with an input.
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Parses one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "gguf", run: files::gguf },
    Target { name: "safetensors", run: files::safetensors },
    Target { name: "config", run: files::config },
    Target { name: "tokenizer_json", run: files::tokenizer_json },
    Target { name: "tekken", run: files::tekken },
    Target { name: "sentencepiece", run: files::sentencepiece },
    Target { name: "prompt_cache", run: files::prompt_cache },
    Target { name: "results", run: files::results },
    Target { name: "template", run: text::template },
    Target { name: "grammar", run: text::grammar },
    Target { name: "tool_calls", run: text::tool_calls },
    Target { name: "http", run: server::http },
    Target { name: "markdown", run: server::markdown },
];

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
