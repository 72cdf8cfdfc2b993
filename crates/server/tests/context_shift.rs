//! Full contexts over HTTP: shifted and reported if the server allows it and the request does not decline.

mod common;

use common::{chat, complete, get, server_with};
use serde_json::{Value, json};
use zonda_engine::forward::Limits;
use zonda_engine::mock::MockOptions;
use zonda_engine::{EngineConfig, Keep};
use zonda_server::Config;

#[tokio::test]
async fn a_full_context_is_shifted_if_the_server_allows_it() {
    let limits = Limits { slots: 1, batch_tokens: 16, context: 32, kv_tokens: 32, kv_page: 4 };
    let options = MockOptions { limits, end_every: 0, ..MockOptions::default() };
    let server = |config| server_with(config, options.clone(), EngineConfig::default());
    let plain = server(Config::default());
    let body = |more: Value| {
        let mut body = json!({"prompt": "the ".repeat(10), "max_tokens": 100, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let shifting = server(Config { context_shift: Some(Keep::Tokens(1)), ..Config::default() });
    let on = complete(&shifting, body(json!({"context_shift": true, "n_keep": 1}))).await.ok();
    assert_eq!(
        (&on["usage"]["completion_tokens"], &on["choices"][0]["finish_reason"]),
        (&json!(100), &json!("length"))
    );
    // BOS and 11 tokens, and 100 of which the last is not computed; a shift drops half of the 30 tokens after BOS and one.
    let prompt = on["usage"]["prompt_tokens"].as_u64().unwrap();
    let shifts = (prompt + 99 - 32).div_ceil(15);
    assert_eq!(on["timings"]["context_shifts"], shifts);
    assert_eq!(on["timings"]["dropped_tokens"], 15 * shifts);
    assert!(
        get(&shifting, "/metrics").await.text().contains("zonda_context_shifts_total{model_name=\"mock\"} ")
    );

    let same = complete(&shifting, body(json!({}))).await.ok();
    assert_eq!(same["choices"], on["choices"]);
    let off = complete(&shifting, body(json!({"context_shift": false}))).await.ok();
    assert!(off["usage"]["completion_tokens"].as_u64() < Some(32));
    // Without `max_tokens` the answer may fill the context.
    let messages = json!([{"role": "user", "content": "hi"}]);
    let endless = chat(&shifting, json!({"messages": messages, "ignore_eos": true})).await.ok();
    assert_eq!(
        (&endless["usage"]["completion_tokens"], &endless["choices"][0]["finish_reason"]),
        (&json!(32), &json!("length"))
    );

    let long = json!({"prompt": "the ".repeat(50), "max_tokens": 3});
    complete(&plain, long.clone()).await.fails(400, "context_shift");
    let cut = complete(&shifting, long).await.ok();
    let count = |value: &Value| value.as_u64().unwrap();
    let (kept, gone) = (count(&cut["usage"]["prompt_tokens"]), count(&cut["timings"]["truncated_tokens"]));
    assert!(kept <= 32 && kept + gone > 50 && gone % 15 == 0, "{cut}");
    // A shifted context never fills up, so the server must allow shifts, and limits `max_tokens`.
    let refused = complete(&plain, body(json!({"context_shift": true}))).await.fails(400, "--context-shift");
    assert_eq!(refused["param"], "context_shift");
    let mut endless = body(json!({"context_shift": true, "ignore_eos": true}));
    endless["max_tokens"] = json!(1_000_000_000_000_000_u64);
    let refused = complete(&shifting, endless).await.fails(400, "at most 512");
    assert_eq!(refused["param"], "max_tokens");
    let error = complete(&shifting, body(json!({"context_shift": true, "n_keep": -2})))
        .await
        .fails(400, "-1 for the whole");
    assert_eq!(error["param"], "n_keep");
    let whole = json!({"prompt": "the ".repeat(50), "context_shift": true, "n_keep": -1});
    let error = complete(&shifting, whole).await.fails(400, "to be kept when the context of 32 is full");
    assert_eq!((&error["param"], &error["code"]), (&json!("n_keep"), &json!("context_length_exceeded")));
    let mut stream = body(json!({"context_shift": true, "stream": true}));
    stream["max_tokens"] = 60.into();
    let streamed = complete(&shifting, stream).await;
    let text = streamed.text();
    assert!(text.contains("\"context_shifts\":") && !text.contains("\"context_shifts\":0"), "{text}");
}
