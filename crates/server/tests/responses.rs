//! `/v1/responses` on the mock: items in and out, streams, tools, reasoning, stored answers, errors.

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Answer, get, post, send, server, server_with, thinker, thought};
use serde_json::{Value, json};
use std::sync::Arc;
use zonda_engine::EngineConfig;
use zonda_engine::mock::{Fault, FaultKind, MockOptions};
use zonda_server::{Config, Keys, Server};

async fn ask(server: &Arc<Server>, body: Value) -> Answer {
    let mut body = body;
    if body.get("input").is_none() {
        body["input"] = "how are you".into();
    }
    post(server, "/v1/responses", body).await
}

fn streamed(body: &Value) -> Value {
    let mut body = body.clone();
    body["stream"] = json!(true);
    body
}

/// An item without its id and status.
fn essence(item: &Value) -> Value {
    let mut item = item.clone();
    for key in ["id", "status", "call_id"] {
        item.as_object_mut().unwrap().remove(key);
    }
    item
}

/// Checks the events of a stream and returns its last response.
#[track_caller]
fn check(events: &[Value], last: &str) -> Value {
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    assert_eq!(
        (&events[0]["type"], &events[1]["type"]),
        (&json!("response.created"), &json!("response.in_progress"))
    );
    assert_eq!(events[0]["response"]["output"], json!([]));
    let end = events.last().unwrap();
    assert_eq!(end["type"], last);
    let response = end["response"].clone();
    assert_eq!(response["id"], events[0]["response"]["id"]);
    let of = |kind: &str, index: usize| -> Vec<&Value> {
        events.iter().filter(|e| e["type"] == kind && e["output_index"] == index).collect()
    };
    for (i, item) in response["output"].as_array().unwrap().iter().enumerate() {
        let (added, done) = (of("response.output_item.added", i), of("response.output_item.done", i));
        assert_eq!((added.len(), done.len()), (1, 1));
        assert_eq!(done[0]["item"], *item);
        assert_eq!(
            (&added[0]["item"]["id"], &added[0]["item"]["status"]),
            (&item["id"], &json!("in_progress"))
        );
        let (name, whole) = match item["type"].as_str().unwrap() {
            "message" => ("output_text", &item["content"][0]["text"]),
            "reasoning" => ("reasoning_text", &item["content"][0]["text"]),
            "function_call" => ("function_call_arguments", &item["arguments"]),
            other => panic!("{other}"),
        };
        let deltas = of(&format!("response.{name}.delta"), i);
        assert!(deltas.iter().all(|e| e["item_id"] == item["id"]));
        let text: String = deltas.iter().map(|e| e["delta"].as_str().unwrap()).collect();
        assert_eq!(*whole, text);
        let end = of(&format!("response.{name}.done"), i);
        let said = end[0].get("text").or(end[0].get("arguments")).unwrap();
        assert_eq!((end.len(), said), (1, whole));
        let parts = usize::from(item["type"] != "function_call");
        assert_eq!(of("response.content_part.added", i).len(), parts);
        assert_eq!(of("response.content_part.done", i).len(), parts);
    }
    response
}

