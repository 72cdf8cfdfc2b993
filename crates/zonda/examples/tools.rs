//! A model that calls a function of this program and answers with its result.
//!
//! `cargo run --release -p zonda --example tools -- [MODEL]`

use serde_json::{Value, json};
use zonda::{Message, Model, Tool, ToolChoice};

/// The temperature at a place, in °C.
fn temperature(arguments: &Value) -> i64 {
    if arguments["place"] == "sea" { 21 } else { 14 }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "smollm2-135m".to_owned());
    let model = Model::open(name)?;
    let parameters = json!({
        "type": "object",
        "properties": {"place": {"enum": ["sea", "hills"]}},
        "required": ["place"],
        "additionalProperties": false,
    });
    let tool = Tool::function("temperature", "The temperature at a place, in °C", parameters);
    let mut conversation = vec![Message::user("How warm is it at the sea?")];

    let question = model.chat(conversation.clone()).tools([tool.clone()]).temperature(0.0);
    let answer =
        question.tool_choice(ToolChoice::Required).parallel_tool_calls(false).max_tokens(200).send()?;
    conversation.push(answer.message());
    for call in &answer.tool_calls {
        let result = temperature(&serde_json::from_str(&call.arguments)?);
        println!("{}({}) = {result}", call.name, call.arguments);
        conversation.push(Message::tool(&call.id, result.to_string()));
    }

    let last = model.chat(conversation).tools([tool]).tool_choice(ToolChoice::None);
    println!("{}", last.temperature(0.0).max_tokens(60).send()?.text.trim());
    Ok(())
}
