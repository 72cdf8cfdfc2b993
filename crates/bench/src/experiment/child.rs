//! The child's side: opens one engine, runs the requested commands, reports results and times.
//!
//! The child makes no decisions: the parent decides the order, the warm-up and what counts as a failure.

use crate::analyse::model_cost::shape;
use crate::eval::perplexity::Perplexity;
use crate::eval::quality;
use crate::eval::quality::QualitySpec;
use crate::eval::reference;
use crate::experiment::plan::{WARM_PROMPT, WARM_TOKENS};
use crate::experiment::protocol;
use crate::experiment::protocol::{FrameError, FromChild, RunSpec, ToChild};
use crate::files::hash_ids;
use crate::host::{ChildSpec, Host, Opened, Reader};
use crate::isolate;
use crate::record::comparison::LogitsSummary;
use crate::record::config::Work;
use crate::record::process::{LoadReport, RunReport};
use crate::record::timeline::TimeLine;
use crate::rng::Rng;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use zonda_engine::tokenize::Message;
use zonda_engine::{
    Engine, Event, FinishReason, Outcome, Prompt, Request, SamplingParams, TextProcessor, TokenId,
};
use zonda_machine::usage::Span;

/// The interval of progress messages to the parent.
const PROGRESS: Duration = Duration::from_millis(500);

