//! Your own backend with the same engine: sampling, batches, streams and grammars work as with the others.
//!
//! `cargo run -p zonda --example custom_backend`

mod bigram;

use bigram::Bigram;
use zonda::engine::mock::{Mock, MockOptions};
use zonda::engine::tokenize::Encode;
use zonda::{Backend as _, Limits, Model, TextProcessor};

const POEM: &str = "the wind is warm and the wind is fast and the sea is warm and the house is by the sea";

fn main() -> zonda::Result<()> {
    // The mock's tokenizer, whose tokens are words; a real backend uses its model's.
    let text = TextProcessor::mock();
    let words = text.tokenizer.encode(POEM, Encode { add_bos: false, parse_special: false })?;
    let spec = Mock::new(MockOptions::default()).spec().clone();
    let limits = Limits { slots: 4, batch_tokens: 256, context: 1024, kv_tokens: 4096, kv_page: 1 };

    let open = move || Ok(Box::new(Bigram::new(spec, limits, &words)) as _);
    let model = Model::from_backend(open, Some(text))?;
    let answer = model.generate("the wind").max_tokens(12).seed(7).send()?;
    println!("the wind{}", answer.text);
    Ok(())
}
