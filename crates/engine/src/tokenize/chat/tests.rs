//! Tests of the template engine's settings and of where templates are found.

use super::*;
use crate::tokenize::Tokenizer;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &Tokenizer::mock()).unwrap()
}

fn render(source: &str) -> String {
    let messages = [Message::new("user", "hi"), Message::new("assistant", "yo")];
    template(source).render(&messages, &RenderOptions::default()).unwrap()
}

#[test]
fn the_mock_speaks_chatml() {
    let text = ChatTemplate::mock().render(&[Message::new("user", "hi")], &RenderOptions::default()).unwrap();
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn tokens_and_the_prompt_flag_are_known() {
    assert_eq!(render("{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}"), "<s>|</s>|True");
}

#[test]
fn blocks_take_their_line_with_them() {
    assert_eq!(render("a\n    {% if true %}\nb\n    {% endif %}\nc"), "a\nb\nc");
}

#[test]
fn python_methods_loop_controls_and_namespaces_work() {
    assert_eq!(render("{{ ' a '.strip() }}{{ 'x,y'.split(',')[1] }}{{ messages[0].get('role') }}"), "ayuser");
    assert_eq!(
        render("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}"),
        "user"
    );
    assert_eq!(
        render(
            "{% set n = namespace(c=0) %}{% for m in messages %}{% set n.c = n.c + 1 %}{% endfor %}{{ n.c }}"
        ),
        "2"
    );
    assert_eq!(render("{% for m in messages[::-1] %}{{ m.content }}{% endfor %}"), "yohi");
}

#[test]
fn tests_are_pythons() {
    assert_eq!(
        render("{{ tools is none }}{{ tools is iterable }}{{ 'a' is sequence }}{{ [] is iterable }}"),
        "TrueFalseTrueTrue"
    );
}

#[test]
fn json_is_written_as_python_writes_it() {
    let value = r#"{{ {"b": [1, 2.5, none, true], "a": "<é> & 'x'"} | tojson"#;
    assert_eq!(render(&format!("{value} }}}}")), r#"{"b": [1, 2.5, null, true], "a": "<é> & 'x'"}"#);
    assert_eq!(
        render(&format!("{value}(indent=2) }}}}")),
        "{\n  \"b\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"a\": \"<é> & 'x'\"\n}"
    );
    assert_eq!(
        render(&format!("{value}(sort_keys=true, ensure_ascii=true, separators=[',', ':']) }}}}")),
        r#"{"a":"<\u00e9> & 'x'","b":[1,2.5,null,true]}"#
    );
}

#[test]
fn indent_keeps_the_last_line_break() {
    assert_eq!(render(r"{{ 'a\n\nb\n' | indent(2, true) }}|"), "  a\n\n  b\n|");
    assert_eq!(render(r"{{ 'a\nb' | indent(width=1) }}"), "a\n b");
}

#[test]
fn generation_tags_print_nothing() {
    assert_eq!(render("a {%- generation -%} b {% endgeneration %}c"), "ab c");
    assert_eq!(render("{% set generation = 1 %}{{ generation }}"), "1");
}

#[test]
fn the_date_can_be_asked_for() {
    let year: i32 = render("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!((2024..3000).contains(&year));
    assert_eq!(render("{{ strftime_now is defined }}"), "True");
}

#[test]
fn messages_keep_what_else_they_hold() {
    let json = r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}"#;
    let message: Message = serde_json::from_str(json).unwrap();
    assert_eq!(message.content, "");
    let template = template("{{ messages[0].tool_calls[0].id }}{{ 'name' in messages[0] }}");
    assert_eq!(template.render(&[message], &RenderOptions::default()).unwrap(), "1False");
}

#[test]
fn extra_variables_reach_the_template_but_do_not_replace_messages() {
    let mut options = RenderOptions::default();
    options.extra.insert("enable_thinking".into(), false.into());
    options.extra.insert("messages".into(), "x".into());
    let text = template("{{ enable_thinking }}{{ messages | length }}").render(&[], &options).unwrap();
    assert_eq!(text, "False0");
}

#[test]
fn errors_give_line_and_reason() {
    let syntax = ChatTemplate::new("a\nb\n{% if %}", &Tokenizer::mock()).unwrap_err();
    assert!(matches!(syntax, TemplateError::Syntax { line: 3, .. }), "{syntax}");

    let render = template("a\n\n{{ messages[0].nothing.at.all }}")
        .render(&[Message::new("user", "x")], &RenderOptions::default());
    let error = render.unwrap_err();
    assert!(matches!(error, TemplateError::Render { line: 3, .. }), "{error}");

    let refused =
        template("{{ raise_exception('roles must alternate') }}").render(&[], &RenderOptions::default());
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the chat template refuses this conversation: roles must alternate"
    );
}

#[test]
fn an_endless_template_is_stopped() {
    let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(
        template(nested).render(&[], &RenderOptions::default()),
        Err(TemplateError::Render { .. })
    ));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(
        template(recursive).render(&[], &RenderOptions::default()),
        Err(TemplateError::Render { .. })
    ));
}

