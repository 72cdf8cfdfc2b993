//! The answers of every endpoint on the mock, streamed and not.

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Answer, chat, complete, get, post, send, server, server_with, source};
use serde_json::{Value, json};
use std::time::Duration;
use zonda_engine::EngineConfig;
use zonda_engine::forward::Limits;
use zonda_engine::mock::{Fault, FaultKind, MockOptions};
use zonda_server::{Config, Keys, Server, ServerError};

#[tokio::test]
async fn a_chat_is_answered_in_openais_format() {
    let answer = chat(&server(), json!({"model": "mock", "max_tokens": 6, "seed": 1})).await.ok();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("mock")));
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"].as_str().unwrap().split_whitespace().count(), 6);
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 6);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 6);
    assert!(
        answer["timings"]["ttft_ms"].as_f64().unwrap() <= answer["timings"]["total_ms"].as_f64().unwrap()
    );
}

/// The choices of a stream: each with its text and finish reason.
fn gather(events: &[Value], text: impl Fn(&Value) -> &Value) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = Vec::new();
    for choice in events.iter().flat_map(|e| e["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        all.resize_with(all.len().max(index + 1), Default::default);
        assert!(all[index].1.is_null(), "nothing follows the finish reason");
        all[index].0.push_str(text(choice).as_str().unwrap_or_default());
        all[index].1 = choice["finish_reason"].clone();
    }
    all
}

