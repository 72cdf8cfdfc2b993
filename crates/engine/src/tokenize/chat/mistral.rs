//! Filters of Mistral's built-in templates: a conversation as the turns that Mistral's formats write, tools and settings as
//! they write them. Rules as in `mistral-common` 1.13.

use super::functions::Raised;
use super::numbers::read_exact;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value, json};

/// What joins the texts of messages that follow one another in one role.
const JOIN: &str = "\n\n";

/// Adds the filters to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("mistral_turns", |messages: Serde<Value>, arguments: Kwargs| {
        let version = arguments.get::<u32>("version")?;
        arguments.assert_all_used()?;
        Ok::<_, Error>(Jinja::from(Serde(turns(messages.0, version))))
    });
    environment.add_filter("json_or_text", json_or_text);
    environment.add_filter("mistral_tools", |tools: Serde<Value>| Jinja::from(Serde(tools_of(&tools.0))));
    environment.add_filter("mistral_settings", |settings: Serde<Value>, arguments: Kwargs| {
        let effort = arguments.get::<Option<Serde<Value>>>("effort")?.map_or(Value::Null, |value| value.0);
        let schema = arguments.get::<Option<Serde<Value>>>("schema")?.map_or(Value::Null, |value| value.0);
        arguments.assert_all_used()?;
        let settings = settings_of(&settings.0, effort, schema);
        let refused =
            |why: String| Error::new(ErrorKind::InvalidOperation, why.clone()).with_source(Raised(why));
        Ok::<_, Error>(Jinja::from(Serde(settings.map_err(refused)?)))
    });
}

/// The value of a text if it is JSON, else the text.
fn json_or_text(value: Jinja) -> Jinja {
    let parsed = value.as_str().and_then(|text| read_exact(text).ok());
    parsed.map_or(value, |json| Jinja::from(Serde(json)))
}

/// The turns of a conversation: messages of users that follow one another are one, those of the assistant, too. Each has its
/// `index`, `role` and `content`. The assistant's have `parts` (`{"thinking"}` or `{"text"}`) and `tool_calls` (`{"name",
/// "arguments", "id"}`). Up to v3, system messages are left out, and a conversation begins with the user. From v11 on, results
/// of tools are in the order of the calls.
fn turns(messages: Value, version: u32) -> Value {
    let Value::Array(messages) = messages else { return json!([]) };
    let mut out: Vec<Value> = Vec::new();
    // Ids of the calls since the last results.
    let mut calls: Vec<String> = Vec::new();
    let mut rest = messages.as_slice();
    while let Some(first) = rest.first() {
        let role = first["role"].as_str().unwrap_or_default();
        let length = rest.iter().take_while(|message| message["role"] == first["role"]).count();
        let (run, after) = rest.split_at(length);
        rest = after;
        match role {
            "user" => out.push(json!({"role": "user", "content": joined(run.iter().map(content))})),
            "assistant" => out.push(assistant(run, version, &mut calls)),
            "tool" => {
                let mut results = run.to_vec();
                if version >= 11 {
                    let place = |result: &Value| {
                        let id = result["tool_call_id"].as_str().unwrap_or_default();
                        // Of two calls with one id, the later one counts.
                        calls.iter().rposition(|call| call == id).unwrap_or(usize::MAX)
                    };
                    results.sort_by_key(place);
                }
                out.extend(results);
                calls.clear();
            }
            "system" if version <= 3 => {}
            _ => out.extend(run.iter().cloned()),
        }
    }
    let begins = out.first().is_some_and(|turn| version > 3 || turn["role"] == "user");
    if !begins {
        out.insert(0, json!({"role": "user", "content": ""}));
    }
    for (index, turn) in out.iter_mut().enumerate() {
        turn["index"] = index.into();
    }
    Value::Array(out)
}

/// The assistant's messages as one turn.
fn assistant(run: &[Value], version: u32, ids: &mut Vec<String>) -> Value {
    let mut parts: Vec<Value> = Vec::new();
    // The text since the last thought.
    let mut text = String::new();
    let flush = |text: &mut String, parts: &mut Vec<Value>| {
        if !text.is_empty() {
            parts.push(json!({"text": std::mem::take(text)}));
        }
    };
    let mut tool_calls = Vec::new();
    for message in run {
        if let Some(thinking) = thinking(message).filter(|_| version >= 13) {
            flush(&mut text, &mut parts);
            parts.push(json!({"thinking": thinking}));
        }
        let content = content(message);
        if !content.is_empty() {
            if !text.is_empty() {
                text.push_str(JOIN);
            }
            text.push_str(content);
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            tool_calls.push(tool_call(call, version));
            ids.extend(call["id"].as_str().map(str::to_owned));
        }
    }
    if parts.is_empty() && version >= 2 {
        // Text alone loses the spaces at its end.
        text.truncate(text.trim_end_matches(' ').len());
    }
    let content = text.clone();
    flush(&mut text, &mut parts);
    json!({"role": "assistant", "content": content, "parts": parts, "tool_calls": tool_calls})
}

fn tool_call(call: &Value, version: u32) -> Value {
    let arguments = match &call["function"]["arguments"] {
        Value::Null => json!({}),
        Value::String(text) if text.is_empty() => json!({}),
        Value::String(text) => read_exact(text).unwrap_or_else(|_| text.as_str().into()),
        other => other.clone(),
    };
    let mut out = json!({"name": call["function"]["name"], "arguments": arguments});
    if let Some(id) = call["id"].as_str().filter(|id| version >= 3 && !id.is_empty() && *id != "null") {
        out["id"] = id.into();
    }
    out
}

fn content(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

fn thinking(message: &Value) -> Option<&str> {
    message["reasoning_content"].as_str().or_else(|| message["reasoning"].as_str())
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(JOIN)
}

/// Tools with the fields that Mistral's formats write, in their order.
fn tools_of(tools: &Value) -> Value {
    let tool = |tool: &Value| {
        let function = &tool["function"];
        let or = |value: &Value, default: Value| if value.is_null() { default } else { value.clone() };
        json!({"type": "function", "function": {
            "name": function["name"],
            "description": or(&function["description"], "".into()),
            "parameters": or(&function["parameters"], json!({})),
        }})
    };
    tools.as_array().into_iter().flatten().map(tool).collect()
}

/// The settings of a v15 prompt, from the tokenizer file's `model_settings_builder`: each that the model has, as the request
/// says or else its default.
fn settings_of(model: &Value, effort: Value, schema: Value) -> Result<Value, String> {
    let mut out = Map::new();
    if !model["json_schema"].is_null() && !schema.is_null() {
        out.insert("json_schema".to_owned(), schema);
    }
    let efforts = &model["reasoning_effort"];
    if efforts.is_null() {
        return match effort {
            Value::Null => Ok(out.into()),
            _ => Err("this model has no reasoning_effort".to_owned()),
        };
    }
    let effort = if effort.is_null() { efforts["default"].clone() } else { effort };
    if !efforts["values"].as_array().is_some_and(|values| values.contains(&effort)) {
        return Err(format!("reasoning_effort: expected one of {}, found {effort}", efforts["values"]));
    }
    out.insert("reasoning_effort".to_owned(), effort);
    Ok(out.into())
}
