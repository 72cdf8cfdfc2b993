//! What a model thinks before it answers is apart from the answer, on the mock, which is made to write it.

use std::sync::Arc;
use zonda::engine::mock::{Mock, MockOptions};
use zonda::{ChatTemplate, Event, Grammar, Message, Model, TextProcessor, Tokenizer};

/// A template with reasoning, as Qwen 3's: the prompt can close it beforehand, or open it.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\
    {% endif %}{{ m.content }}\n{% endfor %}assistant: {% if closed %}<think>\n\n</think>\n\n{% elif opened %}<think>\n{% endif %}";

fn model() -> Model {
    let tokenizer = Tokenizer::mock();
    let template = ChatTemplate::new(TEMPLATE, &tokenizer).unwrap();
    let text = TextProcessor { tokenizer: Arc::new(tokenizer), template: Some(Arc::new(template)) };
    let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
    Model::from_backend(open, Some(text)).unwrap()
}

fn thought() -> Grammar {
    Grammar::Regex("<think>\nhm, [a-z]{3}\n</think>\n\nyes".to_owned())
}

#[test]
fn an_answer_has_its_reasoning_apart() {
    let model = model();
    let ask = || model.chat([Message::user("well?")]).grammar(thought()).seed(1);
    let answer = ask().send().unwrap();
    assert_eq!(answer.text, "yes");
    assert!(answer.reasoning.starts_with("hm, ") && answer.reasoning.len() == 7, "{:?}", answer.reasoning);
    assert_eq!(answer.message().extra["reasoning_content"], answer.reasoning);

    let mut stream = ask().stream().unwrap();
    let mut text = String::new();
    for event in stream.by_ref() {
        if let Event::Tokens { text: piece, .. } = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert_eq!((text.as_str(), stream.reasoning()), ("yes", answer.reasoning.as_str()));

    let raw = ask().separate_reasoning(false).send().unwrap();
    assert_eq!(
        (raw.text, raw.reasoning),
        (format!("<think>\n{}\n</think>\n\nyes", answer.reasoning), String::new())
    );
    // A continued text is not an answer.
    let plain = model.generate("well?").grammar(thought()).seed(1).send().unwrap();
    assert!(plain.text.starts_with("<think>") && plain.reasoning.is_empty());
}

#[test]
fn the_prompt_decides_whether_an_answer_begins_within_it() {
    let model = model();
    let ask = |variable: &str| {
        let request = model.chat([Message::user("well?")]).max_tokens(12).seed(2).ignore_eos();
        let request = request.with(|request| {
            if let zonda::Prompt::Chat { options, .. } = &mut request.prompt {
                options.extra.insert(variable.to_owned(), true.into());
            }
        });
        request.send().unwrap()
    };
    // The mock never writes the closing mark.
    let opened = ask("opened");
    assert!(opened.text.is_empty() && !opened.reasoning.is_empty(), "{opened:?}");
    for variable in ["closed", "neither"] {
        let answer = ask(variable);
        assert!(!answer.text.is_empty() && answer.reasoning.is_empty(), "{variable}: {answer:?}");
    }
}

#[test]
fn a_model_without_marks_has_no_reasoning() {
    let model = Model::open("mock").unwrap();
    let answer = model.chat([Message::user("well?")]).grammar(thought()).seed(1).send().unwrap();
    assert!(answer.text.contains("</think>") && answer.reasoning.is_empty(), "{answer:?}");
}
