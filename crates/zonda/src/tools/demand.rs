//! Required calls: the grammar of an answer that calls a function, in the model's own format.

use super::choice::{ToolChoice, Tools};
use super::error::ToolError;
use super::format::Format;
use super::style::Style;
use serde_json::{Map, Value, json};
use zonda_engine::Grammar;
use zonda_engine::tokenize::Tokenizer;

impl Style {
    /// The grammar of an answer: calls if `tool_choice` requires them; otherwise, if the answer has a format, calls or
    /// that format.
    ///
    /// # Errors
    /// If a required format can't be combined with calls.
    pub(super) fn grammar(
        self,
        tools: &Tools,
        format: Option<Grammar>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Grammar>, ToolError> {
        let named = match &tools.choice {
            ToolChoice::None => return self.in_channel(format, tokenizer),
            ToolChoice::Auto if format.is_none() => return Ok(None),
            ToolChoice::Function(name) => Some(name.as_str()),
            ToolChoice::Auto | ToolChoice::Required => None,
        };
        let functions =
            tools.functions().filter(|(name, _)| named.is_none_or(|n| n == *name)).collect::<Vec<_>>();
        let calls = self.calls(&functions, tools.parallel && named.is_none(), tokenizer);
        let start = match (format, &tools.choice) {
            (Some(format), ToolChoice::Auto) => {
                let answer = format
                    .as_lark_value()
                    .map_err(|e| ToolError::unsupported("response_format", format!("with tools: {e}")))?;
                let header = self.header(tokenizer);
                format!("start: calls | {header}answer\nanswer: {answer}\n")
            }
            _ => "start: calls\n".to_owned(),
        };
        Ok(Some(Grammar::Lark(start + &calls)))
    }

    /// The grammar of an answer in a format, behind the header that the model's answers have.
    fn in_channel(
        self,
        format: Option<Grammar>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Grammar>, ToolError> {
        let Some(format) = format.as_ref().filter(|_| self.channels()) else { return Ok(format) };
        let unsupported = |e| ToolError::unsupported("response_format", format!("with this model: {e}"));
        let answer = format.as_lark_value().map_err(unsupported)?;
        let header = self.header(tokenizer);
        Ok(Some(Grammar::Lark(format!("start: {header}answer\nanswer: {answer}\n"))))
    }

    /// What stands before an answer's text, in a grammar.
    fn header(self, tokenizer: &Tokenizer) -> String {
        if !self.channels() {
            return String::new();
        }
        format!("{} \"final\" {} ", mark(tokenizer, "<|channel|>"), mark(tokenizer, "<|message|>"))
    }

    /// The rule `calls` and the rules it needs.
    fn calls(self, functions: &[(&str, Value)], parallel: bool, tokenizer: &Tokenizer) -> String {
        let mark = |name: &str| mark(tokenizer, name);
        let arguments = if self.format == Format::Llama3 { "parameters" } else { "arguments" };
        // Inside the schema of a call, a `$ref` would point elsewhere, so schemas with references become definitions.
        let mut definitions = Map::new();
        let mut inside = |i: usize, schema: &Value| {
            if !has_ref(schema) {
                return schema.clone();
            }
            let (name, mut schema) = (format!("arguments{i}"), schema.clone());
            let root = format!("#/$defs/{name}");
            move_refs(&mut schema, &root);
            definitions.insert(name, schema);
            json!({ "$ref": root })
        };
        let call = any_of(functions.iter().enumerate().map(|(i, (name, schema))| {
            let schema = inside(i, schema);
            json!({
                "type": "object",
                "properties": {"name": {"const": name}, arguments: schema},
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        }));
        let whole = |mut schema: Value| {
            if !definitions.is_empty() {
                schema["$defs"] = Value::Object(definitions.clone());
            }
            compiled(&schema)
        };
        let list = |call: &Value| {
            let most = if parallel { Value::Null } else { json!(1) };
            let mut list = json!({"type": "array", "items": call, "minItems": 1});
            if !most.is_null() {
                list["maxItems"] = most;
            }
            whole(list)
        };
        let again = if parallel { "+" } else { "" };
        match self.format {
            Format::Mistral => format!("calls: {} list\nlist: {}\n", mark("[TOOL_CALLS]"), list(&call)),
            Format::MistralNamed => {
                let one = |(i, (name, schema)): (usize, &(&str, Value))| {
                    let (calls, args) = (mark("[TOOL_CALLS]"), mark("[ARGS]"));
                    let name = Value::from(*name);
                    (
                        format!("call{i}"),
                        format!("call{i}: {calls} {name} {args} args{i}\nargs{i}: {}\n", compiled(schema)),
                    )
                };
                let (names, rules): (Vec<String>, Vec<String>) =
                    functions.iter().enumerate().map(one).unzip();
                format!("calls: ({}){again}\n{}", names.join(" | "), rules.concat())
            }
            // Several calls are separated by semicolons.
            Format::Llama3 => {
                let more = if parallel { " (\"; \" call)*" } else { "" };
                format!("calls: call{more}\ncall: {}\n", whole(call))
            }
            Format::Tagged => {
                let (open, close) = (mark("<tool_call>"), mark("</tool_call>"));
                let more = if parallel {
                    format!(" (\"\\n\" {open} \"\\n\" call \"\\n\" {close})*")
                } else {
                    String::new()
                };
                format!("calls: {open} \"\\n\" call \"\\n\" {close}{more}\ncall: {}\n", whole(call))
            }
            Format::TaggedList => {
                let (open, close) = (mark("<tool_call>"), mark("</tool_call>"));
                format!("calls: {open} list {close}\nlist: {}\n", list(&call))
            }
            // One call ends the answer.
            Format::Harmony => {
                let one = |(i, (name, schema)): (usize, &(&str, Value))| {
                    let to = Value::from(format!("commentary to=functions.{name} "));
                    let (channel, constrain) = (mark("<|channel|>"), mark("<|constrain|>"));
                    let header = format!("{channel} {to} {constrain} \"json\" {}", mark("<|message|>"));
                    (
                        format!("call{i}"),
                        format!("call{i}: {header} args{i}\nargs{i}: {}\n", compiled(schema)),
                    )
                };
                let (names, rules): (Vec<String>, Vec<String>) =
                    functions.iter().enumerate().map(one).unzip();
                format!("calls: {}\n{}", names.join(" | "), rules.concat())
            }
        }
    }
}

/// A mark in a grammar: the control token of this name, or its characters if there is none.
fn mark(tokenizer: &Tokenizer, name: &str) -> String {
    match tokenizer.token_id(name).filter(|&id| tokenizer.is_special(id)) {
        Some(id) => format!("<[{id}]>"),
        None => Value::from(name).to_string(),
    }
}

fn any_of(calls: impl ExactSizeIterator<Item = Value>) -> Value {
    let mut calls: Vec<Value> = calls.collect();
    if calls.len() == 1 { calls.remove(0) } else { json!({"anyOf": calls}) }
}

/// Keywords whose values are data, and those whose values are schemas by name.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Calls `seen` with each `$ref` that points into the schema itself.
fn each_ref(schema: &mut Value, seen: &mut dyn FnMut(&mut String)) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| each_ref(item, seen)),
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                match (key.as_str(), field) {
                    ("$ref", Value::String(target)) if target.starts_with('#') => seen(target),
                    (key, Value::Object(named)) if NAMED.contains(&key) => {
                        named.values_mut().for_each(|schema| each_ref(schema, seen));
                    }
                    (key, _) if DATA.contains(&key) => {}
                    (_, field) => each_ref(field, seen),
                }
            }
        }
        _ => {}
    }
}

