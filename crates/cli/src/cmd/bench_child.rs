//! One backend of `zonda bench`, in its own process: the hidden subcommand that the bench starts. The crate `zonda-bench`
//! defines what a child does; this file does it with the crate `zonda`.

use anyhow::Context as _;
use std::process::ExitCode;
use std::sync::Arc;
use zonda::{BackendKind, Located, Model, ModelFiles, OpenOptions};
use zonda_bench::analyse::model_cost;
use zonda_bench::host::{Host, OnLogits, Opened, Reader};
use zonda_bench::record::Peaks;
use zonda_bench::{ChildSpec, Subject};
use zonda_engine::forward::Backend;
use zonda_engine::{TextProcessor, TokenId};
use zonda_kernels::pool::Pool;
use zonda_kernels::{Isa, probe};
use zonda_machine::cpus;

/// Memory that is read before and after runs, in bytes: far more than any cache.
const READ: usize = 512 << 20;
/// Number of measurements, each of which reads twice [`READ`]; the best counts.
const READINGS: usize = 8;

/// Serves the parent process.
pub fn run() -> ExitCode {
    zonda_bench::child_main(&Child)
}

/// The backends of this build, for the bench.
pub(super) struct Child;

impl Host for Child {
    fn open(&self, spec: &ChildSpec) -> Result<Opened, String> {
        open(spec).map_err(said)
    }

    fn text(&self, subject: &Subject) -> Result<(Option<TextProcessor>, usize), String> {
        let model = model(subject).map_err(said)?;
        let text = zonda::text_of(model.as_deref()).map_err(|e| e.sentence())?;
        let vocab = model.map(|m| m.spec.vocab_size).or_else(|| Some(text.as_ref()?.tokenizer.vocab_size()));
        Ok((text, vocab.unwrap_or(0)))
    }

    fn backend(&self, subject: &Subject, context: usize) -> Result<Box<dyn Backend>, String> {
        let opened = kind(subject).and_then(|kind| {
            let model = model(subject)?;
            let mut options = OpenOptions::from_map(&subject.options)?;
            options.ctx = Some(context);
            Ok(zonda::open_backend(kind, model.as_ref(), &options)?)
        });
        opened.map_err(said)
    }

    fn reference(
        &self,
        subject: &Subject,
        sequences: &[Vec<TokenId>],
        on_logits: &mut OnLogits<'_>,
    ) -> Result<String, String> {
        let (model, options) = model(subject)
            .and_then(|model| {
                Ok((model.context("a model in a file")?, OpenOptions::from_map(&subject.options)?))
            })
            .map_err(said)?;
        zonda::reference(&model, options.threads, sequences, on_logits)?;
        Ok("the file's weights as f32, with f32 activations, keys and values".to_owned())
    }

    fn peaks(&self, subject: &Subject, large: bool) -> Result<Peaks, String> {
        let options = OpenOptions::from_map(&subject.options).map_err(|e| e.sentence())?;
        let threads = options.threads.unwrap_or_else(cpus::default_threads);
        probe::measure(Isa::best(), threads, probe::EACH, large).map_err(|e| e.to_string())
    }

    fn reader(&self, subject: &Subject) -> Result<Reader, String> {
        let options = OpenOptions::from_map(&subject.options).map_err(|e| e.sentence())?;
        let threads = options.threads.unwrap_or_else(cpus::default_threads);
        let pool = Pool::start_threads(threads).map_err(|e| e.to_string())?;
        let mut stream = probe::Stream::new(Isa::best(), &pool, READ).map_err(|e| e.to_string())?;
        drop(pool);
        Ok(Box::new(move || {
            // The pool lives for one reading only: waiting threads would take the cores from the run that follows.
            let pool = Pool::new(threads);
            (0..READINGS).map(|_| stream.read(&pool, 2 * READ)).fold(0.0, f64::max)
        }))
    }

    fn cpus(&self, subject: &Subject) -> Vec<usize> {
        let threads = OpenOptions::from_map(&subject.options).ok().and_then(|options| options.threads);
        let threads = threads.unwrap_or_else(cpus::default_threads);
        // Threads that are not pinned may use all allowed cores.
        Some(cpus::pins(threads)).filter(|pins| !pins.is_empty()).unwrap_or_else(cpus::allowed_cores)
    }
}

fn open(spec: &ChildSpec) -> anyhow::Result<Opened> {
    let subject = &spec.subject;
    let kind = kind(subject)?;
    let model = model(subject)?;
    let text = zonda::text_of(model.as_deref())?;
    let mut options = OpenOptions::from_map(&subject.options)?;
    if options.ctx.is_none() {
        let most = model.as_ref().map_or(usize::MAX, |m| m.spec.context_length);
        options.ctx = Some(spec.context_needed(text.as_ref()).min(most));
    }
    let engine = Model::from_files(kind, model.clone(), text, options)?.into_engine();
    let cost = model.and_then(|model| model_cost::of_subject(&model, &engine, subject));
    Ok(Opened { engine, cost })
}

fn kind(subject: &Subject) -> anyhow::Result<BackendKind> {
    BackendKind::named(&subject.backend).with_context(|| format!("no backend {}", subject.backend))
}

fn model(subject: &Subject) -> anyhow::Result<Option<Arc<ModelFiles>>> {
    let located = Located { name: subject.model.clone(), path: subject.path.clone() };
    Ok(zonda::open_files_for(kind(subject)?, &located)?)
}

fn said(error: anyhow::Error) -> String {
    format!("{error:#}")
}
