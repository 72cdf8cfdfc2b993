//! Answers in a format: schemas, grammars and calls of tools; also a thousand generated JSON schemas, of which an independent
//! validator accepts the answer to each.

mod common;

use common::{chat, server};
use serde_json::{Map, Value, json};
use zonda_engine::sample::uniform;

/// Seeded random numbers.
struct Dice {
    seed: u64,
    thrown: usize,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.thrown += 1;
        (uniform(self.seed, self.thrown) * n as f64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

const NAMES: [&str; 8] = ["name", "place", "count", "tags", "is_warm", "naïve", "with space", "x-1"];
const PATTERNS: [&str; 4] = ["^[a-z]{2,6}$", "^(sea|house)-[0-9]{1,3}$", "^[A-F0-9]{4}$", "^\\d{4}-\\d{2}$"];
/// Without `time`, because our grammar allows second 60 at any time of day and the validator only at midnight, and without
/// `email`, because the grammar does not limit its length.
const FORMATS: [&str; 3] = ["date", "uuid", "ipv4"];

/// A schema with short answers: the mock writes random tokens, so strings and arrays need a length limit.
fn schema(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 8 } else { 13 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "null"}),
        2 => {
            let low = dice.below(100) as i64 - 50;
            json!({"type": "integer", "minimum": low, "maximum": low + dice.below(1000) as i64})
        }
        3 => {
            let low = dice.below(10) as f64 - 5.0;
            json!({"type": "number", "minimum": low, "exclusiveMaximum": low + 2.5})
        }
        4 => {
            let least = dice.below(4);
            json!({"type": "string", "minLength": least, "maxLength": least + dice.below(20)})
        }
        5 => json!({"type": "string", "pattern": dice.pick(&PATTERNS)}),
        6 => {
            let values = [json!(dice.below(9)), json!("sea"), json!(null), json!(true), json!({"a": [1]})];
            json!({"enum": values[..1 + dice.below(5)]})
        }
        7 if dice.below(2) == 0 => json!({"const": {"kind": dice.pick(&NAMES), "n": dice.below(5)}}),
        7 => json!({"type": "string", "format": dice.pick(&FORMATS)}),
        8 => {
            let least = dice.below(3);
            json!({"type": "array", "items": schema(dice, depth - 1), "minItems": least, "maxItems": least + dice.below(3)})
        }
        9 => {
            let first: Vec<Value> = (0..1 + dice.below(3)).map(|_| schema(dice, depth - 1)).collect();
            json!({"type": "array", "prefixItems": first, "items": false, "minItems": first.len()})
        }
        10 => {
            let some: Vec<Value> = (0..2 + dice.below(2)).map(|_| schema(dice, depth - 1)).collect();
            json!({"anyOf": some})
        }
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..dice.below(5) {
        properties.insert(dice.pick(&NAMES).to_owned(), schema(dice, depth.saturating_sub(1)));
    }
    let required: Vec<&String> = properties.keys().filter(|_| dice.below(3) > 0).collect();
    let required = json!(required);
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A complete schema, sometimes with definitions or recursion.
fn root(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!({
            "$defs": {"part": schema(dice, 1)},
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/part"}, "b": {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2}},
            "required": ["a"], "additionalProperties": false,
        }),
        1 => json!({
            "$defs": {"node": {
                "type": "object",
                "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 9}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["value", "next"], "additionalProperties": false,
            }},
            "$ref": "#/$defs/node",
        }),
        2 => object(dice, 3),
        _ => schema(dice, 3),
    }
}

#[tokio::test]
async fn a_thousand_schemas_are_followed() {
    let server = server();
    let mut dice = Dice { seed: 20_261_124, thrown: 0 };
    let (mut longest, mut objects) = (0, 0);
    for i in 0..1000 {
        let schema = root(&mut dice);
        let format = json!({"type": "json_schema", "json_schema": {"name": "generated", "schema": schema}});
        // Makes every token of the vocabulary possible; otherwise the mock repeats a few words.
        let ask = json!({
            "response_format": format, "seed": i, "max_tokens": 4000,
            "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0,
        });
        let answer = chat(&server, ask).await.ok();
        let choice = &answer["choices"][0];
        let content = choice["message"]["content"].as_str().unwrap();
        assert_eq!(choice["finish_reason"], "stop", "schema {i}: {schema}\n{content}");
        let value: Value =
            serde_json::from_str(content).unwrap_or_else(|e| panic!("schema {i}: {schema}\n{content}\n{e}"));
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("schema {i}: {schema}\n{content}\n{error}");
        }
        longest = longest.max(content.len());
        objects += usize::from(value.is_object());
    }
    assert!(longest > 200 && objects > 200, "{objects} objects, the longest answer has {longest} bytes");
}

#[tokio::test]
async fn answers_follow_json_schemas_and_grammars() {
    let server = server();
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "warm": {"type": "boolean"}},
        "required": ["city", "warm"], "additionalProperties": false,
    });
    let ask = |format: Value| json!({"max_tokens": 300, "seed": 3, "response_format": format});
    let content = |answer: Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": true}});
    let answer = chat(&server, ask(format)).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    let value: Value = serde_json::from_str(&content(answer)).unwrap();
    assert!(value["city"].is_string() && value["warm"].is_boolean() && value.as_object().unwrap().len() == 2);

    let regex = json!({"type": "grammar", "syntax": "regex", "definition": "(sea|house) [0-9]{3}"});
    let text = content(chat(&server, ask(regex)).await.ok());
    assert!(text.len() >= 7 && text.split(' ').next_back().unwrap().parse::<u32>().is_ok(), "{text}");
    let lark =
        json!({"type": "grammar", "syntax": "lark", "definition": "start: \"the \" (\"sea\" | \"house\")"});
    assert!(["the sea", "the house"].contains(&content(chat(&server, ask(lark)).await.ok()).as_str()));

    let unsupported = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": true}}});
    let error = chat(&server, ask(unsupported)).await.fails(400, "uniqueItems");
    assert_eq!(error["param"], "response_format");
    chat(&server, ask(json!({"type": "json_schema", "json_schema": {"name": "x"}})))
        .await
        .fails(400, "schema");
    chat(&server, ask(json!({"type": "yaml"}))).await.fails(400, "yaml");
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "How it is", "parameters": {
        "type": "object", "properties": {"place": {"enum": ["sea", "house"]}}, "required": ["place"],
        "additionalProperties": false,
    }}}])
}

#[tokio::test]
async fn a_required_tool_is_called() {
    let server = server();
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})] {
        let ask = |stream: bool| {
            json!({
                "tools": weather(), "tool_choice": choice, "parallel_tool_calls": false, "seed": 5, "stream": stream,
            })
        };
        let answer = chat(&server, ask(false)).await.ok();
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null)
        );
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(["sea", "house"].contains(&arguments["place"].as_str().unwrap()));

        let events = chat(&server, ask(true)).await.events();
        let calls: Vec<&Value> =
            events.iter().flat_map(|e| e["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
        assert_eq!((calls.len(), &calls[0]["index"]), (1, &json!(0)));
        assert_eq!(calls[0]["function"], call["function"]);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        // The tool's result is sent back.
        let follow_up = json!([
            {"role": "user", "content": "how is it"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "warm"},
        ]);
        chat(&server, json!({"messages": follow_up, "tools": weather(), "max_tokens": 4})).await.ok();
    }
    let free = chat(&server, json!({"tools": weather(), "max_tokens": 4, "temperature": 0})).await.ok();
    assert!(free["choices"][0]["message"]["content"].is_string());
}