fn has_ref(schema: &Value) -> bool {
    let mut found = false;
    each_ref(&mut schema.clone(), &mut |_| found = true);
    found
}

/// Adapts a schema's own `$ref`s to its new position.
fn move_refs(schema: &mut Value, root: &str) {
    each_ref(schema, &mut |target| {
        let path = target[1..].trim_end_matches('/');
        *target = format!("{root}{path}");
    });
}

/// A schema inside a Lark grammar.
fn compiled(schema: &Value) -> String {
    // An object can always be converted; errors in the schema are reported when the whole grammar is compiled.
    Grammar::JsonSchema(schema.clone()).as_lark_value().unwrap_or_else(|_| format!("%json {schema}"))
}

#[cfg(test)]
mod tests {
    use super::super::answer::Parser;
    use super::super::marks::Marks;
    use super::super::parse::Piece;
    use super::*;
    use zonda_engine::sample::{GrammarCompiler, Sampler};
    use zonda_engine::{SamplingParams, TokenId};

    const FORMATS: [Format; 6] = [
        Format::Mistral,
        Format::MistralNamed,
        Format::Llama3,
        Format::Tagged,
        Format::TaggedList,
        Format::Harmony,
    ];

    fn style(format: Format, native: bool) -> Style {
        let harmony = Marks::of_template("<|channel|><|message|>");
        let marks = harmony.filter(|_| format == Format::Harmony);
        Style { format, native, marks, separates: true }
    }

