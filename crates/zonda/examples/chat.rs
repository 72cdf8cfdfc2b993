//! Asks a model one question and streams the answer.
//!
//! `cargo run --release -p zonda --example chat -- [MODEL] [QUESTION]`

use std::io::Write as _;
use zonda::{Event, Message, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "smollm2-135m".to_owned());
    let question = args.next().unwrap_or_else(|| "Why is the sky blue?".to_owned());

    let model = Model::open(name)?;
    let conversation = [Message::system("You answer in one or two sentences."), Message::user(question)];
    let answer = model.chat(conversation).max_tokens(100).temperature(0.7).seed(1);
    for event in answer.stream()? {
        match event? {
            Event::Tokens { text, .. } => {
                print!("{text}");
                std::io::stdout().flush()?;
            }
            Event::Finished(outcome) => {
                let (usage, timing) = (outcome.usage, outcome.timing);
                let first = timing.ttft().map_or(0.0, |time| time.as_secs_f64() * 1e3);
                println!();
                eprintln!(
                    "{} prompt tokens, {} answer tokens, first token after {first:.0} ms, ended by {}",
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    outcome.reason.as_str()
                );
            }
            _ => {}
        }
    }
    Ok(())
}