#[test]
fn built_in_templates_have_their_families_marks() {
    let render = |name: &str| {
        let template = ChatTemplate::builtin(name, &Tokenizer::mock()).unwrap();
        let messages = [Message::new("system", "S"), Message::new("user", "U")];
        template.render(&messages, &RenderOptions::default()).unwrap()
    };
    assert_eq!(render("phi3"), "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\n");
    let phi4 = "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>U<|im_end|><|im_start|>assistant<|im_sep|>";
    assert_eq!(render("phi4"), phi4);
    assert_eq!(render("glm4"), "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>\n");
    let role = |role: &str| format!("<|start_of_role|>{role}<|end_of_role|>");
    let end = "<|end_of_text|>\n";
    let granite = format!("{}S{end}{}U{end}{}", role("system"), role("user"), role("assistant"));
    assert_eq!(render("granite"), granite);
}

#[test]
fn every_built_in_template_renders() {
    for name in BUILTIN_TEMPLATES {
        let template = ChatTemplate::builtin(name, &Tokenizer::mock()).unwrap();
        let text = template.render(&[Message::new("user", "hi")], &RenderOptions::default()).unwrap();
        assert!(text.contains("hi"), "{name}: {text}");
    }
    let error = ChatTemplate::builtin("nope", &Tokenizer::mock()).unwrap_err().to_string();
    assert!(error.contains("nope") && error.contains("chatml"), "{error}");
    assert!(TemplateError::Missing.to_string().contains("--raw"));
}

#[test]
fn folders_hold_templates_in_several_places() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mock) = (folder.path(), Tokenizer::mock());
    let find = || ChatTemplate::from_folder(path, &mock);
    assert!(find().unwrap().is_none());

    std::fs::write(path.join("tokenizer_config.json"), r#"{"chat_template": "one"}"#).unwrap();
    assert_eq!(find().unwrap().unwrap().source(), "one");

    let several = r#"{"chat_template": [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "T"}]}"#;
    std::fs::write(path.join("tokenizer_config.json"), several).unwrap();
    let template = find().unwrap().unwrap();
    assert_eq!(template.source(), "two");
    let tools = RenderOptions { tools: vec![serde_json::json!({})], ..RenderOptions::default() };
    assert_eq!(template.render(&[], &tools).unwrap(), "T");

    std::fs::write(path.join("chat_template.jinja"), "three").unwrap();
    assert_eq!(find().unwrap().unwrap().source(), "three");

    // The one for tools has a file of its own then.
    assert_eq!(find().unwrap().unwrap().render(&[], &tools).unwrap(), "three");
    std::fs::create_dir(path.join("additional_chat_templates")).unwrap();
    std::fs::write(path.join("additional_chat_templates/tool_use.jinja"), "four").unwrap();
    assert_eq!(find().unwrap().unwrap().render(&[], &tools).unwrap(), "four");
    assert_eq!(find().unwrap().unwrap().render(&[], &RenderOptions::default()).unwrap(), "three");

    std::fs::write(path.join("chat_template.jinja"), [0xff]).unwrap();
    assert!(matches!(find(), Err(TemplateError::File { .. })));
}

#[test]
fn gguf_metadata_holds_a_template_for_tools() {
    use crate::load::{Metadata, Value};
    let key = |name: &str| format!("tokenizer.chat_template{name}");
    let mut metadata = Metadata::default();
    let find = |metadata: &Metadata| ChatTemplate::from_gguf(metadata, &Tokenizer::mock()).unwrap();
    assert!(find(&metadata).is_none());
    metadata.0.insert(key(""), Value::String("one".into()));
    metadata.0.insert(key(".tool_use"), Value::String("two".into()));
    metadata.0.insert(key(".rag"), Value::String("three".into()));
    let tools = RenderOptions { tools: vec![serde_json::json!({})], ..RenderOptions::default() };
    let template = find(&metadata).unwrap();
    assert_eq!(template.render(&[], &tools).unwrap(), "two");
    assert_eq!(template.render(&[], &RenderOptions::default()).unwrap(), "one");
}
