//! `zonda bench serve`: measures any server with OpenAI's API under load. The load generator is in `zonda-bench`; this
//! file reads the flags and sends the requests.

use crate::args::JsonArg;
use crate::console::note;
use crate::context::Context;
use crate::error::{Advice as _, Interrupted, Usage, advised};
use crate::{interrupt, output};
use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};
use zonda::store::http::{agent_settings, install_tls};
use zonda_bench::loadgen::{
    Api, Arrivals, End, LatencyBounds, LoadPlan, LoadgenReport, Outcome, Refusal, Transport, request, run,
};
use zonda_bench::report::default_out;

/// Time limits: to connect, and for silence before or within an answer. The second is long because a long queue is not
/// a failure.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(600);
/// How much of a refusal's body is read at most, in bytes.
const REFUSAL: u64 = 64 << 10;

/// Measure a server with OpenAI's API under load: latency, throughput, goodput
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    zonda bench serve --url http://127.0.0.1:8080 --concurrency 8\n  \
    zonda bench serve --url http://127.0.0.1:8080 --rate 2 --duration 60 --ttft-bound 500 --itl-bound 100\n\n\
    With --rate, requests arrive at random times (a Poisson process) whether or not earlier ones were answered, and a \
    request's clock starts when it was due. With --concurrency, each of N clients sends one request after another. Requests that \
    fail are counted by reason. Environment: ZONDA_API_KEY.")]
