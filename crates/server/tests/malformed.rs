//! Invalid requests get a 4xx with the reason, and the server keeps running.

mod common;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use common::{chat, complete, post, request, send, server, server_with};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use zonda_engine::EngineConfig;
use zonda_engine::mock::MockOptions;
use zonda_server::Config;

const PATHS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"];

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let server = server();
    for path in PATHS {
        for (body, says) in [
            (&b""[..], "EOF"),
            (b"{", "EOF"),
            (b"{\"prompt\": }", "expected value"),
            (b"[]", "an array"),
            (b"\"hi\"", "a string"),
            (b"null", "null"),
            (b"{\"prompt\": \"\xff\xfe\"}", ""),
            (b"\xff\xfe\x00", ""),
            (b"{\"prompt\": \"\\ud800\"}", ""),
            (b"{\"prompt\": 1e999}", "number"),
            (b"{} {}", "trailing"),
        ] {
            send(&server, request(path, body)).await.fails(400, says);
        }
        let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        send(&server, request(path, deep)).await.fails(400, "recursion");
    }
}

#[tokio::test]
async fn bodies_with_another_content_type_are_refused() {
    let server = server();
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        let mut bad = request("/v1/completions", "{\"prompt\": \"hi\"}");
        bad.headers_mut().remove("content-type");
        if let Some(kind) = kind {
            bad.headers_mut().insert("content-type", kind.parse().unwrap());
        }
        send(&server, bad).await.fails(415, kind.unwrap_or("none"));
    }
    let mut fine = request("/v1/completions", "{\"prompt\": \"hi\"}");
    fine.headers_mut().insert("content-type", "Application/JSON; charset=utf-8".parse().unwrap());
    send(&server, fine).await.ok();
}

#[tokio::test]
async fn bodies_that_are_too_long_are_refused() {
    let server = server();
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(10 << 20));
    for path in PATHS {
        let error = send(&server, request(path, long.clone())).await.fails(413, "8388608");
        assert_eq!(error["code"], "body_too_large");
    }
    // An endless body is not read to the end.
    let chunks = std::iter::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 65536])));
    let endless = Body::from_stream(futures_util::stream::iter(chunks));
    send(&server, request("/v1/completions", endless)).await.fails(413, "8388608");
}

