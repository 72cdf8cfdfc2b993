//! Targets for texts: chat templates, grammars and answers with tool calls.

use serde_json::json;
use std::cell::OnceCell;
use std::sync::LazyLock;
use zonda::tools::{Style, Tools};
use zonda_engine::sample::{Grammar, GrammarCompiler};
use zonda_engine::tokenize::{ChatTemplate, Message, RenderOptions};
use zonda_engine::{Prompt, Request, TextProcessor};

/// The mock's tokenizer, built once: that takes longer than most inputs.
static MOCK: LazyLock<TextProcessor> = LazyLock::new(TextProcessor::mock);

/// A chat template, rendered with a system message, a question, an answer and a tool.
pub fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source, &MOCK.tokenizer) else { return };
    let messages = [
        Message::system("Be brief."),
        Message::user("Hello"),
        Message::assistant("Hi"),
        Message::tool("1", "x"),
    ];
    let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
    let _ = template.render(&messages, &RenderOptions { tools, ..RenderOptions::default() });
}

thread_local! {
    static COMPILER: OnceCell<GrammarCompiler> = const { OnceCell::new() };
}

/// The first byte chooses the kind of grammar: Lark, regular expression or JSON schema. A few tokens are taken.
pub fn grammar(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let grammar = match kind % 3 {
        0 => Grammar::Lark(text.to_owned()),
        1 => Grammar::Regex(text.to_owned()),
        _ => match serde_json::from_str(text) {
            Ok(schema) => Grammar::JsonSchema(schema),
            Err(_) => return,
        },
    };
    let mock = &MOCK.tokenizer;
    COMPILER.with(|compiler| {
        let compiler = compiler.get_or_init(|| GrammarCompiler::new(mock).expect("the mock's vocabulary"));
        let Ok(mut constraint) = compiler.compile(&grammar) else { return };
        for position in 0..4 {
            let mut row = vec![0.0; mock.vocab_size()];
            if constraint.mask(&mut row, position).is_err() {
                return;
            }
            let Some(token) = row.iter().position(|logit| logit.is_finite()) else { return };
            if mock.end_tokens().contains(&(token as u32))
                || constraint.accept(token as u32, position).is_err()
            {
                return;
            }
        }
    });
}

/// Words of templates by which a model's format of calls is recognised.
const TEMPLATES: [&str; 5] = [
    "{{ tools }}[TOOL_CALLS]",
    "{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]",
    "{{ tools }}<|start_header_id|>{{ message.tool_calls }}",
    "{{ tools }}<tool_call>\n{{ message.tool_calls }}",
    "{{ tools }}<tool_call>[{{ message.tool_calls }}]",
];

/// The mock with each of these templates.
static PROCESSORS: LazyLock<[TextProcessor; TEMPLATES.len()]> = LazyLock::new(|| {
    TEMPLATES.map(|source| {
        let template = ChatTemplate::new(source, &MOCK.tokenizer).expect("a template");
        TextProcessor { template: Some(template.into()), ..MOCK.clone() }
    })
});

/// The first byte chooses the format, the second how long the pieces of the answer are.
pub fn tool_calls(data: &[u8]) {
    let [format, length, rest @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let text_processor = &PROCESSORS[usize::from(*format) % TEMPLATES.len()];
    let list = vec![json!({"type": "function", "function": {"name": "f"}})];
    let tools = Tools::new(list, None, None).expect("tools");
    let mut request = Request::new(Prompt::chat(vec![Message::user("x")]), 1);
    let parser = Style::of(Some(text_processor)).apply(&tools, &mut request, None).expect("no grammar");
    let Some(mut parser) = parser else { return };
    let characters: Vec<char> = text.chars().collect();
    for piece in characters.chunks(usize::from(*length).max(1)) {
        parser.push(&piece.iter().collect::<String>());
    }
    parser.finish();
}
