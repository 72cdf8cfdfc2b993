//! [`Config`]: limits, API keys, and who may reach the server.

use crate::keys::Keys;
use crate::ui::report::Reports;
use std::time::Duration;
use zonda_engine::Keep;

/// How the server behaves. The default is for one person on one machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// API keys, one of which every request must carry. Without keys, everyone who can connect may send requests.
    pub keys: Keys,
    /// Origins whose web pages may send requests, such as `https://example.org`, or `*` for all. Empty: CORS is off.
    pub cors: Vec<String>,
    /// Names that are accepted in the `Host` header, besides IP addresses; `None`: all. A web page elsewhere can point
    /// its own domain name at this machine (DNS rebinding). Without keys, this list blocks its requests.
    pub hosts: Option<Vec<String>>,
    /// Maximum size of a request body, in bytes.
    pub max_body: usize,
    /// Maximum tokens of one answer; `None`: what the context holds, or 16 times that if the context is shifted.
    pub max_tokens: Option<usize>,
    /// Maximum answers of one request (`n`).
    pub max_choices: usize,
    /// Maximum answers in flight of one client: of all requests with the same key or, without keys, from the same
    /// address. `None`: limited only by the queue.
    pub max_per_client: Option<usize>,
    /// How long a request may take, from its arrival to its last token; `None`: no limit. A request's own `timeout` can
    /// only shorten it.
    pub deadline: Option<Duration>,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Interval of keep-alive comments in a stream without events.
    pub keep_alive: Duration,
    /// `Retry-After` of requests that are refused with 429.
    pub retry_after: Duration,
    /// Memory budget of all loaded models, in bytes. To stay within it, the least recently used idle models are
    /// unloaded. `None`: all stay loaded.
    pub max_model_bytes: Option<u64>,
    /// Whether requests reuse the KV cache of common prompt prefixes.
    pub prefix_cache: bool,
    /// Which prefix is kept when a context is full, unless the request sets one. `None`: the answer ends, a prompt that
    /// does not fit is refused, and requests can't change that, because an answer in a shifted context could go on for
    /// ever.
    pub context_shift: Option<Keep>,
    /// What a model thinks before it answers is apart from the answer (`reasoning_content`), unless a request says otherwise.
    pub separate_reasoning: bool,
    /// Whether names of control tokens in chat messages become these tokens.
    pub parse_special: bool,
    /// Whether the first system block of `/v1/messages` that begins with `x-anthropic-billing-header:` stays in the prompt. It
    /// changes with each request, so that no prompt would begin as the one before.
    pub keep_billing_header: bool,
    /// Maximum number of answers of `/v1/responses` that are kept for `previous_response_id`; 0: none is kept.
    pub stored_responses: usize,
    /// Maximum size of these answers and their conversations together, in bytes of JSON.
    pub stored_bytes: usize,
    /// Whether prompts and answers are logged.
    pub log_prompts: bool,
    /// Where the web page finds the last bench report.
    pub reports: Reports,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            keys: Keys::default(),
            cors: Vec::new(),
            hosts: Some(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec()),
            max_body: 8 << 20,
            max_tokens: None,
            max_choices: 16,
            max_per_client: None,
            deadline: Some(Duration::from_secs(3600)),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(5),
            retry_after: Duration::from_secs(1),
            max_model_bytes: None,
            prefix_cache: true,
            context_shift: None,
            separate_reasoning: true,
            parse_special: false,
            keep_billing_header: false,
            stored_responses: 1024,
            stored_bytes: 64 << 20,
            log_prompts: false,
            reports: Reports::None,
        }
    }
}
