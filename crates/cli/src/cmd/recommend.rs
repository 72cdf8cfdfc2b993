//! `zonda recommend`: which backend, format and quantisation to run here, predicted before anything is downloaded or
//! loaded.

use crate::Context;
use crate::args::JsonArg;
use crate::backends::{self, BackendKind};
use crate::cmd::doctor;
use crate::error::{Advice as _, Usage, advised};
use crate::output::{self, Spinner, human_bytes};
use crate::store::Located;
use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zonda_bench::Record;
use zonda_bench::ceilings::{Ceilings, LARGE, Peaks};
use zonda_bench::machine::Machine;
use zonda_bench::predict::past::{Basis, Error, Measured, PROMPT, Past, ratios};
use zonda_bench::predict::{Form, QUALITY, quality};
use zonda_bench::summary::figure;
use zonda_engine::load::{Format, Model, ModelSpec};
use zonda_kernels::probe::{EACH, LARGE_BYTES, Peaks as Probed};
use zonda_kernels::{Isa, cpus};

/// Where records are looked for, below the current folder.
const RECORDS: [&str; 2] = ["results", "benchmarks/record"];
/// The context that is reckoned with if the model's own is longer.
const CONTEXT: usize = 4096;
/// Better quality is worth this share of the fastest choice's speed.
const WORTH: f64 = 0.05;

/// Say which backend, format and quantisation to run here, and how fast it will be
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  zonda recommend -m smollm2-135m\n  zonda recommend -m folder/config.json --ctx 8192\n  \
    zonda recommend -m model.gguf --json | jq '.choices[0].command'\n\n\
    A model's config.json is enough; nothing is loaded. Speeds are predicted from what this machine can do at most, measured \
    now, and from the share of it that backends reached in records of this machine (results/ and benchmarks/record/), else \
    in a built-in table. The speeds are the processor's."
)]
pub struct Recommend {
    /// The model: a path, a config.json, or a name; may be repeated [default: those that are on this machine].
    #[arg(short, long, value_name = "MODEL")]
    model: Vec<OsString>,
    /// Context length to leave room for, in tokens [default: the model's, at most 4096].
    #[arg(long, value_name = "N")]
    ctx: Option<NonZeroUsize>,
    /// Another record, or a folder of them; may be repeated.
    #[arg(long, value_name = "PATH")]
    record: Vec<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

/// A model, or its description alone.
struct Subject {
    name: String,
    /// As `-m` takes it.
    given: String,
    located: Located,
    spec: ModelSpec,
    model: Option<Arc<Model>>,
}

/// A way to run a model.
#[derive(Serialize)]
struct Choice {
    model: String,
    backend: &'static str,
    format: String,
    quant: String,
    weights: String,
    context: usize,
    weights_bytes: u64,
    kv_bytes: u64,
    memory_bytes: u64,
    fits: bool,
    /// Why it doesn't fit.
    why: Option<String>,
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    basis: Option<Basis>,
    measured: Option<Measured>,
    /// Predicted by measured, prefill and decode.
    ratios: Option<[Option<f64>; 2]>,
    /// Whether the model is here in a form that can be run so.
    ready: bool,
    needs: Option<String>,
    command: String,
    recommended: bool,
}

impl Recommend {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let subjects = self.subjects(context)?;
        let machine = Machine::probe();
        let past = Past::of(&machine, self.records()?);
        let forms: Vec<_> = subjects.iter().map(|s| (s, s.forms())).collect();
        let room = |s: &Subject, form: &Form| form.too_large(&machine, self.context(&s.spec)).is_none();
        let mut all = forms.iter().flat_map(|(s, forms)| forms.iter().map(move |f| (*s, &f.form)));
        let large = all.any(|(s, form)| form.facts.decode_bytes > LARGE && room(s, form));
        let peaks = peaks(&machine, &past, large, context.quiet)?;
        let mut choices = Vec::new();
        for (subject, forms) in &forms {
            choices.extend(rank(
                forms.iter().flat_map(|form| self.choices(subject, form, &machine, &peaks, &past)),
            ));
        }
        if self.json.json {
            output::json(&json!({
                "machine": machine, "peaks": peaks, "records": past.len(), "error": past.error(),
                "quality_order": QUALITY, "choices": choices,
            }))
        } else {
            output::print(&text(&machine, &peaks, &past, &choices))
        }
    }

