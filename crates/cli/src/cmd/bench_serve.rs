//! `zonda bench serve`: load on any server of OpenAI's API. The load is in `zonda-bench`; this reads the flags and sends.

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

/// Time to connect, and until an answer begins and between two reads of it: a long queue is no failure.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(600);
/// Most of a refusal's body that is read, in bytes.
const REFUSAL: u64 = 64 << 10;

/// Put load on a server of OpenAI's API: latency, throughput, goodput
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    zonda bench serve --url http://127.0.0.1:8080 --concurrency 8\n  \
    zonda bench serve --url http://127.0.0.1:8080 --rate 2 --duration 60 --ttft-bound 500 --itl-bound 100\n\n\
    With --rate, requests arrive at random times (a Poisson process) whether or not earlier ones were answered, and a \
    request's clock starts when it was due. With --concurrency, so many clients ask one request after another. Requests that \
    fail are counted by reason. Environment: ZONDA_API_KEY.")]
pub struct BenchServe {
    /// The server.
    #[arg(long, value_name = "URL")]
    url: String,
    /// The model to ask for [default: the first that the server names].
    #[arg(short, long, value_name = "NAME")]
    model: Option<String>,
    /// Requests per second on average, at random times.
    #[arg(long, value_name = "R", conflicts_with = "concurrency")]
    rate: Option<f64>,
    /// Clients, each of which asks again once it is answered.
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// Requests in all [default: 4 for each client, or 30 s at a --rate].
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    requests: Option<usize>,
    /// Seconds in which requests are sent; those that run then are waited for.
    #[arg(long, value_name = "SECONDS", value_parser = super::serve::seconds)]
    duration: Option<Duration>,
    /// About how many tokens each prompt has.
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt_tokens: usize,
    /// How many of them, at the beginning, all prompts have in common.
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_tokens: usize,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Let answers end by themselves; otherwise `ignore_eos` asks for their full length.
    #[arg(long)]
    natural: bool,
    /// Ask /v1/completions instead of /v1/chat/completions.
    #[arg(long)]
    completions: bool,
    /// For goodput: the longest time to the first token, in ms.
    #[arg(long, value_name = "MS")]
    ttft_bound: Option<f64>,
    /// For goodput: the longest 99th percentile of an answer's gaps, in ms.
    #[arg(long, value_name = "MS")]
    itl_bound: Option<f64>,
    /// The server's API key.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Decides arrivals and prompts.
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

/// One short answer that is not counted: a server that can't be asked at all is said before the load.
fn warm_up(plan: &LoadPlan, server: &Server, stop: &AtomicBool) -> anyhow::Result<()> {
    let short = LoadPlan { max_tokens: plan.max_tokens.min(2), shared_tokens: 0, ..plan.clone() };
    let now = Instant::now();
    match request::ask(server, &short, usize::MAX, now, now, stop).outcome {
        // Some servers hide the first tokens, such as those of a thought.
        Outcome::Complete | Outcome::Hidden => Ok(()),
        Outcome::Interrupted => Err(Interrupted.into()),
        Outcome::Failed(refusal) => Err(advised(
            format!("{}: {}", server.base, refusal.why),
            match refusal.status {
                None => "start the server, or correct --url",
                Some(401 | 403) => "give the server's key with --api-key or ZONDA_API_KEY",
                Some(404) => "the server has to speak OpenAI's API; --completions asks its other endpoint",
                Some(_) => "change what is asked",
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

/// The server that is asked.
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

    /// The first model that the server names; a server without such a list needs no name.
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

/// What a server says that does not answer.
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
