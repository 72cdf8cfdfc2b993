//! `zonda recommend`: which backend, format and quantisation to run here, predicted before anything is downloaded or
//! loaded.

mod check;
mod choice;
mod rank;
mod subject;
mod text;

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::{Advice as _, Usage, advised};
use crate::output::{self, Spinner};
use anyhow::Context as _;
use choice::Choice;
use clap::Args;
use rank::rank;
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use subject::{Subject, Way};
use text::text;
use zonda::BackendKind;
use zonda_bench::Record;
use zonda_bench::analyse::predict::past::{PROMPT, Past};
use zonda_bench::analyse::predict::{Form, QUALITY};
use zonda_bench::machine::Machine;
use zonda_bench::record::{LARGE, Peaks, Roofline};
use zonda_engine::load::ModelSpec;
use zonda_kernels::Isa;
use zonda_kernels::probe::{self, EACH, LARGE_BYTES};
use zonda_machine::cpus;

/// Where records are looked for, below the current folder.
const RECORDS: [&str; 2] = ["results", "benchmarks/record"];
/// The context that is assumed if the model's own is longer.
const CONTEXT: usize = 4096;

/// Recommend a backend, format and quantisation for this machine, and predict its speed
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  zonda recommend -m smollm2-135m\n  zonda recommend -m folder/config.json --ctx 8192\n  \
    zonda recommend -m mistral-7b\n  zonda recommend --check results/today\n  zonda recommend -m model.gguf --json | jq '.choices[0].command'\n\n\
    A model's config.json is enough, and so is a name that `zonda synth` knows; nothing is loaded or downloaded. \
    Speeds are predicted from this machine's limits, measured now, and from the share of them that backends reached in \
    records of this machine (results/ and benchmarks/record/), else in a built-in table. The speeds are the processor's."
)]
pub struct Recommend {
    /// The model: a path, a config.json, a name, or a shape that `zonda synth` knows; may be repeated [default: those that are on this machine].
    #[arg(short, long, value_name = "MODEL")]
    model: Vec<OsString>,
    /// Context length to plan for, in tokens [default: the model's, at most 4096].
    #[arg(long, value_name = "N")]
    ctx: Option<NonZeroUsize>,
    /// Another record, or a folder of records; may be repeated.
    #[arg(long, value_name = "PATH")]
    record: Vec<PathBuf>,
    /// Compare a record with what would have been predicted for it, cell by cell; needs no weights.
    #[arg(long, value_name = "RECORD", conflicts_with_all = ["model", "ctx"])]
    check: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl Recommend {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        if let Some(place) = &self.check {
            let path = check::find(place, files(place))?;
            let record = read(&path).with_context(|| path.display().to_string())?;
            return check::print(&path, record, self.records()?, self.json.json);
        }
        let subjects = self.subjects(context)?;
        let machine = Machine::probe();
        let past = Past::of(&machine, self.records()?);
        let forms: Vec<_> = subjects.iter().map(|s| (s, s.forms())).collect();
        let room = |s: &Subject, form: &Form| form.too_large(&machine, self.context(&s.spec)).is_none();
        let mut all = forms.iter().flat_map(|(s, forms)| forms.iter().map(move |f| (*s, &f.form)));
        let large = all.any(|(s, form)| form.cost.decode_bytes > LARGE && room(s, form));
        let peaks = peaks(&machine, &past, large, context.quiet)?;
        let choices: Vec<Vec<Choice>> = forms
            .iter()
            .map(|(subject, forms)| {
                rank(forms.iter().flat_map(|form| self.choices(subject, form, &machine, &peaks, &past)))
            })
            .collect();
        if self.json.json {
            let choices: Vec<&Choice> = choices.iter().flatten().collect();
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
        names.iter().map(|name| Subject::find(name, &store)).collect()
    }

    fn context(&self, spec: &ModelSpec) -> usize {
        self.ctx.map_or(spec.context_length.min(CONTEXT), NonZeroUsize::get)
    }

    /// The readable records in the usual places, and those that were named.
    fn records(&self) -> anyhow::Result<Vec<(String, Record)>> {
        let mut found = Vec::new();
        for place in RECORDS {
            for path in files(Path::new(place)) {
                match read(&path) {
                    Ok(record) => found.push((path.display().to_string(), record)),
                    Err(error) => tracing::warn!("{} is skipped: {error:#}", path.display()),
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

    /// A form on each backend that runs it.
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
            let prompt = PROMPT.min(context);
            let speed = known.as_ref().map(|(share, _)| form.predict(backend.name(), *share, peaks, prompt));
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
                shares: known.as_ref().map(|(share, _)| *share),
                basis: known.map(|(_, basis)| basis),
                measured: past.measured(backend.name(), form),
                quality: past.quality(backend.name(), form),
                ready: way.needs.is_none(),
                needs: way.needs.clone(),
                command,
                recommended: false,
            }
        };
        way.backends.iter().map(choice).collect()
    }
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

/// The machine's limits, as measured now or in the newest record, whichever is higher: a disturbed measurement is too
/// low.
fn peaks(machine: &Machine, past: &Past, large: bool, quiet: bool) -> anyhow::Result<Peaks> {
    let _spinner = Spinner::start("measuring the machine's limits", quiet);
    let large = large && machine.room().0 > 2 * LARGE_BYTES as u64;
    let measured = probe::measure(Isa::best(), cpus::default_threads(), EACH, large);
    let mut now = measured.context("measuring the memory's speed")?;
    let Some(mut before) =
        past.peaks().filter(|p| p.threads == now.threads && p.instruction_set == now.instruction_set)
    else {
        return Ok(now);
    };
    now.read_large_bytes_per_s = now.read_large_bytes_per_s.or(before.read_large_bytes_per_s);
    before.read_large_bytes_per_s = before.read_large_bytes_per_s.or(now.read_large_bytes_per_s);
    let both = Roofline { before: Some(before), after: Some(now.clone()), why: None };
    Ok(both.best().unwrap_or(now))
}