#[tokio::test]
async fn a_text_is_answered_whole_and_streamed() {
    let server = server();
    let body = json!({"model": "mock", "max_output_tokens": 6, "temperature": 0, "metadata": {"a": "b"}, "prompt_cache_key": "k"});
    let whole = ask(&server, body.clone()).await.ok();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("response"), &json!("mock")));
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!((&whole["metadata"]["a"], &whole["prompt_cache_key"]), (&json!("b"), &json!("k")));
    let item = &whole["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("incomplete"))
    );
    assert_eq!(item["content"][0]["text"].as_str().unwrap().split_whitespace().count(), 6);
    assert_eq!(
        (&item["content"][0]["type"], &item["content"][0]["annotations"]),
        (&json!("output_text"), &json!([]))
    );
    assert_eq!(whole["usage"]["output_tokens"], 6);
    let input = whole["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(whole["usage"]["total_tokens"], input + 6);

    let last = check(&ask(&server, streamed(&body)).await.named_events(), "response.incomplete");
    assert_eq!(essence(&last["output"][0]), essence(item));
    assert!(last["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);

    let natural = json!({"temperature": 0, "max_output_tokens": 400});
    let whole = ask(&server, natural.clone()).await.ok();
    assert_eq!((&whole["status"], &whole["output"][0]["status"]), (&json!("completed"), &json!("completed")));
    assert!(whole["completed_at"].is_u64());
    check(&ask(&server, streamed(&natural)).await.named_events(), "response.completed");
}

#[tokio::test]
async fn it_answers_as_a_chat_does() {
    let server = server();
    let chat = common::chat(
        &server,
        json!({
            "temperature": 0, "max_tokens": 5,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how is the sea"}],
        }),
    );
    let chat = chat.await.ok();
    for input in [
        json!("how is the sea"),
        json!([{"role": "user", "content": [{"type": "input_text", "text": "how is the sea"}]}]),
    ] {
        let body =
            json!({"instructions": "be brief", "input": input, "temperature": 0, "max_output_tokens": 5});
        let answer = ask(&server, body.clone()).await.ok();
        assert_eq!(answer["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
        assert_eq!(answer["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
        let counted = post(&server, "/v1/responses/input_tokens", body).await.ok();
        assert_eq!(counted["object"], "response.input_tokens");
        assert_eq!(counted["input_tokens"], chat["usage"]["prompt_tokens"]);
    }
}

fn weather() -> Value {
    json!([
        {"type": "web_search"},
        {"type": "function", "name": "weather", "description": "How it is", "strict": true, "parameters": {
            "type": "object", "properties": {"place": {"enum": ["sea", "house"]}}, "required": ["place"],
            "additionalProperties": false,
        }},
        {"type": "custom", "name": "apply_patch"},
    ])
}

#[tokio::test]
async fn a_required_function_is_called_and_its_result_comes_back() {
    let server = server();
    for choice in [json!("required"), json!({"type": "function", "name": "weather"})] {
        let body =
            json!({"tools": weather(), "tool_choice": choice, "parallel_tool_calls": false, "seed": 5});
        let answer = ask(&server, body.clone()).await;
        assert_eq!(answer.header("x-zonda-ignored-tools"), Some("custom:apply_patch, web_search"));
        let whole = answer.ok();
        let call = &whole["output"][0];
        assert_eq!(
            (&call["type"], &call["name"], &whole["status"]),
            (&json!("function_call"), &json!("weather"), &json!("completed"))
        );
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(["sea", "house"].contains(&arguments["place"].as_str().unwrap()));
        assert_eq!(whole["tools"], weather());
        let last = check(&ask(&server, streamed(&body)).await.named_events(), "response.completed");
        assert_eq!(essence(&last["output"][0]), essence(call));

        let input = json!([
            {"role": "user", "content": "how is it"}, call,
            {"type": "function_call_output", "call_id": call["call_id"], "output": "warm"},
        ]);
        let more = ask(
            &server,
            json!({"input": input, "tools": weather(), "max_output_tokens": 4, "ignore_eos": true}),
        )
        .await
        .ok();
        let result = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "warm"}]);
        let by_id = json!({"previous_response_id": whole["id"], "input": result, "max_output_tokens": 4});
        assert_eq!(ask(&server, by_id).await.ok()["previous_response_id"], whole["id"]);
        assert_eq!(more["usage"]["output_tokens"], 4);
    }
}

#[tokio::test]
async fn a_format_is_enforced() {
    let server = server();
    let schema = json!({
        "type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"], "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "name": "weather", "schema": schema, "strict": true});
    let answer = ask(&server, json!({"text": {"format": format, "verbosity": "low"}, "seed": 3})).await;
    assert_eq!(answer.header("x-zonda-ignored-fields"), Some("text.verbosity"));
    let answer = answer.ok();
    let value: Value =
        serde_json::from_str(answer["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["warm"].is_boolean());
    assert_eq!(answer["text"]["format"]["schema"], schema);
    let bad = json!({"type": "json_schema", "name": "x", "schema": {"type": "array", "uniqueItems": true}});
    let error = ask(&server, json!({"text": {"format": bad}})).await.fails(400, "uniqueItems");
    assert_eq!(error["param"], "text.format");
}

#[tokio::test]
async fn reasoning_is_an_item() {
    let server = thinker();
    let body = json!({"seed": 3, "response_format": thought()});
    let whole = ask(&server, body.clone()).await.ok();
    let (thoughts, said) = (&whole["output"][0], &whole["output"][1]);
    assert_eq!((&thoughts["type"], &thoughts["summary"]), (&json!("reasoning"), &json!([])));
    let text = thoughts["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("hm, ") && text.len() == 7, "{text}");
    assert_eq!(said["content"][0]["text"], "yes");
    let counts = &whole["usage"];
    let reasoned = counts["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(reasoned > 0 && reasoned < counts["output_tokens"].as_u64().unwrap(), "{counts}");
    let last = check(&ask(&server, streamed(&body)).await.named_events(), "response.completed");
    assert_eq!(essence(&last["output"][0]), essence(thoughts));
    // The items come back as they are.
    let input =
        json!([{"role": "user", "content": "hi"}, thoughts, said, {"role": "user", "content": "and now"}]);
    ask(&server, json!({"input": input, "max_output_tokens": 2})).await.ok();
}

#[tokio::test]
async fn effort_reaches_templates_that_know_it_and_is_named_otherwise() {
    let count = async |server: &Arc<Server>, effort: &str| {
        let body = json!({"input": "hi", "reasoning": {"effort": effort, "summary": "auto"}});
        post(server, "/v1/responses/input_tokens", body).await.ok()["input_tokens"].as_u64().unwrap()
    };
    let thinker = thinker();
    assert!(
        count(&thinker, "high").await > count(&thinker, "none").await,
        "the template opens the reasoning"
    );
    let plain = ask(&server(), json!({"reasoning": {"effort": "high"}, "max_output_tokens": 1})).await;
    assert_eq!(plain.header("x-zonda-ignored-fields"), Some("reasoning.effort"));
    assert_eq!(plain.ok()["reasoning"]["effort"], "high");
}

#[tokio::test]
async fn a_probe_without_input_is_answered() {
    let server = server();
    for input in [json!([]), json!("")] {
        let body = json!({"model": "mock", "input": input, "max_output_tokens": 1, "store": false, "stream": true,
            "include": ["reasoning.encrypted_content"], "client_metadata": {"a": "b"}, "tools": [], "tool_choice": "auto", "ignore_eos": true});
        let answer = ask(&server, body).await;
        assert_eq!(answer.header("x-zonda-ignored-fields"), None);
        assert_eq!(check(&answer.named_events(), "response.incomplete")["usage"]["output_tokens"], 1);
    }
    assert_eq!(get(&server, "/v1/models").await.ok()["models"], json!([]));
}

#[tokio::test]
async fn stored_answers_go_on() {
    let server = server();
    let ask_more = async |more: Value| {
        let mut body = json!({"temperature": 0, "max_output_tokens": 5});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask(&server, body).await
    };
    for streams in [false, true] {
        let first =
            ask_more(json!({"input": "how is the sea", "instructions": "be brief", "stream": streams})).await;
        let first = if streams { check(&first.named_events(), "response.incomplete") } else { first.ok() };
        let id = first["id"].as_str().unwrap();
        assert_eq!(get(&server, &format!("/v1/responses/{id}")).await.ok(), first);
        let second = ask_more(json!({"input": "and the wind", "previous_response_id": id})).await.ok();
        let by_hand = json!([
            {"role": "user", "content": "how is the sea"}, first["output"][0], {"role": "user", "content": "and the wind"},
        ]);
        let by_hand = ask_more(json!({"input": by_hand, "store": false})).await.ok();
        assert_eq!(second["output"][0]["content"], by_hand["output"][0]["content"]);
        assert_eq!(
            second["usage"]["input_tokens"], by_hand["usage"]["input_tokens"],
            "without the instructions"
        );
        get(&server, &format!("/v1/responses/{}", by_hand["id"].as_str().unwrap())).await.fails(404, "resp_");

        let delete = || Request::delete(format!("/v1/responses/{id}")).body(Body::empty()).unwrap();
        assert_eq!(
            send(&server, delete()).await.ok(),
            json!({"id": id, "object": "response", "deleted": true})
        );
        send(&server, delete()).await.fails(404, id);
        let gone = ask_more(json!({"previous_response_id": id})).await.fails(404, id);
        assert_eq!(
            (&gone["param"], &gone["code"]),
            (&json!("previous_response_id"), &json!("response_not_found"))
        );
    }
}

#[tokio::test]
async fn a_stored_conversation_has_the_limit_of_a_body_and_of_the_store() {
    let config = Config { max_body: 2000, stored_responses: 1, ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    let body = |previous: Value| json!({"input": "the sea ".repeat(100), "max_output_tokens": 1, "previous_response_id": previous});
    let first = ask(&server, body(json!(null))).await.ok();
    let second = ask(&server, body(first["id"].clone())).await.ok();
    let refused = ask(&server, body(second["id"].clone())).await.fails(413, "at most 2000 bytes");
    assert_eq!(refused["code"], "body_too_large");
    ask(&server, body(first["id"].clone())).await.fails(404, "newer ones took its place");
}

#[tokio::test]
async fn an_answer_belongs_to_its_key() {
    let config = Config { keys: Keys::new(["one", "two"]), ..Config::default() };
    let server = server_with(config, MockOptions::default(), EngineConfig::default());
    let with = |request: Request<Body>, key: &str| {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        Request::from_parts(parts, body)
    };
    let body = json!({"input": "hi", "max_output_tokens": 1}).to_string();
    let made = send(&server, with(common::request("/v1/responses", body.clone()), "one")).await.ok();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    let look = || Request::get(&path).body(Body::empty()).unwrap();
    send(&server, with(look(), "one")).await.ok();
    send(&server, with(look(), "two")).await.fails(404, "resp_");
    send(&server, look()).await.fails(401, "key");
}

#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let server = server();
    for (field, value, param) in [
        ("background", json!(true), "background"),
        ("conversation", json!("c"), "conversation"),
        ("prompt", json!({"id": "p"}), "prompt"),
        ("truncation", json!("auto"), "truncation"),
        ("truncation", json!("some"), "truncation"),
        ("top_logprobs", json!(2), "top_logprobs"),
        ("include", json!(["message.output_text.logprobs"]), "include"),
        ("n", json!(2), "n"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0].content"),
        ("input", json!({}), "input"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("temperature", json!(-1), "temperature"),
    ] {
        let mut body = json!({"max_output_tokens": 1});
        body[field] = value.clone();
        let error = ask(&server, body).await.fails(400, param);
        assert!(error["param"].as_str().unwrap().starts_with(param), "{field}: {value}: {error}");
    }
    ask(&server, json!({"model": "gpt-5"})).await.fails(404, "gpt-5");
    get(&server, "/v1/responses/none").await.fails(404, "none");
    get(&server, "/v1/responses").await.fails(405, "GET");
}

#[tokio::test]
async fn a_failure_in_a_stream_is_an_event() {
    let options = MockOptions { faults: vec![Fault::call(3, FaultKind::Error)], ..MockOptions::default() };
    let server = server_with(Config::default(), options, EngineConfig::default());
    let body = json!({"max_output_tokens": 9, "ignore_eos": true, "stream": true});
    let events = ask(&server, body).await.named_events();
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "server_error");
    let metrics = get(&server, "/metrics").await;
    assert!(
        metrics.text().contains("zonda_requests_total{path=\"/v1/responses\",status=\"200\"} 1"),
        "{}",
        metrics.text()
    );
}