#[tokio::test]
async fn bodies_that_do_not_arrive_time_out() {
    let config = Config { body_timeout: Duration::from_millis(50), ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    let begun = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{\"pro"))]);
    use futures_util::StreamExt as _;
    let stuck = Body::from_stream(begun.chain(futures_util::stream::pending()));
    let error = send(&server, request("/v1/completions", stuck)).await.fails(408, "0.05 s");
    assert_eq!(error["code"], "body_timeout");
    let broken =
        futures_util::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]);
    send(&server, request("/v1/completions", Body::from_stream(broken))).await.fails(400, "ended early");
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let server = server();
    for (field, values) in [
        ("n", vec![json!(0), json!(-1), json!(17), json!(1e9), json!(u64::MAX), json!("2"), json!(1.5)]),
        ("max_tokens", vec![json!(0), json!(-1), json!("many"), json!(1.5), json!([1])]),
        ("temperature", vec![json!(-0.1), json!(101), json!("hot"), json!({})]),
        ("top_p", vec![json!(-1), json!(1.1), json!(true)]),
        ("top_k", vec![json!(-2), json!(0.5), json!("all")]),
        ("min_p", vec![json!(2)]),
        ("typical_p", vec![json!(-1)]),
        ("repeat_penalty", vec![json!(0), json!(-1)]),
        ("repeat_last_n", vec![json!(-2)]),
        ("presence_penalty", vec![json!(-101), json!("x")]),
        ("frequency_penalty", vec![json!(1e300)]),
        ("seed", vec![json!("x"), json!(1.5), json!(1e30)]),
        ("stop", vec![json!(""), json!(["a", ""]), json!(3), json!(vec!["x"; 17])]),
        (
            "logit_bias",
            vec![json!({"x": 1}), json!({"99999": 1}), json!({"5": "x"}), json!([1]), json!({"-1": 1})],
        ),
        ("stream", vec![json!("yes"), json!(1)]),
        ("stream_options", vec![json!(3), json!({"include_usage": "x"})]),
        ("timeout", vec![json!(0), json!(-1), json!("x")]),
        ("model", vec![json!(3), json!(["mock"])]),
        ("response_format", vec![json!("json"), json!({"type": "xml"}), json!({})]),
    ] {
        for value in values {
            let mut body = json!({"max_tokens": 2});
            body[field] = value;
            for answer in [chat(&server, body.clone()).await, complete(&server, body.clone()).await] {
                let error = answer.fails(400, "");
                let named = error["param"].as_str().unwrap_or_default();
                assert!(named.starts_with(field), "{body}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn fields_of_single_endpoints_are_checked() {
    let server = server();
    for (field, value) in [
        ("messages", json!([])),
        ("messages", json!("hi")),
        ("messages", json!([{"content": "no role"}])),
        ("messages[0].role", json!([{"role": "robot", "content": "x"}])),
        ("messages[0].content", json!([{"role": "user", "content": [{"type": "image_url"}]}])),
    ] {
        let error = chat(&server, json!({"messages": value})).await.fails(400, "");
        assert_eq!(error["param"].as_str().map(|p| p.starts_with(field)), Some(true), "{error}");
    }
    for (field, value) in [
        ("top_logprobs", json!(3)),
        ("logprobs", json!("yes")),
        ("max_completion_tokens", json!(0)),
        ("max_completion_tokens", json!(-3)),
        ("tools", json!({})),
        ("tools[0]", json!([{"type": "retrieval"}])),
        ("tools[0].function.name", json!([{"type": "function", "function": {}}])),
        ("tool_choice", json!("perhaps")),
        ("tool_choice", json!({"type": "function", "function": {"name": "absent"}})),
        ("chat_template_kwargs", json!([])),
    ] {
        let top = field.split('[').next().unwrap();
        let mut body = json!({});
        body[top] = value;
        let error = chat(&server, body).await.fails(400, "");
        assert_eq!(error["param"], field, "{error}");
    }
    let mut deep = json!({"logprobs": true, "top_logprobs": 21});
    assert_eq!(chat(&server, deep.clone()).await.fails(400, "at most 20")["param"], "logprobs");
    deep["top_logprobs"] = json!(-1);
    chat(&server, deep).await.fails(400, "-1");
    for prompt in [
        json!(3),
        json!({}),
        json!([]),
        json!([[]]),
        json!([1.5]),
        json!([-1]),
        json!([99999]),
        json!([["x"]]),
    ] {
        complete(&server, json!({"prompt": prompt})).await.fails(400, "");
    }
    post(&server, "/v1/completions", json!({"max_tokens": 3})).await.fails(400, "prompt");
    post(&server, "/v1/chat/completions", json!({"max_tokens": 3})).await.fails(400, "messages");
}

#[tokio::test]
async fn invalid_grammars_are_refused() {
    let server = server();
    let lark = |definition: &str| json!({"type": "grammar", "syntax": "lark", "definition": definition});
    let schema =
        |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for format in [
        lark(""),
        lark("start: missing"),
        lark("start: \"a"),
        lark("start: start start"),
        json!({"type": "grammar", "syntax": "regex", "definition": "("}),
        json!({"type": "grammar", "syntax": "gbnf", "definition": "root ::= \"a\""}),
        schema(json!({"type": "nothing"})),
        schema(json!({"$ref": "https://example.org/schema"})),
        schema(json!({"type": "string", "minLength": 5, "maxLength": 1})),
        schema(json!({"type": "array", "contains": {}})),
        schema(json!([])),
        schema(json!({"type": "string", "pattern": "("})),
    ] {
        let error = chat(&server, json!({"response_format": format, "max_tokens": 5})).await;
        let error = error.fails(400, "");
        assert!(error["param"].as_str().unwrap().starts_with("response_format"), "{format}: {error}");
    }
    let both = json!({"response_format": {"type": "json_object"}, "ignore_eos": true, "max_tokens": 5});
    assert_eq!(chat(&server, both).await.fails(400, "")["param"], "ignore_eos");
}

/// Arbitrary JSON, partly under the names of real fields.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z<|>_ ]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "role",
            "content",
            "type",
            "text",
            "function",
            "name",
            "parameters",
            "arguments",
            "tool_calls",
            "schema",
            "json_schema",
            "syntax",
            "definition",
            "properties",
            "items",
            "enum",
            "include_usage",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

const FIELDS: [&str; 23] = [
    "messages",
    "prompt",
    "model",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "response_format",
    "stream",
    "stream_options",
    "timeout",
    "chat_template_kwargs",
    "cache_prompt",
    "speculate",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, rng_seed: RngSeed::Fixed(6), failure_persistence: None, ..ProptestConfig::default() })]

    /// Any request is answered with a 200 or an error in OpenAI's format, never with a 500.
    #[test]
    fn nothing_that_is_sent_breaks_the_server(
        fields in prop::collection::vec((prop::sample::select(FIELDS.to_vec()), anything()), 0..5),
        valid in any::<bool>(),
    ) {
        let mut body = json!({"max_tokens": 3});
        if valid {
            body["messages"] = json!([{"role": "user", "content": "hi"}]);
            body["prompt"] = json!("hi");
        }
        for (name, value) in fields {
            body[name] = value;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = server();
            for path in PATHS {
                let answer = post(&server, path, body.clone()).await;
                let status = answer.status.as_u16();
                assert!(status == 200 || (400..500).contains(&status) || status == 501, "{path} {body}: {}", answer.text());
                if status != 200 {
                    answer.fails(status, "");
                }
            }
        });
    }
}

#[tokio::test]
async fn unusual_requests_are_answered() {
    let server = server();
    for (method, path) in
        [("DELETE", "/v1/models"), ("PUT", "/v1/completions"), ("GET", "/tokenize"), ("PATCH", "/health")]
    {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        send(&server, request).await.fails(405, method);
    }
    for path in ["/v1", "/v1/", "/v2/chat/completions", "/../etc/passwd", "/%00", "/v1/models/%ff"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = send(&server, request).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
}