#[tokio::test]
async fn a_stream_adds_up_to_the_full_answer() {
    let server = server();
    for n in [1, 3] {
        let ask = |stream: bool| {
            json!({
                "max_tokens": 9, "seed": 4, "n": n, "stream": stream, "stream_options": {"include_usage": true},
            })
        };
        let whole = chat(&server, ask(false)).await.ok();
        let events = chat(&server, ask(true)).await.events();
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        let (counts, chunks) = events.split_last().unwrap();
        assert_eq!(counts["choices"], json!([]));
        assert_eq!(counts["usage"]["completion_tokens"], 9 * n);
        assert_eq!(counts["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
        let streamed = gather(chunks, |c| &c["delta"]["content"]);
        assert_eq!(streamed.len(), n);
        for (i, (text, end)) in streamed.iter().enumerate() {
            assert_eq!(*text, whole["choices"][i]["message"]["content"]);
            assert_eq!(end, "length");
        }
        assert_eq!(whole["usage"]["completion_tokens"], 9 * n);

        let whole = complete(&server, ask(false)).await.ok();
        let events = complete(&server, ask(true)).await.events();
        let streamed = gather(&events[..events.len() - 1], |c| &c["text"]);
        for (i, (text, _)) in streamed.iter().enumerate() {
            assert_eq!(*text, whole["choices"][i]["text"]);
        }
    }
    let events = chat(&server, json!({"max_tokens": 2, "stream": true})).await.events();
    assert!(events.iter().all(|e| e.get("usage").is_none()), "usage is sent only on request");
}

#[tokio::test]
async fn several_choices_differ_and_are_reproducible() {
    let server = server();
    let texts = |answer: Value| -> Vec<String> {
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect()
    };
    let three = texts(complete(&server, json!({"n": 3, "seed": 7})).await.ok());
    assert!(three[0] != three[1] && three[1] != three[2]);
    assert_eq!(texts(complete(&server, json!({"n": 3, "seed": 7})).await.ok()), three);
    let second = complete(&server, json!({"seed": 8})).await.ok();
    assert_eq!(texts(second)[0], three[1], "each has the next seed");
}

#[tokio::test]
async fn several_prompts_are_answered_in_order() {
    let server = server();
    let one = async |prompt: Value| {
        complete(&server, json!({"prompt": prompt, "temperature": 0, "max_tokens": 5})).await.ok()
    };
    let both = one(json!(["the sea", "the house"])).await;
    for (i, prompt) in ["the sea", "the house"].iter().enumerate() {
        assert_eq!(both["choices"][i]["text"], one(json!(prompt)).await["choices"][0]["text"]);
    }
    assert_eq!(both["usage"]["prompt_tokens"], 6);
    let ids = post(&server, "/tokenize", json!({"content": "the sea", "add_special": true})).await.ok();
    let by_ids = one(json!([ids["tokens"], ids["tokens"]])).await;
    assert_eq!(by_ids["choices"][1]["text"], both["choices"][0]["text"]);
}

#[tokio::test]
async fn sampling_parameters_reach_the_engine() {
    let server = server();
    let text = async |body: Value| {
        chat(&server, body).await.ok()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let greedy = json!({"temperature": 0, "max_tokens": 8});
    let first = text(greedy.clone()).await;
    let with = |field: &str, value: Value| {
        let mut body = greedy.clone();
        body[field] = value;
        body
    };
    let word = first.split(' ').nth(3).unwrap();
    assert_eq!(text(with("stop", json!(word))).await, first[..first.find(word).unwrap()]);
    assert_eq!(text(with("max_completion_tokens", json!(2))).await.split_whitespace().count(), 2);
    let id = post(&server, "/tokenize", json!({"content": format!(" {}", first.split(' ').nth(1).unwrap())}))
        .await
        .ok();
    let id = id["tokens"][0].to_string();
    let mut biased = greedy.clone();
    biased["logit_bias"] = json!({id: -100});
    assert_ne!(text(biased).await, first);
    let hot = |seed: i64| json!({"temperature": 1.5, "seed": seed, "max_tokens": 8});
    assert_eq!(text(hot(-5)).await, text(hot(-5)).await);
    assert_ne!(text(hot(1)).await, text(hot(2)).await);
    let ends = json!({"temperature": 0, "max_tokens": 400});
    let natural = chat(&server, ends.clone()).await.ok();
    assert_eq!(natural["choices"][0]["finish_reason"], "stop");
    let mut endless = ends;
    endless["ignore_eos"] = json!(true);
    assert_eq!(chat(&server, endless).await.ok()["usage"]["completion_tokens"], 400);
}

#[tokio::test]
async fn each_token_has_its_probabilities() {
    let server = server();
    let ask = json!({"logprobs": true, "top_logprobs": 2, "temperature": 0, "max_tokens": 4});
    let answer = chat(&server, ask.clone()).await.ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 4);
    for token in &content {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(token["token"], token["top_logprobs"][0]["token"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(token["bytes"].as_array().unwrap().len(), token["token"].as_str().unwrap().len());
    }
    let mut streamed = ask;
    streamed["stream"] = json!(true);
    let events = chat(&server, streamed).await.events();
    let tokens: Vec<&Value> =
        events.iter().flat_map(|e| e["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(tokens, content.iter().collect::<Vec<_>>());

    let answer =
        complete(&server, json!({"logprobs": 3, "temperature": 0, "max_tokens": 4, "ignore_eos": true}))
            .await
            .ok();
    let found = &answer["choices"][0]["logprobs"];
    assert_eq!(found["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(found["top_logprobs"][0].as_object().unwrap().len(), 3);
    assert_eq!(found["text_offset"][0], 0);
    assert_eq!(found["text_offset"][1], found["tokens"][0].as_str().unwrap().len());
}

#[tokio::test]
async fn a_growing_conversation_costs_only_its_new_tokens() {
    let server = server();
    let system = "you are ".repeat(40);
    let first = json!([{"role": "system", "content": system}, {"role": "user", "content": "how is the sea"}]);
    let one = chat(&server, json!({"messages": first, "temperature": 0, "max_tokens": 5})).await.ok();
    assert_eq!(one["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let content = one["choices"][0]["message"]["content"].clone();
    let second = json!([
        first[0], first[1], {"role": "assistant", "content": content}, {"role": "user", "content": "and the wind"},
    ]);
    let two = chat(&server, json!({"messages": second, "temperature": 0, "max_tokens": 5})).await.ok();
    let cached = two["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= one["usage"]["prompt_tokens"].as_u64().unwrap(), "{two}");
    let other = json!([first[0], {"role": "user", "content": "something else"}]);
    let three = chat(&server, json!({"messages": other, "max_tokens": 5})).await.ok();
    assert!(three["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 40);
    let off = chat(&server, json!({"messages": other, "max_tokens": 5, "cache_prompt": false})).await.ok();
    assert_eq!(off["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn speculation_is_chosen_per_request_and_changes_no_token() {
    let config = EngineConfig { draft_min: 4, ..EngineConfig::default() };
    let server = server_with(Config::default(), MockOptions::default(), config);
    let messages = json!([{"role": "user", "content": "how is the sea how is the sea how is"}]);
    let ask = |speculate: Value| {
        let server = server.clone();
        let body = json!({"messages": messages, "temperature": 1.5, "seed": 4, "max_tokens": 30, "ignore_eos": true});
        let mut body = body;
        body["speculate"] = speculate;
        async move { chat(&server, body).await }
    };
    let off = ask(json!(false)).await.ok();
    assert_eq!(off["timings"]["drafted_tokens"], 0);
    for on in [json!("ngram"), json!(true)] {
        let answer = ask(on).await.ok();
        assert_eq!(answer["choices"][0]["message"], off["choices"][0]["message"]);
        assert!(answer["timings"]["accepted_tokens"].is_u64(), "{answer}");
    }
    ask(json!("draft")).await.fails(400, "speculate");
    ask(json!("often")).await.fails(400, "speculate");
    let metrics = get(&server, "/metrics").await;
    let metrics = metrics.text();
    for name in ["vllm:spec_decode_num_draft_tokens_total{", "vllm:spec_decode_num_accepted_tokens_total{"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[tokio::test]
async fn unknown_fields_are_named_and_unsupported_ones_refused() {
    let server = server();
    let answer = chat(
        &server,
        json!({
            "max_tokens": 1, "user": "me", "metadata": {"a": 1}, "stream_options": {"fast": true},
            "messages": [{"role": "user", "content": "hi", "mood": "good"}],
        }),
    )
    .await;
    answer.ok();
    let named = answer.header("x-zonda-ignored-fields").unwrap();
    assert_eq!(named, "messages.0.mood, metadata, stream_options.fast, user");
    assert_eq!(
        chat(&server, json!({"max_tokens": 1, "logprobs": null})).await.header("x-zonda-ignored-fields"),
        None
    );
    for (field, value) in [
        ("echo", json!(true)),
        ("suffix", json!("end")),
        ("best_of", json!(3)),
        ("functions", json!([{"name": "f"}])),
        ("guided_json", json!({})),
        ("reasoning_effort", json!("high")),
    ] {
        let mut body = json!({"max_tokens": 1});
        body[field] = value;
        let error = complete(&server, body).await.fails(400, field);
        assert_eq!((&error["param"], &error["code"]), (&json!(field), &json!("unsupported")));
    }
    complete(&server, json!({"max_tokens": 1, "echo": false, "suffix": "", "best_of": 1})).await.ok();
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_an_error() {
    let limits = Limits { slots: 1, batch_tokens: 16, context: 32, kv_tokens: 32, kv_page: 4 };
    let server = server_with(
        Config::default(),
        MockOptions { limits, ..MockOptions::default() },
        EngineConfig::default(),
    );
    let error = complete(&server, json!({"prompt": "the ".repeat(50)})).await.fails(400, "at most 32 fit");
    assert_eq!(error["code"], "context_length_exceeded");
    // A prompt that fits runs until the context is full, and the finish reason says so.
    let full = complete(&server, json!({"prompt": "the ".repeat(10), "max_tokens": 999, "ignore_eos": true}))
        .await
        .ok();
    assert_eq!(full["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn tokens_round_trip() {
    let server = server();
    let text = "the warm <|im_end|> wind, naïve 風";
    let ids = post(&server, "/tokenize", json!({"content": text, "with_pieces": true})).await.ok();
    assert_eq!(ids["count"], ids["tokens"].as_array().unwrap().len());
    assert_eq!(ids["pieces"].as_array().unwrap().len(), ids["count"].as_u64().unwrap() as usize);
    let back = post(&server, "/detokenize", json!({"tokens": ids["tokens"]})).await.ok();
    assert_eq!(back["content"], text);
    let plain = post(&server, "/tokenize", json!({"prompt": text, "parse_special": false})).await.ok();
    assert!(plain["count"].as_u64() > ids["count"].as_u64());
    let messages = json!([{"role": "user", "content": "hi"}]);
    assert!(
        post(&server, "/tokenize", json!({"messages": messages})).await.ok()["count"].as_u64().unwrap() > 3
    );
    post(&server, "/tokenize", json!({})).await.fails(400, "neither");
    post(&server, "/detokenize", json!({"tokens": [0, 99999]})).await.fails(400, "tokens[1]");
}

#[tokio::test]
async fn one_model_on_two_backends_has_two_names_with_one_root() {
    let mock = || source("wind", MockOptions::default(), EngineConfig::default());
    let sources = vec![mock().on("native"), mock().on("mlx").beside()];
    let server = Server::new(Config::default(), sources).unwrap();
    let list = get(&server, "/v1/models").await.ok();
    let of = |i: usize, key: &str| list["data"][i][key].as_str().unwrap().to_owned();
    assert_eq!(
        (of(0, "id"), of(0, "root"), of(0, "backend")),
        ("wind".into(), "wind".into(), "native".into())
    );
    assert_eq!(
        (of(1, "id"), of(1, "root"), of(1, "backend")),
        ("wind@mlx".into(), "wind".into(), "mlx".into())
    );
    assert_eq!(get(&server, "/v1/models/wind@mlx").await.ok()["backend"], "mlx");
    let answer = chat(&server, json!({"model": "wind@mlx", "max_tokens": 2})).await.ok();
    assert_eq!(answer["model"], "wind@mlx");
    chat(&server, json!({"model": "wind@native"})).await.fails(404, "wind@mlx");
}

#[tokio::test]
async fn models_are_listed_and_embeddings_are_a_clear_501() {
    let server = server();
    assert_eq!(get(&server, "/v1/models").await.ok()["data"][0]["id"], "mock");
    assert_eq!(get(&server, "/v1/models/mock").await.ok()["object"], "model");
    assert_eq!(get(&server, "/v1/models/org/other").await.fails(404, "org/other")["code"], "model_not_found");
    chat(&server, json!({"model": "gpt-5"})).await.fails(404, "gpt-5");
    post(&server, "/v1/embeddings", json!({"input": "x"})).await.fails(501, "hidden states");
    assert!(get(&server, "/").await.text().contains("Zonda"));
    get(&server, "/nothing").await.fails(404, "/nothing");
    get(&server, "/v1/chat/completions").await.fails(405, "GET");
}

#[tokio::test]
async fn the_api_description_has_every_path_and_no_broken_references() {
    let document = get(&server(), "/openapi.json").await.ok();
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/responses/{id}",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/tokenize",
        "/health",
        "/metrics",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
    let chat = document["components"]["schemas"]["ChatBody"].to_string();
    assert!(chat.contains("messages") && chat.contains("Shared"), "{chat}");
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1).map(|t| t.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"].get(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn readiness_follows_loading_draining_and_failures() {
    let server = server();
    assert_eq!(get(&server, "/ready").await.status, 503);
    get(&server, "/health").await.ok();
    server.models().load_first().await.unwrap();
    assert_eq!(get(&server, "/ready").await.ok()["status"], "ok");
    server.drain();
    assert_eq!(get(&server, "/ready").await.json()["status"], "draining");
    let refused = chat(&server, json!({})).await;
    assert_eq!(refused.fails(503, "shutting down")["code"], "draining");
    assert_eq!(refused.header("connection"), Some("close"));
    get(&server, "/metrics").await;
}

#[tokio::test]
async fn metrics_have_both_names() {
    let server = server();
    chat(&server, json!({"max_tokens": 5, "ignore_eos": true})).await.ok();
    let text = get(&server, "/metrics").await.text().to_owned();
    let value = |name: &str| {
        let line =
            text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    for name in ["zonda_generated_tokens_total{", "vllm:generation_tokens_total{"] {
        assert_eq!(value(name), 5.0);
    }
    for name in ["zonda_time_to_first_token_seconds_count{", "vllm:time_to_first_token_seconds_count{"] {
        assert_eq!(value(name), 1.0);
    }
    assert_eq!(value("vllm:inter_token_latency_seconds_count{"), 4.0);
    for name in ["vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:kv_cache_usage_perc{"] {
        assert_eq!(value(name), 0.0);
    }
    assert_eq!(value("zonda_requests_total{path=\"/v1/chat/completions\",status=\"200\"}"), 1.0);
}

fn with_key(path: &str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    if let Some(key) = key {
        request.headers_mut().insert("authorization", key.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn keys_are_required() {
    let config = Config { keys: Keys::new(["one", "two"]), hosts: None, ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    for key in ["Bearer one", "bearer two"] {
        send(&server, with_key("/v1/models", Some(key))).await.ok();
    }
    for key in [None, Some("Bearer three"), Some("Bearer"), Some("Basic b25l"), Some("Bearer ")] {
        let refused = send(&server, with_key("/v1/models", key)).await;
        assert_eq!(refused.fails(401, "")["code"], "invalid_api_key");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(send(&server, with_key("/metrics", key)).await.status, 401);
    }
    for open in ["/health", "/openapi.json", "/"] {
        assert_eq!(send(&server, with_key(open, None)).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn other_hosts_and_origins_are_kept_out() {
    let ask = |host: &str, origin: Option<&str>| {
        let request = Request::get("/v1/models").header("host", host);
        let request = origin.iter().fold(request, |r, o| r.header("origin", *o));
        request.body(Body::empty()).unwrap()
    };
    let closed = server();
    // Unlike a host name, an address can't be pointed here by someone else.
    for host in ["localhost", "127.0.0.1:8080", "LOCALHOST:1", "[::1]:8080", "192.168.1.7:8080"] {
        send(&closed, ask(host, None)).await.ok();
    }
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example"] {
        send(&closed, ask(host, None)).await.fails(403, "host");
    }
    let answer = send(&closed, ask("localhost", Some("https://evil.example"))).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);

    let config = Config { cors: vec!["https://page.example".into()], ..Config::default() };
    let open = server_with(config, MockOptions::default(), EngineConfig::default());
    let answer = send(&open, ask("localhost", Some("https://page.example"))).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example"));
    let answer = send(&open, ask("localhost", Some("https://evil.example"))).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // A preflight carries no key.
    let preflight = Request::options("/v1/chat/completions")
        .header("origin", "https://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type")
        .body(Body::empty())
        .unwrap();
    let answer: Answer = send(&open, preflight).await;
    assert!(answer.status.is_success() && answer.header("access-control-allow-headers").is_some());
    let bad = Config { cors: vec!["page.example".into()], ..Config::default() };
    let made = Server::new(bad, vec![source("mock", MockOptions::default(), EngineConfig::default())]);
    assert_eq!(made.unwrap_err(), ServerError::BadOrigin("page.example".into()));
}

#[tokio::test]
async fn responses_have_a_request_id() {
    let server = server();
    let ask = |id: &str| Request::get("/health").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(send(&server, ask("my-id.1")).await.header("x-request-id"), Some("my-id.1"));
    for bad in ["", "with space", &"x".repeat(200)] {
        assert!(send(&server, ask(bad)).await.header("x-request-id").unwrap().starts_with("req-"));
    }
}

#[tokio::test]
async fn a_deadline_ends_a_request() {
    let slow = MockOptions { per_token: Duration::from_millis(20), end_every: 0, ..MockOptions::default() };
    let server = server_with(Config::default(), slow, EngineConfig::default());
    let body = json!({"timeout": 0.2});
    assert_eq!(chat(&server, body.clone()).await.fails(504, "0.2 s")["code"], "deadline_exceeded");
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let answer = chat(&server, streamed).await;
    let last = answer.text().lines().filter_map(|l| l.strip_prefix("data: ")).next_back().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_backend_that_fails_is_a_500() {
    for kind in [FaultKind::Error, FaultKind::Panic, FaultKind::Nan] {
        let options = MockOptions { faults: vec![Fault::call(2, kind)], ..MockOptions::default() };
        let server = server_with(Config::default(), options, EngineConfig::default());
        chat(&server, json!({"max_tokens": 9, "ignore_eos": true})).await.fails(500, "");
        // The server keeps running.
        chat(&server, json!({"max_tokens": 2})).await.ok();
    }
}

#[tokio::test]
async fn a_stream_sends_keep_alive_comments() {
    let slow = MockOptions { ttft: Duration::from_millis(300), ..MockOptions::default() };
    let config = Config { keep_alive: Duration::from_millis(20), ..Config::default() };
    let server = server_with(config, slow, EngineConfig::default());
    let answer = chat(&server, json!({"stream": true, "max_tokens": 1})).await;
    let first = answer.text().lines().next().unwrap();
    assert_eq!(first, ": alive", "comments come before the first token");
    answer.events();
}

#[tokio::test]
async fn models_share_a_memory_limit() {
    let models =
        || ["a", "b", "c"].map(|n| source(n, MockOptions::default(), EngineConfig::default())).to_vec();
    let loaded = |server: &Server| -> Vec<String> {
        let list = server.models().list();
        list.iter().filter(|(_, l)| l.is_some()).map(|(n, _)| (*n).to_owned()).collect()
    };
    let bounded = Server::new(Config { max_model_bytes: Some(2000), ..Config::default() }, models()).unwrap();
    bounded.models().load_first().await.unwrap();
    assert_eq!(loaded(&bounded), ["a"]);
    for (model, expected) in [("b", vec!["a", "b"]), ("a", vec!["a", "b"]), ("c", vec!["a", "c"])] {
        chat(&bounded, json!({"model": model, "max_tokens": 1})).await.ok();
        assert_eq!(loaded(&bounded), expected, "the least recently used model is unloaded");
    }
    let held =
        [bounded.models().get(Some("a")).await.unwrap(), bounded.models().get(Some("c")).await.unwrap()];
    let refused = chat(&bounded, json!({"model": "b", "max_tokens": 1})).await;
    assert_eq!(refused.fails(503, "in use")["code"], "no_room_for_model");
    assert!(refused.header("retry-after").is_some());
    drop(held);
    chat(&bounded, json!({"model": "b", "max_tokens": 1})).await.ok();

    let all = Server::new(Config::default(), models()).unwrap();
    all.models().load_first().await.unwrap();
    assert_eq!(loaded(&all), ["a", "b", "c"]);
    chat(&all, json!({})).await.fails(400, "a, b, c");
    let twice = Server::new(Config::default(), [models(), models()].concat());
    assert_eq!(twice.unwrap_err(), ServerError::SameName("a".into()));
    assert_eq!(Server::new(Config::default(), vec![]).unwrap_err(), ServerError::NoModel);
}
