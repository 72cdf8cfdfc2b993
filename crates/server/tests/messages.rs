//! `/v1/messages` on the mock: blocks in and out, streams, tools, thinking, errors, keys.

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Answer, get, post, request, send, server, server_with, thinker, thought};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use zonda_engine::EngineConfig;
use zonda_engine::mock::{Fault, FaultKind, MockOptions};
use zonda_server::{Config, Keys, Server};

const PATH: &str = "/v1/messages";

fn body(more: Value) -> Value {
    let mut body = json!({"max_tokens": 60, "messages": [{"role": "user", "content": "how are you"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn ask(server: &Arc<Server>, more: Value) -> Answer {
    post(server, PATH, body(more)).await
}

/// Asserts an error in Anthropic's form.
#[track_caller]
fn fails(answer: &Answer, status: u16, kind: &str, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains(says), "{says:?} in {body}");
    assert_eq!(body["request_id"], answer.header("request-id").unwrap());
}

/// The message that the events of a stream add up to.
#[track_caller]
fn gather(events: &[Value]) -> Value {
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message_start"), &json!("ping")));
    let mut message = events[0]["message"].clone();
    assert!(message["usage"]["input_tokens"].as_u64().unwrap() > 0 && message["stop_reason"].is_null());
    let (mut open, mut json_text) = (None, String::new());
    for event in &events[2..] {
        let index = event["index"].as_u64().map(|i| i as usize);
        let content = message["content"].as_array_mut().unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(content.len())));
                open = index;
                content.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(open, index);
                let (delta, block) = (&event["delta"], content.last_mut().unwrap());
                let mut grow = |key: &str| {
                    let text = block[key].as_str().unwrap().to_owned() + delta[key].as_str().unwrap();
                    block[key] = text.into();
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => grow("text"),
                    "thinking_delta" => grow("thinking"),
                    "input_json_delta" => json_text.push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(open.take(), index);
                let block = content.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&std::mem::take(&mut json_text)).unwrap();
                }
            }
            "message_delta" => {
                assert_eq!(open, None);
                for key in ["stop_reason", "stop_sequence"] {
                    message[key] = event["delta"][key].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "message_stop" | "ping" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

/// The parts that do not differ between two answers to one request.
fn essence(message: &Value) -> Value {
    let mut content = message["content"].clone();
    content
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|block| drop(block.as_object_mut().unwrap().remove("id")));
    json!([content, message["stop_reason"], message["stop_sequence"], message["usage"]["output_tokens"]])
}

/// The answer, whole and streamed: both are the same.
async fn both(server: &Arc<Server>, more: Value) -> Value {
    let whole = ask(server, more.clone()).await.ok();
    let mut streamed = more;
    streamed["stream"] = json!(true);
    assert_eq!(essence(&gather(&ask(server, streamed).await.named_events())), essence(&whole));
    whole
}

#[tokio::test]
async fn a_conversation_is_answered_whole_and_streamed() {
    let server = server();
    let answer = both(&server, json!({"model": "mock", "max_tokens": 6, "temperature": 0})).await;
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["model"]),
        (&json!("message"), &json!("assistant"), &json!("mock"))
    );
    assert_eq!(
        (&answer["stop_reason"], &answer["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(6))
    );
    let text = answer["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.split_whitespace().count(), 6);
    let word = text.split(' ').nth(3).unwrap();
    let stopped = both(&server, json!({"temperature": 0, "stop_sequences": [word]})).await;
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
    let stopped = both(&server, json!({"temperature": 0, "stop_sequences": [word, "other"]})).await;
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(null)));
    let natural = both(&server, json!({"temperature": 0, "max_tokens": 400})).await;
    assert_eq!(natural["stop_reason"], "end_turn");
    assert!(natural["usage"]["cache_read_input_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn it_answers_as_a_chat_does() {
    let server = server();
    let chat = common::chat(
        &server,
        json!({
            "temperature": 0, "max_tokens": 5, "cache_prompt": false,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how is the sea"}],
        }),
    );
    let chat = chat.await.ok();
    let cached = json!({"type": "ephemeral"});
    for (system, content) in [
        (json!("be brief"), json!("how is the sea")),
        (
            json!([{"type": "text", "text": "x-anthropic-billing-header: cch=a1;"}, {"type": "text", "text": "be brief", "cache_control": cached}]),
            json!([{"type": "text", "text": "how is the sea", "cache_control": cached}]),
        ),
    ] {
        let more = json!({"system": system, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 5,
            "cache_prompt": false, "cache_control": cached});
        let answer = ask(&server, more.clone()).await;
        assert_eq!(answer.header("x-zonda-ignored-fields"), None);
        let answer = answer.ok();
        assert_eq!(answer["content"][0]["text"], chat["choices"][0]["message"]["content"]);
        assert_eq!(answer["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
        let mut counted = body(more);
        counted.as_object_mut().unwrap().remove("max_tokens");
        let counted = post(&server, "/v1/messages/count_tokens", counted).await.ok();
        assert_eq!(counted, json!({"input_tokens": chat["usage"]["prompt_tokens"]}));
    }
}

#[tokio::test]
async fn a_changing_header_can_stay() {
    let config = Config { keep_billing_header: true, ..Config::default() };
    let keeps = server_with(config, MockOptions::default(), EngineConfig::default());
    let count = async |server: &Arc<Server>, n: u32| {
        let block = json!({"type": "text", "text": format!("x-anthropic-billing-header: cch={n};")});
        let more = body(json!({"system": [block, {"type": "text", "text": "be brief"}]}));
        post(server, "/v1/messages/count_tokens", more).await.ok()["input_tokens"].as_u64().unwrap()
    };
    let drops = server();
    assert!(count(&keeps, 1).await > count(&drops, 1).await);
    // Without it, a changed one does not change the prompt.
    let more = |n: u32| {
        json!({"max_tokens": 1, "system": [{"type": "text", "text": format!("x-anthropic-billing-header: cch={n};")},
        {"type": "text", "text": "you are ".repeat(50)}]})
    };
    ask(&drops, more(1)).await.ok();
    let again = ask(&drops, more(2)).await.ok();
    let usage = &again["usage"];
    assert!(
        usage["cache_read_input_tokens"].as_u64() > Some(50) && usage["input_tokens"].as_u64() < Some(5),
        "{usage}"
    );
}

fn weather() -> Value {
    json!([
        {"name": "weather", "description": "How it is", "input_schema": {
            "type": "object", "properties": {"place": {"enum": ["sea", "house"]}}, "required": ["place"],
            "additionalProperties": false,
        }},
        {"type": "web_search_20250305", "name": "web_search"},
    ])
}

#[tokio::test]
async fn a_required_tool_is_used_and_its_result_comes_back() {
    let server = server();
    for choice in [
        json!({"type": "any", "disable_parallel_tool_use": true}),
        json!({"type": "tool", "name": "weather", "disable_parallel_tool_use": true}),
    ] {
        let more = json!({"tools": weather(), "tool_choice": choice, "seed": 5, "max_tokens": 400});
        let answer = both(&server, more.clone()).await;
        assert_eq!(ask(&server, more).await.header("x-zonda-ignored-tools"), Some("web_search_20250305"));
        assert_eq!(answer["stop_reason"], "tool_use");
        let call = &answer["content"][0];
        assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("weather")));
        assert!(["sea", "house"].contains(&call["input"]["place"].as_str().unwrap()));
        let turns = json!([
            {"role": "user", "content": "how is it"},
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "warm"}]},
        ]);
        ask(&server, json!({"messages": turns, "tools": weather(), "max_tokens": 4})).await.ok();
    }
    let free =
        json!({"tools": weather(), "tool_choice": {"type": "none"}, "max_tokens": 4, "temperature": 0});
    assert_eq!(both(&server, free).await["content"][0]["type"], "text");
}

#[tokio::test]
async fn thoughts_are_blocks_if_thinking_is_on() {
    let server = thinker();
    let more = |kind: &str| json!({"seed": 3, "response_format": thought(), "thinking": {"type": kind}});
    for kind in ["enabled", "adaptive"] {
        let answer = both(&server, more(kind)).await;
        let thinking = answer["content"][0]["thinking"].as_str().unwrap();
        assert!(thinking.starts_with("hm, ") && thinking.len() == 7, "{answer}");
        assert_eq!(answer["content"][1], json!({"type": "text", "text": "yes"}));
        let turns = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "so"}]);
        ask(&server, json!({"messages": turns, "max_tokens": 2})).await.ok();
    }
    let answer = both(&server, more("disabled")).await;
    assert_eq!(answer["content"], json!([{"type": "text", "text": "yes"}]));

    let count = async |kind: &str| {
        let more = body(json!({"thinking": {"type": kind}}));
        post(&server, "/v1/messages/count_tokens", more).await.ok()["input_tokens"].as_u64().unwrap()
    };
    assert!(count("enabled").await > count("disabled").await, "the template opens the reasoning");
    let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "high"}, "max_tokens": 1});
    let answer = ask(&common::server(), budget).await;
    assert_eq!(
        answer.header("x-zonda-ignored-fields"),
        Some("output_config.effort, thinking.budget_tokens, thinking.type")
    );
    fails(
        &ask(&server, json!({"thinking": {"type": "some"}})).await,
        400,
        "invalid_request_error",
        "thinking.type",
    );
}