/// Serves the parent until it sends the command to quit.
///
/// The program's `main` calls this for the hidden subcommand that [`crate::Launcher`] starts, before it writes anything to
/// stdout, which the protocol uses.
pub fn child_main(host: &dyn Host) -> ExitCode {
    match take_stdout().map_err(FrameError::from).and_then(|mut out| serve(host, &mut out)) {
        // The pipe is closed: the parent has ended, so there is nothing to report.
        Ok(()) | Err(FrameError::Closed) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` would panic if nobody reads standard error either.
            let _ = writeln!(std::io::stderr(), "the bench's parent process can't be reached: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(host: &dyn Host, out: &mut impl Write) -> Result<(), FrameError> {
    let commands = read_commands()?;
    protocol::write(out, &FromChild::Hello { protocol: protocol::VERSION })?;
    let mut engine: Option<Engine> = None;
    let mut reader: Option<Reader> = None;
    for command in commands {
        let answer = match (command?, &engine) {
            (ToChild::Quit, _) => return Ok(()),
            (ToChild::Open(_), Some(_)) => FromChild::Failed { why: "an engine is open already".into() },
            (ToChild::Open(spec), None) => match load(host, &spec) {
                Ok((opened, report)) => {
                    engine = Some(opened);
                    FromChild::Opened(Box::new(report))
                }
                Err(why) => FromChild::Failed { why },
            },
            (ToChild::Peaks { subject, large }, _) => match host.peaks(&subject, large) {
                Ok(peaks) => FromChild::Peaks(Box::new(peaks)),
                Err(why) => FromChild::Failed { why },
            },
            (ToChild::Read(subject), _) => match reader.take().map_or_else(|| host.reader(&subject), Ok) {
                Ok(mut ready) => {
                    let bytes_per_s = ready();
                    reader = Some(ready);
                    FromChild::Read { bytes_per_s }
                }
                Err(why) => FromChild::Failed { why },
            },
            (ToChild::Reference(spec), _) => or_failed(reference::write(host, &spec), |(form, prompts)| {
                FromChild::Reference { form, prompts }
            }),
            (ToChild::Compare(spec), _) => or_failed(reference::compare(host, &spec), |(found, backend)| {
                FromChild::Compared { found: Box::new(found), backend: Box::new(backend) }
            }),
            (ToChild::QualityReference(spec), _) => {
                or_failed(quality::write_reference(host, &spec), |form| FromChild::QualityReference { form })
            }
            (ToChild::Quality(spec), _) => {
                or_failed(measure_quality(host, &spec, out)?, |(found, compared)| FromChild::Quality {
                    found,
                    compared: compared.map(Box::new),
                })
            }
            (ToChild::Run(_), None) => FromChild::Failed { why: "no engine is open".into() },
            (ToChild::Run(spec), Some(engine)) => match request(engine, &spec, out)? {
                Ok(report) => FromChild::Done(Box::new(report)),
                Err(why) => FromChild::Failed { why },
            },
        };
        protocol::write(out, &answer)?;
    }
    Err(FrameError::Closed)
}

fn or_failed<T>(result: Result<T, String>, answer: impl FnOnce(T) -> FromChild) -> FromChild {
    result.map_or_else(|why| FromChild::Failed { why }, answer)
}

/// Measures the quality of a subject. Reports every window to the parent, so that a slow backend does not time out. The outer
/// error is the pipe's.
#[allow(clippy::type_complexity)] // the pipe's error, the measurement's error, and its two figures
fn measure_quality(
    host: &dyn Host,
    spec: &QualitySpec,
    out: &mut impl Write,
) -> Result<Result<(Perplexity, Option<LogitsSummary>), String>, FrameError> {
    let mut pipe = Ok(());
    let measured = quality::measure(host, spec, &mut |tokens| {
        if pipe.is_ok() {
            pipe = protocol::write(out, &FromChild::Progress { tokens });
        }
    });
    pipe.map(|()| measured)
}

/// Commands, read on a separate thread: when the parent has ended, the process ends at once, even if the engine hangs.
fn read_commands() -> std::io::Result<Receiver<Result<ToChild, FrameError>>> {
    let (send, commands) = channel();
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let command = protocol::read::<ToChild>(&mut stdin);
            if matches!(command, Err(FrameError::Closed)) {
                std::process::exit(0);
            }
            let last = matches!(command, Err(_) | Ok(ToChild::Quit));
            if send.send(command).is_err() || last {
                break;
            }
        }
    };
    thread::Builder::new().name("zonda-commands".into()).spawn(read)?;
    Ok(commands)
}

fn load(host: &dyn Host, spec: &ChildSpec) -> Result<(Engine, LoadReport), String> {
    let kept = spec.isolate.then(|| isolate::keep_to(&host.cpus(&spec.subject)));
    let span = Span::begin();
    let began = Instant::now();
    let Opened { engine, cost } = host.open(spec)?;
    let load_ms = began.elapsed().as_secs_f64() * 1e3;
    let report = LoadReport {
        backend: engine.info().clone(),
        shape: shape(engine.spec()),
        context: engine.limits().context,
        has_tokenizer: engine.text().is_some(),
        load_ms,
        cost,
        kept_to: kept.clone().and_then(Result::ok),
        not_kept: kept.and_then(Result::err),
        usage: span.end().into(),
    };
    Ok((engine, report))
}

/// Runs one request. The outer error is the pipe's, the inner one the run's.
fn request(
    engine: &Engine,
    spec: &RunSpec,
    out: &mut impl Write,
) -> Result<Result<RunReport, String>, FrameError> {
    let prompt = prompt(&spec.work, engine.text(), engine.spec().vocab_size, spec.seed);
    let (send, ended) = channel();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let mut seen = Received::default();
    seen.ids.reserve(spec.max_tokens);

    let for_hash = prompt.clone();
    let span = Span::begin();
    let mut request = Request::new(prompt, spec.max_tokens);
    request.sampling = SamplingParams::greedy();
    request.ignore_eos = !spec.natural;
    request.prefix_cache = spec.cached;
    let t0 = request.t0;
    // Events are recorded on the engine's own thread, so no other thread must wake for each token.
    let submitted = engine.submit_with(request, move |event| {
        if let Some(end) = seen.note(event, t0) {
            send.send((std::mem::take(&mut seen), end)).ok();
        } else {
            counter.store(seen.ids.len(), Ordering::Relaxed);
        }
    });
    if let Err(error) = submitted {
        return Ok(Err(error.to_string()));
    }
    let mut told = 0;
    let (seen, end) = loop {
        match ended.recv_timeout(PROGRESS) {
            Ok(end) => break end,
            Err(RecvTimeoutError::Timeout) => {
                let tokens = count.load(Ordering::Relaxed);
                if tokens > told {
                    told = tokens;
                    protocol::write(out, &FromChild::Progress { tokens })?;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Err("the engine dropped the request".into())),
        }
    };
    let usage = span.end();
    Ok(end.and_then(|outcome| {
        if let Some(fault) = seen.fault {
            return Err(fault);
        }
        Ok(RunReport {
            timeline: seen.timeline,
            prompt_tokens: outcome.usage.prompt_tokens,
            cached_tokens: outcome.usage.cached_tokens,
            prefill_ms: outcome.timing.prefill.as_secs_f64() * 1e3,
            drafted_tokens: outcome.usage.drafted_tokens,
            accepted_tokens: outcome.usage.accepted_tokens,
            finish_reason: outcome.reason.as_str().into(),
            prompt_sha256: hash_ids(&for_hash.encode(engine.text()).map_err(|e| e.to_string())?),
            ids: seen.ids,
            text: seen.text,
            usage: usage.into(),
        })
    }))
}

/// The deliveries of a request so far.
#[derive(Default)]
struct Received {
    timeline: TimeLine,
    ids: Vec<TokenId>,
    text: String,
    fault: Option<String>,
}

impl Received {
    /// Records an event; returns the outcome if it is the last one.
    fn note(&mut self, event: Event, t0: Instant) -> Option<Result<Outcome, String>> {
        match event {
            Event::Tokens { ids, text, at, .. } => {
                // Text that was held back arrives without tokens.
                if let Ok(tokens @ 1..) = u32::try_from(ids.len())
                    && let Err(error) = self.timeline.push(at.saturating_duration_since(t0), tokens)
                {
                    self.fault = Some(error.to_string());
                }
                self.ids.extend(ids);
                self.text.push_str(&text);
                None
            }
            Event::Finished(outcome) => Some(match outcome.reason {
                FinishReason::Error(why) | FinishReason::Refused(why) => Err(why),
                _ => Ok(outcome),
            }),
            _ => None,
        }
    }
}

/// The prompt of a piece of work for a model. Random ids are below `vocab`.
fn prompt(work: &Work, text: Option<&TextProcessor>, vocab: usize, seed: u64) -> Prompt {
    let mut rng = Rng::new(seed, 0x1d5);
    let mut random = |n: usize| Prompt::Tokens((0..n).map(|_| rng.below(vocab) as TokenId).collect());
    match (work, text) {
        (Work::Prompt(n), _) => random(*n),
        (Work::Generate(_), text) => match text.and_then(|t| t.tokenizer.bos()) {
            Some(bos) => Prompt::Tokens(vec![bos]),
            None => random(1),
        },
        (Work::Scenario(s), None) => random(s.nominal_prompt_tokens),
        (Work::Scenario(s), Some(text)) if text.template.is_some() => {
            let system = s.system.iter().map(|system| Message::new("system", system));
            Prompt::chat(system.chain([Message::new("user", &s.prompt)]).collect())
        }
        // A base model without a chat template gets the same words as plain text.
        (Work::Scenario(s), Some(_)) => {
            let system = s.system.iter().map(|system| format!("{system}\n\n"));
            Prompt::Text(system.chain([s.prompt.clone()]).collect())
        }
    }
}

impl ChildSpec {
    /// The context in tokens that fits all planned work, for opening a backend without a context in its options. A multiple of
    /// 256. With the model's tokenizer it is counted exactly.
    pub fn context_needed(&self, text: Option<&TextProcessor>) -> usize {
        let longest = self.work.iter().map(|work| {
            // A prompt that can't be tokenised fails in its run, with the reason.
            let ids = prompt(work, text, 1, 0).encode(text);
            ids.map_or(0, |ids| ids.len()) + work.max_tokens()
        });
        // The prefill and answer of the warm-up must fit, too.
        longest.max().unwrap_or(0).max(WARM_PROMPT + WARM_TOKENS).next_multiple_of(256)
    }
}

/// Takes stdout for the protocol, and redirects all other output of the process (such as a library's) to stderr.
#[cfg(unix)]
fn take_stdout() -> std::io::Result<impl Write> {
    let own = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(std::fs::File::from(own))
}

#[cfg(not(unix))]
fn take_stdout() -> std::io::Result<impl Write> {
    Ok(std::io::stdout())
}