    fn tools(choice: Value, parallel: bool) -> Tools {
        let place = json!({
            "type": "object", "properties": {"place": {"enum": ["sea", "house"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["place", "days"], "additionalProperties": false,
        });
        let list = vec![
            json!({"type": "function", "function": {"name": "weather", "parameters": place}}),
            json!({"type": "function", "function": {"name": "now"}}),
        ];
        Tools::new(list, serde_json::from_value(choice).unwrap(), Some(parallel)).unwrap()
    }

    /// A random text of the grammar, and the calls that the parser finds in it.
    fn generate(style: Style, tools: &Tools, format: Option<Grammar>, seed: u64) -> Vec<Piece> {
        let mock = Tokenizer::mock();
        let grammar = style.grammar(tools, format, &mock).unwrap().unwrap();
        let constraint = GrammarCompiler::new(&mock)
            .unwrap()
            .compile(&grammar)
            .unwrap_or_else(|e| panic!("{e}: {grammar:?}"));
        let params = SamplingParams {
            seed: Some(seed),
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params).with_constraint(Some(constraint));
        let mut ids: Vec<TokenId> = Vec::new();
        let mut parser = Parser::new(style.marks, true, Some(style.calls_parser(tools)), true);
        let mut pieces = Vec::new();
        loop {
            let mut row = vec![0.0; mock.vocab_size()];
            let token = sampler.sample(&mut row, &ids).unwrap().token;
            if mock.end_tokens().contains(&token) {
                pieces.extend(parser.finish());
                return pieces;
            }
            ids.push(token);
            pieces.extend(parser.push(&mock.piece(token)));
            assert!(ids.len() < 2000, "no end: {}", mock.decode(&ids, false));
        }
    }

    #[test]
    fn what_is_demanded_is_what_the_parser_reads() {
        for format in FORMATS {
            let style = style(format, true);
            for seed in 0..20 {
                let pieces = generate(style, &tools(json!("required"), true), None, seed);
                assert!(!pieces.is_empty(), "{format:?}");
                for piece in pieces {
                    let Piece::Call(call) = piece else { panic!("{format:?}: {piece:?}") };
                    let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                    match call.name.as_str() {
                        "weather" => assert!(arguments["days"].is_u64() && arguments["place"].is_string()),
                        "now" => assert_eq!(arguments, json!({})),
                        other => panic!("{other}"),
                    }
                }
            }
        }
    }

    #[test]
    fn arguments_are_objects_that_keep_to_schemas_with_references() {
        let tree = json!({
            "type": "object",
            "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
            "required": ["leaf", "next"], "additionalProperties": false,
            "$defs": {"leaf": {"enum": ["sea", "$ref"]}},
        });
        let list: Vec<Value> = [
            ("tree", tree),
            ("free", json!({})),
            ("bare", json!({"properties": {"a": {"type": "boolean"}}, "additionalProperties": false})),
        ]
        .into_iter()
        .map(|(name, schema)| json!({"type": "function", "function": {"name": name, "parameters": schema}}))
        .collect();
        for name in ["tree", "bare"] {
            let choice =
                serde_json::from_value(json!({"type": "function", "function": {"name": name}})).unwrap();
            let tools = Tools::new(list.clone(), Some(choice), None).unwrap();
            for format in FORMATS {
                let pieces = generate(style(format, true), &tools, None, 7);
                let [Piece::Call(call)] = &pieces[..] else { panic!("{format:?}: {pieces:?}") };
                let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                assert!(arguments.is_object(), "{arguments}");
                if name == "tree" {
                    let mut node = &arguments;
                    while !node.is_null() {
                        assert!(node["leaf"] == "sea" || node["leaf"] == "$ref", "{arguments}");
                        node = &node["next"];
                    }
                }
            }
        }
        let bad = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}});
        assert!(Tools::new(vec![bad], None, None).unwrap_err().message.contains("of an object"));
    }

    #[test]
    fn one_function_can_be_named() {
        let named = json!({"type": "function", "function": {"name": "now"}});
        for format in FORMATS {
            let pieces = generate(style(format, true), &tools(named.clone(), true), None, 3);
            assert!(
                matches!(&pieces[..], [Piece::Call(call)] if call.name == "now"),
                "{format:?}: {pieces:?}"
            );
        }
    }

    #[test]
    fn calls_or_an_answer_in_a_format() {
        let (mut calls, mut answers) = (0, 0);
        let style = style(Format::TaggedList, false);
        let format = || Some(Grammar::JsonSchema(json!({"enum": ["sea"]})));
        for seed in 0..40 {
            match &generate(style, &tools(json!("auto"), false), format(), seed)[..] {
                [Piece::Call(_)] => calls += 1,
                pieces => {
                    let text: String = pieces
                        .iter()
                        .map(|p| match p {
                            Piece::Text(text) => text.as_str(),
                            other => panic!("{other:?}"),
                        })
                        .collect();
                    assert_eq!(text, "\"sea\"");
                    answers += 1;
                }
            }
        }
        assert!(calls > 0 && answers > 0, "{calls} calls, {answers} answers");
    }

    #[test]
    fn without_a_demand_there_is_no_grammar() {
        let style = style(Format::Tagged, true);
        let mock = Tokenizer::mock();
        assert_eq!(style.grammar(&tools(json!("auto"), true), None, &mock), Ok(None));
        let format = Some(Grammar::json_object());
        assert_eq!(style.grammar(&tools(json!("none"), true), format.clone(), &mock), Ok(format));
        let lark = Some(Grammar::Lark("start: \"a\"".into()));
        assert!(style.grammar(&tools(json!("auto"), true), lark, &mock).is_err());
    }
}
