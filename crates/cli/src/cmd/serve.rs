//! `zonda serve`: the flags of the HTTP server, which is the crate `zonda-server`.

use crate::args::{JsonArg, OpenArgs, ReasoningArgs, ShiftArgs, SpeculateArgs};
use crate::context::Context;
use crate::error::{Advice as _, Interrupted, Usage};
use crate::{descriptors, interrupt, output};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;
use zonda::{BackendKind, CacheLocation, Located, Model, OpenOptions, Sharing};
use zonda_server::listen::{Listen, Tls, serve};
use zonda_server::{Config, Keys, ModelSource, Reports, Server};

/// Serve models over HTTP with OpenAI's API
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    zonda serve -m smollm2-135m\n  \
    zonda serve -m model.gguf -m other.gguf --max-memory 8 --port 8000\n  \
    zonda serve -m model.gguf --backend native,llama-cpp\n  \
    zonda serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem\n\n\
    Then: curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n\n\
    SIGTERM or Ctrl-C ends the server once the running requests are done. Environment: ZONDA_API_KEY (keys, separated by commas).")]
pub struct Serve {
    /// A model; may be repeated.
    #[arg(short, long = "model", value_name = "MODEL", required = true)]
    models: Vec<OsString>,
    /// The backend; by default the best that can load the model. With several, separated by commas, each runs every model
    /// that it reads: the first under the model's name, the others as MODEL@BACKEND.
    #[arg(long, value_delimiter = ',', value_parser = crate::args::values::backend())]
    backend: Vec<BackendKind>,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0: any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A key that requests must have; may be repeated. Other users of this machine can see it, so prefer --api-key-file.
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// A file with one key per line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    web: WebArgs,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    shift: ShiftArgs,
    #[command(flatten)]
    reasoning: ReasoningArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
}

/// How requests share a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// Sequences that run at once [default: the number, up to 16, that is measured to give the most tokens per second].
    #[arg(long, value_name = "N")]
    parallel: Option<NonZeroUsize>,
    /// Number of requests that may wait while all slots are in use; further ones are refused with status 429.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Maximum prompt tokens in a step in which other requests decode.
    #[arg(long, value_name = "N", default_value = "256")]
    prefill_chunk: NonZeroUsize,
    /// Give a request with a seed the same tokens whatever runs at the same time. Backends whose results depend on the batch
    /// then run one request at a time.
    #[arg(long)]
    deterministic: bool,
    /// Compute every prompt in full, without reusing cached prefixes.
    #[arg(long)]
    no_prefix_cache: bool,
    /// Keep the KV cache of prompts in this folder, for later processes too; for every loaded model.
    #[arg(long, value_name = "DIR", conflicts_with = "no_prefix_cache")]
    prompt_cache: Option<PathBuf>,
    /// Maximum size of that folder, in GiB; the least recently used entries are deleted first.
    #[arg(long, value_name = "GIB", value_parser = gibibytes, default_value = "4", requires = "prompt_cache")]
    prompt_cache_size: u64,
    /// Maximum memory for weights, in GiB: models are loaded when a request needs them, and unloaded to make room.
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    max_memory: Option<u64>,
    /// Maximum tokens of an answer [default: what fits into the context; with --context-shift, 16 times the context, and as many as
    /// the whole context for requests without a limit].
    #[arg(long, value_name = "N")]
    max_tokens: Option<NonZeroUsize>,
    /// Maximum answers in flight for one client: all requests with the same key, or without keys from the same address
    /// [default: as many as --queue, at least 16].
    #[arg(long, value_name = "N")]
    per_client: Option<NonZeroUsize>,
    /// Maximum time for a request, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    timeout: Duration,
    /// Maximum time that running requests may continue after SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain_timeout: Duration,
    /// Seed of the mock's text.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Duration of the mock's steps in milliseconds, to test clients with a slow model.
    #[arg(long, value_name = "MS")]
    mock_step: Option<u64>,
    /// Faults of the mock, to test clients: KIND:TOKEN, separated by commas. Each step that computes the token fails; kinds are
    /// error, panic, nan and slow.
    #[arg(long, value_name = "FAULTS")]
    mock_faults: Option<String>,
}

