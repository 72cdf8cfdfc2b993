//! What to recommend for: a model or only its shapes, and the ways to run it.

use crate::error::{Usage, advised};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zonda::{BackendKind, Located, Store};
use zonda_bench::analyse::predict::{Form, QUALITY};
use zonda_convert::{SynthSpec, synth_archs};
use zonda_engine::load::{Format, Model, ModelSpec};

/// A model, or only its description.
pub(super) struct Subject {
    pub name: String,
    /// The argument of `-m`.
    given: String,
    located: Located,
    pub spec: ModelSpec,
    model: Option<Arc<Model>>,
}

/// A form of the model, and how to get it.
pub(super) struct Way {
    pub form: Form,
    pub backends: Vec<BackendKind>,
    /// The argument of `-m`.
    pub file: String,
    pub quantize: Option<String>,
    /// What has to be downloaded or made first.
    pub needs: Option<String>,
}

impl Subject {
    /// Finds a model, a `config.json` alone, or a shape that `zonda synth` knows, on this machine. Nothing is
    /// downloaded.
    ///
    /// # Errors
    /// If there is nothing with this name, or the model is not supported.
    pub fn find(name: &OsStr, store: &Store) -> anyhow::Result<Subject> {
        let text = name.to_string_lossy();
        if let Some(config) = config_alone(name) {
            let folder = config.canonicalize().unwrap_or_else(|_| config.clone());
            let stem = folder.parent().and_then(Path::file_name).unwrap_or(name);
            return Subject::of_config(name, &stem.to_string_lossy(), config);
        }
        if let Some(located) = store.find(name)? {
            let model = zonda::open_files(&located)?
                .ok_or_else(|| Usage("the mock model has no weights to predict speeds of".to_owned()))?;
            model.check()?;
            return Ok(Subject::new(name, located, model.spec.clone(), Some(model)));
        }
        if let Some(config) = store.config(name) {
            let stem = text.rsplit('/').next().unwrap_or(&text);
            return Subject::of_config(name, stem, config);
        }
        let Ok(shape) = SynthSpec::find(&text) else {
            let shapes: Vec<_> = synth_archs().iter().map(|s| s.name).collect();
            return Err(advised(
                format!("{text} is neither on this machine nor a known shape"),
                format!(
                    "give a model, a config.json, a Hub repository whose config.json is cached (`zonda pull {text}` gets \
                     all of it), or one of {}",
                    shapes.join(", ")
                ),
            ));
        };
        let located = Located { name: text.into_owned(), path: None };
        Ok(Subject::new(name, located, shape.spec, None))
    }

    fn of_config(given: &OsStr, name: &str, config: PathBuf) -> anyhow::Result<Subject> {
        let spec = ModelSpec::from_config(&config)?;
        Ok(Subject::new(given, Located { name: name.to_owned(), path: Some(config) }, spec, None))
    }

    fn new(given: &OsStr, located: Located, spec: ModelSpec, model: Option<Arc<Model>>) -> Subject {
        let given = quoted(&given.to_string_lossy());
        Subject { name: located.name.clone(), given, located, spec, model }
    }

    /// The model as it is, what `--quantize` makes of it, and the usual quantisations for which files could exist.
    pub fn forms(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        let real = || BackendKind::AVAILABLE.iter().copied().filter(|kind| *kind != BackendKind::Mock);
        if let Some(model) = &self.model
            && let Some(form) = Form::stored(model)
        {
            // MLX stores the weights of a GGUF file in other types than the file.
            let exact = |kind: &BackendKind| *kind != BackendKind::Mlx || model.format != Format::Gguf;
            let backends = real().filter(|kind| kind.reads(&self.located)).filter(exact).collect();
            ways.push(Way { form, backends, file: self.given.clone(), quantize: None, needs: None });
            if model.format == Format::SafeTensors {
                let mixes = zonda::Quantization::AVAILABLE
                    .iter()
                    .filter_map(|q| Some((q.name(), q.name().parse().ok()?)));
                ways.extend(mixes.filter_map(|(name, mix)| {
                    Some(Way {
                        form: Form::at_load(model, mix)?,
                        backends: vec![BackendKind::Native],
                        file: self.given.clone(),
                        quantize: Some(name.to_owned()),
                        needs: None,
                    })
                }));
            }
        }
        for name in QUALITY {
            let form = name.parse().ok().and_then(|mix| Form::mixed(&self.spec, "gguf", mix));
            let Some(form) = form else { continue };
            // SafeTensors of the same type are the same model in another format, except for llama.cpp, which can't read
            // them.
            let here = |kind: &BackendKind| {
                ways.iter().any(|way| way.form.quant == form.quant && way.backends.contains(kind))
            };
            let backends: Vec<_> = real().filter(|kind| *kind != BackendKind::Mlx && !here(kind)).collect();
            if !backends.is_empty() {
                let (file, needs) = (format!("{}.{name}.gguf", self.name), format!("a GGUF file in {name}"));
                let file = quoted(&file);
                ways.push(Way { form, backends, file, quantize: None, needs: Some(needs) });
            }
        }
        ways
    }
}

/// The `config.json` that stands for a model without weights: the file itself, or that of a folder without SafeTensors.
fn config_alone(given: &OsStr) -> Option<PathBuf> {
    let path = Path::new(given);
    if path.is_file() {
        return (path.extension()? == "json").then(|| path.to_owned());
    }
    let weights = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|e| e.path().extension().is_some_and(|e| e == "safetensors"))
    };
    let config = path.join("config.json");
    (config.is_file() && !std::fs::read_dir(path).ok()?.any(weights)).then_some(config)
}

/// Quotes a text for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+=@~".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