    fn subjects(&self, context: &Context) -> anyhow::Result<Vec<Subject>> {
        let store = context.store()?;
        let mut names = self.model.clone();
        if names.is_empty() {
            names = store.list()?.into_iter().map(|entry| entry.name.into()).collect();
        }
        if names.is_empty() {
            let none = Usage("no model was named, and none is on this machine".to_owned());
            return Err(none).advise("name one with -m: a file, a folder, a config.json or a name");
        }
        let open = |name: &OsString| -> anyhow::Result<Subject> {
            if let Some(config) = config_alone(name) {
                let spec = ModelSpec::from_config(&config)?;
                let folder = config.canonicalize().unwrap_or_else(|_| config.clone());
                let stem = folder.parent().and_then(Path::file_name).unwrap_or(name.as_os_str());
                let located = Located { name: stem.to_string_lossy().into_owned(), path: Some(config) };
                return Ok(Subject::new(name, located, spec, None));
            }
            let located = store.locate(name)?;
            let model = backends::open_model(&located)?;
            let model = model
                .ok_or_else(|| Usage("the mock model has no weights to predict speeds of".to_owned()))?;
            model.check()?;
            Ok(Subject::new(name, located, model.spec.clone(), Some(model)))
        };
        names.iter().map(open).collect()
    }

    fn context(&self, spec: &ModelSpec) -> usize {
        self.ctx.map_or(spec.context_length.min(CONTEXT), NonZeroUsize::get)
    }

