//! Several prompts at once: their tokens are computed together, which is faster than one after the other.
//!
//! `cargo run --release -p zonda --example batch -- [MODEL]`

use std::time::Instant;
use zonda::{Answer, Model, Sharing};

const PROMPTS: [&str; 4] =
    ["The capital of France is", "Water boils at", "The largest planet is", "The opposite of cold is"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "smollm2-135m".to_owned());
    let sharing = Sharing { parallel: Some(PROMPTS.len()), ..Sharing::default() };
    let model = Model::builder(name).sharing(sharing).open()?;

    let began = Instant::now();
    let streams = PROMPTS.map(|prompt| model.generate(prompt).max_tokens(24).temperature(0.0).stream());
    for (prompt, stream) in PROMPTS.into_iter().zip(streams) {
        let Answer { text, .. } = stream?.wait()?;
        println!("{prompt}{}", text.lines().next().unwrap_or_default());
    }
    eprintln!("{} answers in {:.2} s", PROMPTS.len(), began.elapsed().as_secs_f64());
    Ok(())
}