/// Who may reach the server, and what it shows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Web")]
struct WebArgs {
    /// An origin whose web pages may use the API, or `*`; may be repeated [default: none].
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Turn names of control tokens in chat messages into these tokens. The author of a message can then end it and write one
    /// in another role.
    #[arg(long)]
    parse_special: bool,
    /// Maximum number of open connections from one address.
    #[arg(long, value_name = "N", default_value = "1024")]
    connections_per_address: NonZeroUsize,
    /// Seconds after which a client that reads nothing of its answer is disconnected.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    write_timeout: Duration,
    /// A further name to accept in the Host header; may be repeated [default, without keys: local names and addresses].
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A certificate chain in PEM, for TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Maximum size of a request body, in bytes.
    #[arg(long, value_name = "BYTES", default_value = "8388608")]
    max_body: NonZeroUsize,
    /// Leave the system block that begins with `x-anthropic-billing-header:` in the prompts of /v1/messages. It changes with
    /// each request, so that nothing after it is found in the prefix cache.
    #[arg(long)]
    keep_billing_header: bool,
    /// Maximum number of answers of /v1/responses that are stored for `previous_response_id`, in memory; 0: none.
    #[arg(long, value_name = "N", default_value = "1024")]
    stored_responses: usize,
    /// Maximum size of the stored answers together, in bytes of JSON.
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    stored_bytes: usize,
    /// The bench report that the web page shows [default: the newest in results/].
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write prompts and answers into the log.
    #[arg(long)]
    log_prompts: bool,
    /// Format of the log.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// Threads that serve connections, one per CPU.
///
/// # Errors
/// If the system can't start them: tokio would panic, and then wait for ever while it unwinds.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    // All at once, and one more for blocking work.
    let started: Vec<_> = (0..=workers)
        .map(|_| {
            let wait = wait.clone();
            std::thread::Builder::new().spawn(move || drop(wait.lock().map(|wait| wait.recv())))
        })
        .collect();
    drop(release);
    started.into_iter().try_for_each(|thread| thread.map(|thread| drop(thread.join())))?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

impl Serve {
    /// The format of the log.
    pub fn log_format(&self) -> LogFormat {
        self.web.log_format
    }

    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let _graceful = interrupt::graceful();
        let tls = self.tls()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let defaults = Listen::default();
        // Files, logs and models need some descriptors, too.
        let descriptors = descriptors::raise().saturating_sub(128).max(64);
        let listen = Listen {
            tls,
            drain: self.load.drain_timeout,
            write_timeout: self.web.write_timeout,
            max_connections: defaults.max_connections.min(descriptors),
            max_per_address: self.web.connections_per_address.get(),
            ..defaults
        };
        let server = Server::new(self.config()?, self.sources(context)?).map_err(|e| Usage(e.to_string()))?;
        let runtime = runtime().context("starting threads")?;
        let result = runtime.block_on(async {
            let address = (self.host, self.port);
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {}:{}", self.host, self.port))
                .advise("choose another --port, or end the program that uses this one")?;
            let url = format!("{scheme}://{}", listener.local_addr()?);
            let serving = tokio::spawn(serve(listener, server.clone(), listen, interrupted()));
            // The server answers from here on: `/ready` tells when the models are loaded.
            tokio::select! {
                loaded = server.models().load_first() => loaded?,
                () = interrupted() => return Err(Interrupted.into()),
            }
            let names: Vec<&str> = server.models().list().iter().map(|(name, _)| *name).collect();
            if self.json.json {
                output::json(&json!({"url": url, "models": names}))?;
            }
            tracing::info!(url, models = names.join(", "), "ready");
            let all_ended = serving.await?;
            if !all_ended {
                tracing::warn!("requests were cut off at the end of --drain-timeout");
            }
            Ok(())
        });
        // Does not wait for a model that is being loaded or for a request that was cut off.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }

    fn config(&self) -> anyhow::Result<Config> {
        let keys = self.keys()?;
        let local = self.host.is_loopback();
        if keys.is_empty() && !local {
            tracing::warn!("{} is open to everyone who can reach it: set an --api-key", self.host);
        }
        let defaults = Config::default();
        let hosts = match (&self.web.allow_host[..], defaults.hosts) {
            // A web page elsewhere has no key, so with keys any name may be used.
            ([], Some(_)) if !keys.is_empty() => None,
            (named, known) => Some(named.iter().cloned().chain(known.unwrap_or_default()).collect()),
        };
        Ok(Config {
            keys: Keys::new(keys),
            cors: self.web.cors.clone(),
            hosts,
            max_body: self.web.max_body.get(),
            max_tokens: self.load.max_tokens.map(NonZeroUsize::get),
            max_per_client: Some(self.load.per_client.map_or(self.load.queue.max(16), NonZeroUsize::get)),
            deadline: Some(self.load.timeout),
            separate_reasoning: self.reasoning.separate(),
            parse_special: self.web.parse_special,
            max_model_bytes: self.load.max_memory,
            prefix_cache: !self.load.no_prefix_cache,
            context_shift: self.shift.shift(),
            keep_billing_header: self.web.keep_billing_header,
            stored_responses: self.web.stored_responses,
            stored_bytes: self.web.stored_bytes,
            log_prompts: self.web.log_prompts,
            reports: match &self.web.report {
                Some(file) => Reports::File(file.clone()),
                None => Reports::Newest("results".into()),
            },
            ..Config::default()
        })
    }

