//! `reasoning_content` beside `content`, whole and in streams, on a mock that is made to think.

mod common;

use common::{chat, thinker_with, thought};
use serde_json::{Value, json};
use std::sync::Arc;
use zonda_server::{Config, Server};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: {% if opened %}<think>\n{% endif %}\
    {% if reasoning_effort %}{% endif %}";

fn server(separate: bool) -> Arc<Server> {
    thinker_with(TEMPLATE, Config { separate_reasoning: separate, ..Config::default() })
}

/// A request whose answer is `<think>hm …</think>yes`.
fn thinks(more: Value) -> Value {
    let mut body = json!({"seed": 3, "response_format": thought()});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn reasoning_is_beside_the_content() {
    let server = server(true);
    let message = chat(&server, thinks(json!({}))).await.ok()["choices"][0]["message"].clone();
    assert_eq!(message["content"], "yes");
    let reasoning = message["reasoning_content"].as_str().unwrap();
    assert!(reasoning.starts_with("hm, ") && reasoning.len() == 7, "{reasoning:?}");

    let events = chat(&server, thinks(json!({"stream": true}))).await.events();
    let said = |field: &str| -> String {
        events.iter().filter_map(|event| event["choices"][0]["delta"][field].as_str()).collect()
    };
    assert_eq!((said("content"), said("reasoning_content")), ("yes".to_owned(), reasoning.to_owned()));
    let both = |event: &&Value| {
        let delta = &event["choices"][0]["delta"];
        delta["content"].as_str().is_some_and(|text| !text.is_empty())
            && delta["reasoning_content"].is_string()
    };
    assert_eq!(events.iter().filter(both).count(), 0);
}

#[tokio::test]
async fn it_can_stay_in_the_content() {
    let raw = |message: &Value| {
        let content = message["content"].as_str().unwrap();
        content.starts_with("<think>\nhm, ") && message.get("reasoning_content").is_none()
    };
    for (separate, format, expected) in [
        (true, Some("none"), true),
        (false, None, true),
        (false, Some("auto"), false),
        (true, Some("deepseek"), false),
    ] {
        let server = server(separate);
        let more = format.map_or(json!({}), |format| json!({"reasoning_format": format}));
        let answer = chat(&server, thinks(more)).await.ok();
        assert_eq!(raw(&answer["choices"][0]["message"]), expected, "{separate} {format:?}: {answer}");
    }
    chat(&server(true), json!({"reasoning_format": "yaml"})).await.fails(400, "yaml");
}

#[tokio::test]
async fn an_answer_begins_within_reasoning_that_the_prompt_opened() {
    let server = server(true);
    let ask = |opened: bool| json!({"max_tokens": 12, "seed": 2, "ignore_eos": true, "n": 2, "chat_template_kwargs": {"opened": opened}});
    for (opened, field, other) in
        [(true, "reasoning_content", "content"), (false, "content", "reasoning_content")]
    {
        let answer = chat(&server, ask(opened)).await.ok();
        for choice in answer["choices"].as_array().unwrap() {
            let text = |field: &str| choice["message"][field].as_str().unwrap_or_default().to_owned();
            assert!(!text(field).is_empty() && text(other).is_empty(), "{opened}: {choice}");
        }
    }
}

#[tokio::test]
async fn effort_is_for_templates_that_read_it() {
    chat(&server(true), json!({"reasoning_effort": "high", "max_tokens": 2})).await.ok();
    let error =
        chat(&common::server(), json!({"reasoning_effort": "high"})).await.fails(400, "reasoning_effort");
    assert_eq!(error["param"], "reasoning_effort");
}