pub struct BenchServe {
    /// The server.
    #[arg(long, value_name = "URL")]
    url: String,
    /// The model to request [default: the first in the server's list].
    #[arg(short, long, value_name = "NAME")]
    model: Option<String>,
    /// Requests per second on average, at random times.
    #[arg(long, value_name = "R", conflicts_with = "concurrency")]
    rate: Option<f64>,
    /// Number of clients, each of which sends its next request when the last one is answered.
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// Number of requests [default: 4 per client; with --rate, those of 30 seconds].
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    requests: Option<usize>,
    /// Seconds in which requests are sent; requests that still run are then completed.
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds)]
    duration: Option<Duration>,
    /// Approximate number of tokens in each prompt.
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt_tokens: usize,
    /// Number of tokens at the beginning that all prompts share.
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_tokens: usize,
    /// Number of tokens in each answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Let answers end by themselves; otherwise `ignore_eos` asks for their full length.
    #[arg(long)]
    natural: bool,
    /// Use /v1/completions instead of /v1/chat/completions.
    #[arg(long)]
    completions: bool,
    /// For goodput: maximum time to the first token, in ms.
    #[arg(long, value_name = "MS")]
    ttft_bound: Option<f64>,
    /// For goodput: maximum 99th percentile of the times between tokens of an answer, in ms.
    #[arg(long, value_name = "MS")]
    itl_bound: Option<f64>,
    /// The server's API key.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Seed of arrival times and prompts.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Folder for results.csv and results.json [default: results/DATE-TIME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl BenchServe {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let server = Server::new(&self.url, self.key())?;
        let mut plan = self.plan(&server);
        plan.check().map_err(|e| Usage(e.to_string()))?;
        if plan.model.is_none() {
            plan.model = server.first_model()?;
        }
        let out = self.out.clone().unwrap_or_else(default_out);
        let graceful = interrupt::graceful();
        let stop = AtomicBool::new(false);
        warm_up(&plan, &server, &stop)?;
        zonda_bench::report::prepare(&out)?;
        let bar = bar(&plan, context.quiet || self.json.json);
        let over = AtomicBool::new(false);
        let driven = std::thread::scope(|scope| {
            let watch = || {
                while !over.load(Ordering::Relaxed) {
                    stop.fetch_or(interrupt::pressed(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, watch).context("starting a thread")?;
            let driven = run(&plan, &server, &stop, &|done| bar.set_position(done as u64));
            over.store(true, Ordering::Relaxed);
            anyhow::Ok(driven)
        })?;
        bar.finish_and_clear();
        drop(graceful);

        let report = LoadgenReport::new(plan, &driven);
        let written = report.write(&out)?;
        match self.json.json {
            true => output::json(&report)?,
            false => output::print(&report.render())?,
        }
        if !context.quiet {
            let files: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
            note!("written: {}", files.join(", "));
        }
        match report.summary.complete {
            _ if report.partial => Err(Interrupted.into()),
            0 => Err(advised("no request was answered", "the table and results.json say why")),
            _ => Ok(()),
        }
    }

    fn key(&self) -> Option<String> {
        let variable = || std::env::var("ZONDA_API_KEY").ok();
        let key = self.api_key.clone().or_else(variable)?;
        key.split(',').map(str::trim).find(|k| !k.is_empty()).map(str::to_owned)
    }

    fn plan(&self, server: &Server) -> LoadPlan {
        let arrivals = match self.rate {
            Some(rate) => Arrivals::Open { rate },
            None => Arrivals::Closed { concurrency: self.concurrency },
        };
        let end = match (self.requests, self.duration, arrivals) {
            (Some(n), _, _) => End::Requests(n),
            (None, Some(limit), _) => End::Duration(limit),
            (None, None, Arrivals::Closed { concurrency }) => End::Requests(4 * concurrency),
            (None, None, Arrivals::Open { .. }) => End::Duration(Duration::from_secs(30)),
        };
        LoadPlan {
            url: server.base.clone(),
            model: self.model.clone(),
            api: if self.completions { Api::Completions } else { Api::Chat },
            arrivals,
            end,
            prompt_tokens: self.prompt_tokens,
            shared_tokens: self.shared_tokens,
            max_tokens: self.max_tokens,
            natural: self.natural,
            bounds: LatencyBounds { ttft_ms: self.ttft_bound, itl_ms: self.itl_bound },
            seed: self.seed,
        }
    }
}

/// Sends one short request that is not counted, so that an unreachable server is reported before the load begins.
fn warm_up(plan: &LoadPlan, server: &Server, stop: &AtomicBool) -> anyhow::Result<()> {
    let short = LoadPlan { max_tokens: plan.max_tokens.min(2), shared_tokens: 0, ..plan.clone() };
    let now = Instant::now();
    match request::ask(server, &short, usize::MAX, now, now, stop).outcome {
        // Some servers don't return the first tokens, such as those of reasoning.
        Outcome::Complete | Outcome::Hidden => Ok(()),
        Outcome::Interrupted => Err(Interrupted.into()),
        Outcome::Failed(refusal) => Err(advised(
            format!("{}: {}", server.base, refusal.why),
            match refusal.status {
                None => "start the server, or correct --url",
                Some(401 | 403) => "give the server's key with --api-key or ZONDA_API_KEY",
                Some(404) => "the server must have OpenAI's API; --completions uses its other endpoint",
                Some(_) => "change the request",
            },
        )),
    }
}

fn bar(plan: &LoadPlan, quiet: bool) -> ProgressBar {
    let bar = match plan.end {
        End::Requests(n) => ProgressBar::new(n as u64),
        End::Duration(_) => ProgressBar::no_length(),
    };
    if quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} answered  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// The measured server.
struct Server {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Server {
    fn new(url: &str, key: Option<String>) -> anyhow::Result<Server> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let address = if base.contains("://") { base } else { format!("http://{base}") };
        let bad =
            || Usage(format!("--url: expected an address such as http://127.0.0.1:8080, found {url:?}"));
        let uri: Uri = address.parse().map_err(|_| bad())?;
        match uri.scheme_str() {
            Some("https") => install_tls()?,
            Some("http") => {}
            _ => return Err(bad().into()),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(bad().into());
        }
        let agent = agent_settings()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .max_idle_connections(2048)
            .max_idle_connections_per_host(2048)
            .build()
            .new_agent();
        Ok(Server { agent, base: address, key })
    }

    /// The first model in the server's list; `None` if the server has no such list and needs no name.
    fn first_model(&self) -> anyhow::Result<Option<String>> {
        let mut request = self.agent.get(format!("{}/v1/models", self.base));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let answer = request.call().with_context(|| self.base.clone());
        let mut answer = answer.advise("start the server, or correct --url")?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let text = answer.body_mut().read_to_string().with_context(|| self.base.clone())?;
        let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(list["data"][0]["id"].as_str().map(str::to_owned))
    }
}

impl Transport for Server {
    fn post(&self, path: &str, body: &str) -> Result<Box<dyn Read + Send>, Refusal> {
        let mut request =
            self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        match request.send(body) {
            Ok(answer) if answer.status() == 200 => Ok(Box::new(answer.into_body().into_reader())),
            Ok(answer) => Err(refusal(answer)),
            Err(error) => Err(Refusal { status: None, why: error.to_string() }),
        }
    }
}

/// The refusal that a server's answer describes.
fn refusal(answer: Response<Body>) -> Refusal {
    let status = answer.status().as_u16();
    let mut text = String::new();
    let _ = answer.into_body().into_reader().take(REFUSAL).read_to_string(&mut text);
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let said = [&body["error"]["message"], &body["error"], &body["message"], &body["detail"]];
    let why =
        said.iter().find_map(|v| v.as_str()).map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    Refusal { status: Some(status), why }
}