    /// Keys from the flags, the file and the environment.
    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let before = keys.len();
            keys.extend(
                text.lines()
                    .map(str::trim)
                    .filter(|l| !l.is_empty() && !l.starts_with('#'))
                    .map(str::to_owned),
            );
            if keys.len() == before {
                return Err(
                    Usage(format!("{}: expected one key per line, found none", path.display())).into()
                );
            }
        }
        let variable = std::env::var("ZONDA_API_KEY").unwrap_or_default();
        keys.extend(variable.split(',').map(str::trim).filter(|k| !k.is_empty()).map(str::to_owned));
        match keys.iter().any(|k| k.trim().is_empty()) {
            true => Err(Usage("--api-key: expected a key, found an empty one".into()).into()),
            false => Ok(keys),
        }
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let (Some(certificate), Some(key)) = (&self.web.tls_cert, &self.web.tls_key) else { return Ok(None) };
        let tls = Tls::from_files(certificate, key);
        Ok(Some(
            tls.advise("--tls-cert takes a chain of certificates, --tls-key its private key, both in PEM")?,
        ))
    }

    /// The models, located and inspected but not loaded.
    fn sources(&self, context: &Context) -> anyhow::Result<Vec<ModelSource>> {
        let store = context.store()?;
        let sharing = Sharing {
            parallel: self.load.parallel.map(NonZeroUsize::get),
            queue: self.load.queue,
            prefill_chunk: self.load.prefill_chunk.get(),
            deterministic: self.load.deterministic,
        };
        let options = OpenOptions {
            mock_step: self.load.mock_step,
            mock_faults: self.load.mock_faults.clone(),
            ..self.open.options(self.load.seed)
        };
        let options = self.speculate.speculation(&store)?.apply(options);
        let prompts = self.load.prompt_cache.clone();
        let prompts = prompts.map(|path| CacheLocation::Folder { path, most: self.load.prompt_cache_size });
        let mut sources = Vec::new();
        for name in &self.models {
            let located = store.locate(name)?;
            for (i, kind) in self.kinds(&located)?.into_iter().enumerate() {
                let builder = Model::builder_at(located.clone())
                    .backend(kind)
                    .options(options.clone())
                    .sharing(sharing)
                    .prompt_cache(prompts.clone());
                let source = ModelSource::of(builder)?;
                sources.push(if i == 0 { source } else { source.beside() });
            }
        }
        Ok(sources)
    }

    /// The backends that run a model.
    fn kinds(&self, model: &Located) -> anyhow::Result<Vec<BackendKind>> {
        let mut kinds = match self.backend[..] {
            [] => return Ok(vec![zonda::choose(None, model)?]),
            [one] => return Ok(vec![zonda::choose(Some(one), model)?]),
            ref several => several.to_vec(),
        };
        for (i, kind) in kinds.iter().enumerate() {
            kind.check_available()?;
            if kinds[..i].contains(kind) {
                return Err(Usage(format!("--backend: {} is named twice", kind.name())).into());
            }
        }
        kinds.retain(|kind| kind.reads(model) && zonda::unfit(*kind, model).is_none());
        match kinds[..] {
            [] => Err(Usage(format!("--backend: none of these backends runs {}", model.name)).into()),
            _ => Ok(kinds),
        }
    }
}

/// Resolves after Ctrl-C or SIGTERM.
async fn interrupted() {
    while !interrupt::pressed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Seconds, whole or not.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    parsed.filter(|d| !d.is_zero()).ok_or_else(|| "expected seconds, such as 30".to_owned())
}

fn gibibytes(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<f64>().ok().filter(|g| *g > 0.0 && *g < 1e6);
    parsed.map(|g| (g * f64::from(1 << 30)) as u64).ok_or_else(|| "expected GiB, such as 8".to_owned())
}