#[tokio::test]
async fn a_format_is_enforced() {
    let schema = json!({"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"], "additionalProperties": false});
    let server = server();
    let more = json!({"seed": 2, "max_tokens": 300, "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let answer = both(&server, more).await;
    let value: Value = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["warm"].is_boolean());
    let bad = json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "array", "uniqueItems": true}}}});
    fails(&ask(&server, bad).await, 400, "invalid_request_error", "output_config.format: ");
}

#[tokio::test]
async fn errors_have_anthropics_form() {
    let server = server();
    let bad = "invalid_request_error";
    let mut without = body(json!({}));
    without.as_object_mut().unwrap().remove("max_tokens");
    fails(&post(&server, PATH, without).await, 400, bad, "max_tokens");
    for (field, value, says) in [
        ("messages", json!([]), "messages"),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]),
            "messages[0].content[0].type",
        ),
        ("messages", json!("hi"), "messages"),
        ("tools", json!([{"description": "no name"}]), "tools[0].name"),
        ("tool_choice", json!({"type": "some"}), "tool_choice.type"),
        ("stop_sequences", json!(vec!["x"; 17]), "stop_sequences"),
        ("temperature", json!(-1), "temperature"),
        ("max_tokens", json!(0), "max_tokens"),
        ("n", json!(2), "n"),
    ] {
        let mut more = json!({});
        more[field] = value;
        fails(&ask(&server, more).await, 400, bad, says);
    }
    fails(&ask(&server, json!({"model": "claude"})).await, 404, "not_found_error", "claude");
    fails(&send(&server, request(PATH, "{")).await, 400, bad, "JSON");
    fails(&get(&server, PATH).await, 405, bad, "GET");
    let plain = Request::post(PATH).body(Body::from("{}")).unwrap();
    fails(&send(&server, plain).await, 415, bad, "content-type");
    // Other paths keep OpenAI's form.
    assert!(get(&server, "/v1/nothing").await.json()["error"]["code"].is_string());

    let options = MockOptions { faults: vec![Fault::call(3, FaultKind::Error)], ..MockOptions::default() };
    let broken = server_with(Config::default(), options, EngineConfig::default());
    let events =
        ask(&broken, json!({"max_tokens": 9, "ignore_eos": true, "stream": true})).await.named_events();
    assert_eq!(events.last().unwrap()["error"]["type"], "api_error");
    let metrics = get(&broken, "/metrics").await;
    assert!(
        metrics.text().contains("zonda_requests_total{path=\"/v1/messages\",status=\"200\"} 1"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn keys_come_in_either_header() {
    let config = Config { keys: Keys::new(["right"]), ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = request(PATH, body(json!({"max_tokens": 1})).to_string());
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        send(&server, request).await
    };
    for good in [
        &[("x-api-key", "right")][..],
        &[("authorization", "Bearer right")],
        &[("x-api-key", "no"), ("authorization", "Bearer right")],
    ] {
        let answer = ask(good).await;
        answer.ok();
        assert!(answer.header("request-id").is_some());
    }
    for bad in
        [&[][..], &[("x-api-key", "wrong")], &[("x-api-key", "wrong"), ("authorization", "Bearer wrong")]]
    {
        fails(&ask(bad).await, 401, "authentication_error", "key");
    }
}

#[tokio::test]
async fn a_stream_without_events_sends_pings() {
    let slow = MockOptions { ttft: Duration::from_millis(300), ..MockOptions::default() };
    let config = Config { keep_alive: Duration::from_millis(20), ..Config::default() };
    let server = server_with(config, slow, EngineConfig::default());
    let events = ask(&server, json!({"stream": true, "max_tokens": 1})).await.named_events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(&kinds[..4], ["message_start", "ping", "ping", "ping"], "pings come before the first token");
}
