//! `zonda inspect`: shows a model file without running it.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::Usage;
use crate::output;
use crate::output::human_bytes;
use clap::Args;
use serde_json::{Map, Value as Json, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use zonda::{Fit, Located};
use zonda_engine::load::{Format, GgufFile, LoadError, Metadata, Model, TensorInfo, Value};
use zonda_engine::tokenize::{ChatTemplate, TemplateError, Tokenizer};
use zonda_engine::{SamplingDefaults, printable};
use zonda_kernels::attention::KvType;

/// Arrays longer than this are shown by their length.
const SHORT: usize = 32;

/// Show a model file: format, shapes, types, metadata, memory
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda inspect smollm2-135m\n  zonda inspect model.gguf --tensors\n  \
    zonda inspect model.gguf --json | jq .metadata")]
pub struct Inspect {
    /// The model: a path or a name.
    model: OsString,
    /// Context length for the size of the KV cache [default: the model's own].
    #[arg(long, value_name = "N")]
    ctx: Option<NonZeroUsize>,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// List all metadata.
    #[arg(long)]
    metadata: bool,
    /// Show long arrays (vocabularies) in full.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// What there is to show. `model` is an error for a well-formed file that no backend runs, such as a vocabulary.
struct Found {
    name: String,
    model: Result<Model, LoadError>,
    /// How each backend fits the model; empty if it did not open.
    fits: Vec<Fit>,
    metadata: Metadata,
    gguf_version: Option<u32>,
    tensors: Vec<TensorInfo>,
    config: Option<Json>,
    /// The tokenizer and whether there is a chat template; `None` if there is no tokenizer; an error if it can't be
    /// read.
    tokenizer: Result<Option<(Tokenizer, bool)>, String>,
    /// The sampling that the files recommend.
    sampling: SamplingDefaults,
}

impl Inspect {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let located = context.store()?.locate(&self.model)?;
        let path = located.path.ok_or_else(|| Usage("the mock model has no file to inspect".to_owned()))?;
        let found = open(located.name, &path)?;
        if self.json.json { output::json(&self.document(&found, &path)) } else { self.text(&found, &path) }
    }

    fn document(&self, found: &Found, path: &Path) -> Json {
        let tensors: Vec<_> = found
            .tensors
            .iter()
            .map(|t| json!({ "name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes }))
            .collect();
        let metadata = match &found.config {
            Some(config) => config.clone(),
            None => {
                found.metadata.0.iter().map(|(k, v)| (k.clone(), self.value(v))).collect::<Map<_, _>>().into()
            }
        };
        let mut document = json!({
            "name": found.name,
            "path": path.display().to_string(),
            "format": Format::of(path).to_string(),
            "gguf_version": found.gguf_version,
            "architecture": found.architecture(),
            "parameters": found.parameters(),
            "runs": found.fits.iter().any(|fit| fit.compiled_in && fit.why_not.is_none()),
            "backends": found.fits,
            "tensors": tensors,
            "metadata": metadata,
            "memory": Json::Null,
            "sampling": found.sampling,
            "tokenizer": match &found.tokenizer {
                Ok(tokenizer) => tokenizer.as_ref().map(|(t, template)| json!({
                    "vocab_size": t.vocab_size(), "bos": t.bos(), "eos": t.eos(), "adds_bos": t.adds_bos(),
                    "end_tokens": t.end_tokens(), "chat_template": template,
                })).into(),
                Err(why) => json!({ "error": why }),
            },
        });
        match &found.model {
            Err(error) => document["reason"] = error.to_string().into(),
            Ok(model) => {
                if let Some(why) = found.fits.first().and_then(|fit| fit.why_not.as_deref()) {
                    document["reason"] = why.into();
                }
                document["skipped_tensors"] = model.skipped_tensors().into();
                let (spec, context) = (&model.spec, self.context(model));
                let memory = model.memory(context, 2);
                document["memory"] = json!({
                    "context": context, "kv_type": "f16",
                    "kv_bytes_per_token": per_token(model),
                    "weights_bytes": memory.weights, "kv_bytes": memory.kv, "total_bytes": memory.total(),
                });
                document["types"] = model.types().iter().map(type_share).collect();
                document["spec"] = json!({
                    "layers": spec.layers, "hidden_size": spec.hidden_size, "heads": spec.heads,
                    "kv_heads": spec.kv_heads, "head_dim": spec.head_dim, "ffn_size": spec.ffn_size,
                    "vocab_size": spec.vocab_size, "context_length": spec.context_length,
                    "tied_embeddings": spec.tied_embeddings,
                    "experts": spec.moe.as_ref().map(|m| m.experts),
                    "experts_used": spec.moe.as_ref().map(|m| m.used),
                });
            }
        }
        document
    }

    fn text(&self, found: &Found, path: &Path) -> anyhow::Result<()> {
        let mut out = String::new();
        let mut line = |label: &str, text: String| {
            let _ = writeln!(out, "{label:<13} {}", printable(&text));
        };
        line("model", format!("{} ({})", found.name, path.display()));
        match found.gguf_version {
            Some(version) => line("format", format!("gguf v{version}")),
            None => line("format", Format::of(path).to_string()),
        }
        line("architecture", found.architecture().unwrap_or_else(|| "none named".to_owned()));
        let count = found.parameters();
        line("parameters", format!("{} in {} tensors", human_count(count), found.tensors.len()));
        match &found.model {
            Err(error) => line("runs", format!("no: {error}")),
            Ok(model) => {
                line("runs on", found.runs_on());
                for (backends, why) in found.not_on() {
                    line("not on", format!("{}: {why}", backends.join(", ")));
                }
                if model.skipped_tensors() > 0 {
                    let skipped = model.skipped_tensors();
                    line(
                        "skipped",
                        format!("{skipped} tensors of the parts that read images; the text part runs"),
                    );
                }
                let spec = &model.spec;
                let shares = model.types();
                let types =
                    shares.iter().map(|s| format!("{} {} ×{}", s.dtype, human_bytes(s.bytes), s.tensors));
                line("types", types.collect::<Vec<_>>().join(", "));
                line("layers", format!("{} of hidden size {}", spec.layers, spec.hidden_size));
                let of = match &spec.extras.mla {
                    None if spec.head_dim == 0 => "none with keys and values".to_owned(),
                    None => format!(
                        "{} of {} values, {} for keys and values",
                        spec.heads, spec.head_dim, spec.kv_heads
                    ),
                    Some(mla) => format!(
                        "{} of {} values, keys and values from a latent of {} and {} rotated values",
                        spec.heads,
                        mla.query(),
                        mla.kv_rank,
                        mla.rope
                    ),
                };
                line("heads", of);
                line(
                    "feed-forward",
                    match &spec.moe {
                        None => spec.ffn_size.to_string(),
                        Some(moe) => {
                            let shared = moe
                                .shared
                                .map_or(String::new(), |s| format!(" and one of {} for all", s.ffn_size));
                            let dense = match moe.dense_layers {
                                0 => String::new(),
                                n => format!("; {} in the first {n} layers", spec.ffn_size),
                            };
                            format!(
                                "{} experts of {}, {} a token{shared}{dense}",
                                moe.experts, moe.ffn_size, moe.used
                            )
                        }
                    },
                );
                let head = if spec.tied_embeddings { ", output head tied" } else { "" };
                line("vocabulary", format!("{}{head}", spec.vocab_size));
                line("context", format!("{} tokens", spec.context_length));
                let context = self.context(model);
                let m = model.memory(context, 2);
                let (weights, kv, total) =
                    (human_bytes(m.weights), human_bytes(m.kv), human_bytes(m.total()));
                line(
                    "memory",
                    format!("{weights} weights + {kv} KV cache (f16, {context} tokens) = {total}"),
                );
                let per_token = KvType::ALL
                    .map(|kv| format!("{} {}", kv.name(), human_bytes(zonda::kv_bytes_per_token(spec, kv))));
                line("KV a token", per_token.join(", "));
            }
        }
        line("tokenizer", found.tokenizer_text());
        if !found.sampling.is_empty() {
            line("sampling", sampling_text(&found.sampling));
        }
        if self.metadata {
            out.push('\n');
            for (key, value) in &found.metadata.0 {
                let text = if self.full { self.value(value).to_string() } else { value.describe() };
                let _ = writeln!(out, "{} = {}", printable(key), printable(&text));
            }
            if let Some(config) = &found.config {
                let _ = writeln!(out, "{config:#}");
            }
        }
        if self.tensors {
            out.push('\n');
            let names: Vec<_> = found.tensors.iter().map(|t| printable(&t.name)).collect();
            let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
            for (t, name) in found.tensors.iter().zip(&names) {
                let _ = writeln!(out, "{name:width$}  {:6}  {:?}", t.dtype.to_string(), t.shape);
            }
        }
        output::print(&out)
    }

    fn context(&self, model: &Model) -> usize {
        self.ctx.map_or(model.spec.context_length, NonZeroUsize::get)
    }

    /// A metadata value as JSON; a long array as `{"array": "string", "length": 49152}` unless `--full`.
    fn value(&self, value: &Value) -> Json {
        let array = |of: &str, length: usize, items: &dyn Fn() -> Json| {
            if length > SHORT && !self.full { json!({ "array": of, "length": length }) } else { items() }
        };
        match value {
            Value::U8(v) => json!(v),
            Value::I8(v) => json!(v),
            Value::U16(v) => json!(v),
            Value::I16(v) => json!(v),
            Value::U32(v) => json!(v),
            Value::I32(v) => json!(v),
            Value::U64(v) => json!(v),
            Value::I64(v) => json!(v),
            Value::F32(v) => json!(v),
            Value::F64(v) => json!(v),
            Value::Bool(v) => json!(v),
            Value::String(v) => json!(v),
            Value::Array(v) => array("value", v.len(), &|| v.iter().map(|v| self.value(v)).collect()),
            Value::Strings(v) => array("string", v.len(), &|| json!(v)),
            Value::Floats(v) => array("f32", v.len(), &|| json!(v)),
            Value::Ints(v) => array("i32", v.len(), &|| json!(v)),
        }
    }
}

impl Found {
    /// The backends that can run it.
    fn runs_on(&self) -> String {
        let able = self.fits.iter().filter(|fit| fit.why_not.is_none());
        let names = able.map(|fit| match fit.compiled_in {
            true => fit.backend.to_string(),
            false => format!("{} (not in this program)", fit.backend),
        });
        let names = names.collect::<Vec<_>>().join(", ");
        if names.is_empty() { "no backend".to_owned() } else { names }
    }

    /// The other backends, together where they have the same reason.
    fn not_on(&self) -> Vec<(Vec<&'static str>, &str)> {
        let mut out: Vec<(Vec<_>, &str)> = Vec::new();
        for (fit, why) in self.fits.iter().filter_map(|fit| Some((fit, fit.why_not.as_deref()?))) {
            match out.iter_mut().find(|(_, known)| *known == why) {
                Some((backends, _)) => backends.push(fit.backend.name()),
                None => out.push((vec![fit.backend.name()], why)),
            }
        }
        out
    }

    fn tokenizer_text(&self) -> String {
        match &self.tokenizer {
            Err(why) => why.clone(),
            Ok(None) => "none".to_owned(),
            Ok(Some((t, template))) => {
                let ends = t.end_tokens().iter().map(|&id| format!("{:?}", t.piece(id))).collect::<Vec<_>>();
                let template = if *template { "with" } else { "without" };
                format!(
                    "{} tokens, ends with {}, {template} chat template",
                    t.vocab_size(),
                    ends.join(" or ")
                )
            }
        }
    }

    fn parameters(&self) -> u64 {
        let values = |t: &TensorInfo| t.shape.iter().map(|&d| d as u64).product::<u64>();
        self.model.as_ref().map_or_else(|_| self.tensors.iter().map(values).sum(), Model::parameters)
    }

    fn architecture(&self) -> Option<String> {
        match &self.model {
            Ok(model) if model.unsupported().is_none() => Some(model.spec.architecture.to_string()),
            _ => self.metadata.str("general.architecture").map(str::to_owned),
        }
    }
}

fn open(name: String, path: &Path) -> anyhow::Result<Found> {
    let model = Model::open_any(path);
    let fits = model.as_ref().map_or_else(|_| Vec::new(), Fit::of);
    if path.is_dir() {
        let model = model?;
        model.check()?;
        // Mistral's own layout has the other file
        let config = ["config.json", "params.json"]
            .map(|name| path.join(name))
            .into_iter()
            .find(|file| file.is_file());
        let config = std::fs::read_to_string(config.unwrap_or_else(|| path.join("config.json")))?;
        let (tensors, config) = (model.tensors(), Some(serde_json::from_str(&config)?));
        let tokenizer = Tokenizer::from_folder(path).map_err(|error| error.to_string());
        let tokenizer = with_template(tokenizer, |t| ChatTemplate::from_folder(path, t));
        return Ok(Found {
            tokenizer,
            name,
            model: Ok(model),
            fits,
            metadata: Metadata::default(),
            gguf_version: None,
            tensors,
            config,
            sampling: SamplingDefaults::of_folder(path),
        });
    }
    match GgufFile::open(path) {
        Ok(file) => {
            let (tensors, gguf_version, metadata) = (file.tensors(), Some(file.version), file.metadata);
            let has_one = metadata.get("tokenizer.ggml.model").is_some();
            // of any kind that a backend of this program has
            let tokenizer = match has_one {
                true => zonda::open_tokenizer(&Located::at(path)).map(Some).map_err(|error| error.sentence()),
                false => Ok(None),
            };
            let tokenizer = with_template(tokenizer, |t| ChatTemplate::from_gguf(&metadata, t));
            let sampling = SamplingDefaults::of_gguf(&metadata);
            Ok(Found {
                name,
                model,
                fits,
                metadata,
                gguf_version,
                tensors,
                config: None,
                tokenizer,
                sampling,
            })
        }
        // `Model::open` gives a better error for a file that is not GGUF.
        Err(error) => Err(model.err().unwrap_or(error).into()),
    }
}

/// A tokenizer, with whether there is a chat template for it.
fn with_template(
    tokenizer: Result<Option<Tokenizer>, String>,
    template: impl FnOnce(&Tokenizer) -> Result<Option<ChatTemplate>, TemplateError>,
) -> Result<Option<(Tokenizer, bool)>, String> {
    let Some(tokenizer) = tokenizer? else { return Ok(None) };
    let template = template(&tokenizer).map_err(|e| e.to_string())?;
    Ok(Some((tokenizer, template.is_some())))
}

/// The recommended sampling as flags of `zonda run`.
fn sampling_text(sampling: &SamplingDefaults) -> String {
    let SamplingDefaults { temperature, top_k, top_p, min_p, typical_p, repeat_penalty, repeat_last_n } =
        sampling;
    let flags = [
        ("temp", temperature.map(|v| v.to_string())),
        ("top-k", top_k.map(|v| v.to_string())),
        ("top-p", top_p.map(|v| v.to_string())),
        ("min-p", min_p.map(|v| v.to_string())),
        ("typical-p", typical_p.map(|v| v.to_string())),
        ("repeat-penalty", repeat_penalty.map(|v| v.to_string())),
        ("repeat-last-n", repeat_last_n.map(|v| v.to_string())),
    ];
    let given = flags.into_iter().filter_map(|(name, value)| Some(format!("--{name} {}", value?)));
    given.collect::<Vec<_>>().join(" ")
}

/// Bytes of a token's keys and values, by KV type.
fn per_token(model: &Model) -> Map<String, Json> {
    let of = |kv: KvType| (kv.name().to_owned(), zonda::kv_bytes_per_token(&model.spec, kv).into());
    KvType::ALL.into_iter().map(of).collect()
}

fn type_share(share: &zonda_engine::load::TypeShare) -> Json {
    json!({ "dtype": share.dtype.to_string(), "tensors": share.tensors, "bytes": share.bytes })
}

/// `134515008` → `134.5 M`.
fn human_count(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} B", n / 1e9),
        _ if n >= 1e6 => format!("{:.1} M", n / 1e6),
        _ if n >= 1e3 => format!("{:.1} K", n / 1e3),
        _ => format!("{n}"),
    }
}
