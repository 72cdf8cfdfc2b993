//! An answer that is valid under a JSON schema, parsed into a struct.
//!
//! `cargo run --release -p zonda --example json_schema -- [MODEL]`

use serde::Deserialize;
use serde_json::json;
use zonda::{Message, Model};

/// The form of the answer.
#[derive(Debug, Deserialize)]
struct City {
    name: String,
    country: String,
    by_the_sea: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "smollm2-135m".to_owned());
    let model = Model::open(name)?;
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "country": {"type": "string", "maxLength": 20},
            "by_the_sea": {"type": "boolean"},
        },
        "required": ["name", "country", "by_the_sea"],
        "additionalProperties": false,
    });
    let question = Message::user("Name a city as JSON with the fields name, country and by_the_sea.");
    let answer = model.chat([question]).json_schema(schema).seed(1).send()?;
    let city: City = serde_json::from_str(&answer.text)?;
    let place = if city.by_the_sea { "by the sea" } else { "inland" };
    println!("{} in {}, {place}", city.name, city.country);
    Ok(())
}