    /// The records of the usual places that can be read, and those that were named.
    fn records(&self) -> anyhow::Result<Vec<(String, Record)>> {
        let mut found = Vec::new();
        for place in RECORDS {
            for path in files(Path::new(place)) {
                match read(&path) {
                    Ok(record) => found.push((path.display().to_string(), record)),
                    Err(error) => tracing::warn!("{} is left out: {error:#}", path.display()),
                }
            }
        }
        for place in &self.record {
            let paths = files(place);
            if paths.is_empty() {
                let place = place.display();
                return Err(advised(
                    format!("no record at {place}"),
                    "give a results.json that `zonda bench` wrote, or a folder that holds one",
                ));
            }
            for path in paths {
                let record = read(&path).with_context(|| path.display().to_string())?;
                found.push((path.display().to_string(), record));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup_by(|a, b| a.0 == b.0);
        Ok(found)
    }

    /// A form in each backend that runs it.
    fn choices(
        &self,
        subject: &Subject,
        way: &Way,
        machine: &Machine,
        peaks: &Peaks,
        past: &Past,
    ) -> Vec<Choice> {
        let (form, context) = (&way.form, self.context(&subject.spec));
        let choice = |&backend: &BackendKind| {
            let known = past.efficiency(backend.name(), form);
            let position = PROMPT.min(context) as f64;
            let speed = known.as_ref().map(|(e, _)| form.predict(*e, peaks, position));
            let measured = past.measured(backend.name(), form);
            let why = form.too_large(machine, context);
            let mut command = format!("zonda run -m {} --backend {}", way.file, backend.name());
            if let Some(quantize) = &way.quantize {
                let _ = write!(command, " --quantize {quantize}");
            }
            let _ = write!(command, " --ctx {context}");
            Choice {
                model: subject.name.clone(),
                backend: backend.name(),
                format: form.format.clone(),
                quant: form.quant.clone(),
                weights: form.weights.clone(),
                context,
                weights_bytes: form.weight_bytes,
                kv_bytes: form.kv_bytes(context),
                memory_bytes: form.memory_bytes(context),
                fits: why.is_none(),
                why,
                prefill_tps: speed.map(|s| s.prefill_tps),
                decode_tps: speed.map(|s| s.decode_tps),
                basis: known.map(|(_, basis)| basis),
                ratios: speed.zip(measured.as_ref()).map(|(s, m)| ratios(s, m)),
                measured,
                ready: way.needs.is_none(),
                needs: way.needs.clone(),
                command,
                recommended: false,
            }
        };
        way.backends.iter().map(choice).collect()
    }
}

/// A form, and how to come to it.
struct Way {
    form: Form,
    backends: Vec<BackendKind>,
    /// What `-m` takes.
    file: String,
    quantize: Option<String>,
    /// What is missing.
    needs: Option<String>,
}

impl Subject {
    fn new(given: &OsStr, located: Located, spec: ModelSpec, model: Option<Arc<Model>>) -> Subject {
        let given = quoted(&given.to_string_lossy());
        Subject { name: located.name.clone(), given, located, spec, model }
    }

    /// The model as it is, what `--quantize` makes of it, and the usual quantisations that there could be files of.
    fn forms(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = Vec::new();
        let real = || BackendKind::AVAILABLE.iter().copied().filter(|kind| *kind != BackendKind::Mock);
        if let Some(model) = &self.model
            && let Some(form) = Form::stored(model)
        {
            // MLX holds the weights of a GGUF file in other types than the file has
            let exact = |kind: &BackendKind| *kind != BackendKind::Mlx || model.format != Format::Gguf;
            let backends = real().filter(|kind| kind.reads(&self.located)).filter(exact).collect();
            ways.push(Way { form, backends, file: self.given.clone(), quantize: None, needs: None });
            if model.format == Format::SafeTensors {
                let mixes =
                    backends::QUANTIZATIONS.iter().filter_map(|name| Some((*name, name.parse().ok()?)));
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
            // SafeTensors of the same type are the same model in another wrapping, but for llama.cpp, which reads none
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

/// Every `results.json` at or below a path.
fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let below = entries.flatten().flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        Ok(kind) if kind.is_file() && entry.file_name() == "results.json" => vec![entry.path()],
        _ => Vec::new(),
    });
    below.collect()
}

fn read(path: &Path) -> anyhow::Result<Record> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// The machine's ceilings as measured now or in the newest record, whichever is higher: what was disturbed says nothing
/// about a limit.
fn peaks(machine: &Machine, past: &Past, large: bool, quiet: bool) -> anyhow::Result<Peaks> {
    let isa = Isa::best();
    let _spinner = Spinner::start("measuring what the machine can do", quiet);
    let large = large && machine.available_bytes > 2 * LARGE_BYTES as u64;
    let probed = Probed::measure(isa, cpus::default_threads(), EACH, large);
    let mut now = doctor::peaks(isa, probed.context("measuring the memory's speed")?);
    let Some(mut before) =
        past.peaks().filter(|p| p.threads == now.threads && p.instruction_set == now.instruction_set)
    else {
        return Ok(now);
    };
    now.read_large_bytes_per_s = now.read_large_bytes_per_s.or(before.read_large_bytes_per_s);
    before.read_large_bytes_per_s = before.read_large_bytes_per_s.or(now.read_large_bytes_per_s);
    let both = Ceilings { before: Some(before), after: Some(now.clone()), why: None };
    Ok(both.best().unwrap_or(now))
}

/// What fits first, the fastest decode first; the recommended one is marked.
fn rank(choices: impl Iterator<Item = Choice>) -> Vec<Choice> {
    let mut choices: Vec<Choice> = choices.collect();
    let speed = |c: &Choice| c.decode_tps.unwrap_or(0.0);
    choices.sort_by(|a, b| {
        let order = b.fits.cmp(&a.fits).then(speed(b).total_cmp(&speed(a)));
        order.then(quality(&a.quant).cmp(&quality(&b.quant)))
    });
    let any_ready = choices.iter().any(|c| c.fits && c.ready && c.decode_tps.is_some());
    let able = |c: &&mut Choice| c.fits && c.decode_tps.is_some() && (c.ready || !any_ready);
    let fastest = choices.iter_mut().find(able).map(|c| speed(c));
    if let Some(fastest) = fastest {
        let near = choices.iter_mut().filter(able).filter(|c| speed(c) >= (1.0 - WORTH) * fastest);
        // of equal quality the first, which is the fastest
        if let Some(best) = near.min_by_key(|c| quality(&c.quant)) {
            best.recommended = true;
        }
    }
    choices
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+=@~".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn text(machine: &Machine, peaks: &Peaks, past: &Past, choices: &[Choice]) -> String {
    let mut out = String::new();
    let read = peaks.read_large_bytes_per_s.unwrap_or(peaks.read_bytes_per_s).all_threads / 1e9;
    let bf16 =
        peaks.bf16_ops_per_s.map_or(String::new(), |r| format!(", {:.2} TFLOPS bf16", r.all_threads / 1e12));
    let _ = writeln!(
        out,
        "This machine: {read:.1} GB/s read, {:.2} TOPS int8{bf16}, {:.2} TFLOPS f32; {} of memory available{}.",
        peaks.int8_ops_per_s.all_threads / 1e12,
        peaks.f32_ops_per_s.all_threads / 1e12,
        human_bytes(machine.available_bytes),
        machine
            .cgroup_memory_bytes
            .map_or(String::new(), |b| format!(", the control group allows {}", human_bytes(b))),
    );
    let _ = writeln!(out, "{}", past_sentence(past.len(), past.error()));
    let mut rest = choices;
    while let Some(first) = rest.first() {
        let (these, others) = rest.split_at(rest.iter().take_while(|c| c.model == first.model).count());
        table(&mut out, these);
        rest = others;
    }
    out
}

fn past_sentence(records: usize, error: Error) -> String {
    let off = |what: &str, error: Option<f64>, cells: usize| {
        error.map(|e| format!("{:.0}% ({what}, {cells} cells)", 100.0 * e))
    };
    let offs =
        [off("prefill", error.prefill, error.prefill_cells), off("decode", error.decode, error.decode_cells)];
    let offs = offs.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let from = "predictions rest on a built-in table that was measured on a 2-core Zen 5 machine";
    match (records, offs.as_str()) {
        (0, _) => format!("No record of this machine: {from}; `zonda bench` makes one."),
        (n, "") => {
            format!("{n} of this machine's records were found, with no share of a limit in them: {from}.")
        }
        (n, offs) => format!(
            "{n} of this machine's records were found; predicting each from the others alone was off by {offs} in the median."
        ),
    }
}

fn table(out: &mut String, choices: &[Choice]) {
    let first = &choices[0];
    let _ =
        writeln!(out, "\n{}, context {}; tokens/s after a prompt of {PROMPT}:\n", first.model, first.context);
    let head =
        ["", "backend", "format", "quant", "decode", "prefill", "memory", "measured decode, prefill", ""];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for c in choices.iter().filter(|c| c.fits) {
        let tps = |v: Option<f64>| v.map_or("unknown".to_owned(), figure);
        let measured = c.measured.as_ref().map_or("-".to_owned(), |m| {
            let one = |v: Option<f64>| v.map_or("-".to_owned(), figure);
            format!("{}, {}", one(m.decode_tps), one(m.prefill_tps))
        });
        rows.push(vec![
            if c.recommended { "*" } else { "" }.to_owned(),
            c.backend.to_owned(),
            c.format.clone(),
            c.quant.clone(),
            tps(c.decode_tps),
            tps(c.prefill_tps),
            human_bytes(c.memory_bytes),
            measured,
            c.needs.as_ref().map_or(String::new(), |needs| format!("needs {needs}")),
        ]);
    }
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in rows.iter().filter(|_| choices.iter().any(|c| c.fits)) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    for c in choices {
        if let Some(why) = &c.why {
            let _ = writeln!(out, "  doesn't fit: {} in {} on {}: {why}", c.format, c.quant, c.backend);
        }
    }
    let order = QUALITY.join(", ");
    let _ = match choices.iter().find(|c| c.recommended) {
        None => writeln!(out, "\nNothing can be recommended: none of these fits and has a known speed."),
        Some(c) => {
            let get = c.needs.as_ref().map_or(String::new(), |needs| format!(" (get {needs} first)"));
            writeln!(
                out,
                "\n* the fastest decode{}, or better quality within {:.0}% of it; by quality: {order}.\nRun{get}:\n  {}",
                if c.ready { " of what is here" } else { "" },
                100.0 * WORTH,
                c.command
            )
        }
    };
}
