//! [`CallParser`]: finds calls in a text that arrives in pieces.

use super::format::Format;
use super::marks::unfinished;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// A call as the model wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenCall {
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call.
    Call(WrittenCall),
}

/// Splits an answer into text and calls. Text that may be the beginning of a call is held back until that is clear. If
/// it turns out not to be a call, it is returned as text.
#[derive(Clone, Debug)]
pub(super) struct CallParser {
    format: Format,
    /// The names of the available functions.
    names: Vec<String>,
    held: String,
    /// White space before the call that the held text begins with. It is part of the text only if that is not a call.
    space: String,
    /// Whether the held text begins inside a call.
    inside: bool,
    /// Whether that call has no mark.
    bare: bool,
    /// Bytes of the held text in which closing tags are part of arguments.
    passed: usize,
    /// Whether any text was returned.
    spoken: bool,
}

/// What an answer that begins with a brace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bare {
    Call,
    Text,
    /// That depends on the text to come.
    Unclear,
}

const OPEN_TAG: &str = "<tool_call>";
const CLOSE_TAG: &str = "</tool_call>";
const MISTRAL: &str = "[TOOL_CALLS]";
const PYTHON: &str = "<|python_tag|>";

impl CallParser {
    pub(super) fn new(format: Format, names: Vec<String>) -> CallParser {
        CallParser {
            format,
            names,
            held: String::new(),
            space: String::new(),
            inside: false,
            bare: false,
            passed: 0,
            spoken: false,
        }
    }

    /// Takes the next piece of text, and returns what is now certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// Ends the text: the held text is a call or text, as it stands.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        self.passed = 0;
        let mut out = Vec::new();
        if !self.inside {
            self.say(&rest, &mut out);
        } else {
            let body = self.body(&rest);
            match self.calls(body) {
                Some(calls) => out.extend(calls.into_iter().map(Piece::Call)),
                None => self.take_back(&rest, &mut out),
            }
        }
        out
    }

    /// Processes as much of the held text as possible; false: more text is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        if self.inside {
            return self.close(out);
        }
        let bare = self.bare();
        let opening = match bare {
            Bare::Call => Some(0),
            Bare::Text => self.opening(),
            Bare::Unclear => return false,
        };
        let Some(at) = opening else {
            let certain = self.held[..self.held.len() - self.unfinished()].trim_end().len();
            let text: String = self.held.drain(..certain).collect();
            self.say(&text, out);
            return false;
        };
        self.bare = bare == Bare::Call;
        let before: String = self.held.drain(..at).collect();
        let text = before.trim_end();
        self.space = before[text.len()..].to_owned();
        self.say(text, out);
        self.inside = true;
        true
    }

    /// The offset of the beginning of a call in the held text, with a mark or as Llama 3 writes it.
    fn opening(&self) -> Option<usize> {
        match self.format {
            Format::Mistral | Format::MistralNamed => self.held.find(MISTRAL),
            Format::Tagged | Format::TaggedList => self.held.find(OPEN_TAG),
            // Its channels are read elsewhere; without them, it marks nothing.
            Format::Harmony => None,
            // Such a call has no mark: it is one only if the whole answer is JSON.
            Format::Llama3 if self.spoken => self.held.find(PYTHON),
            Format::Llama3 => {
                let start = self.held.len() - self.held.trim_start().len();
                let text = &self.held[start..];
                if text.starts_with('{') || text.starts_with(PYTHON) {
                    Some(start)
                } else {
                    self.held.find(PYTHON)
                }
            }
        }
    }

    /// Whether the answer begins with a call that has no mark, as small models write it.
    fn bare(&self) -> Bare {
        let marked = !matches!(self.format, Format::Llama3 | Format::Harmony);
        if !marked || self.spoken || !self.held.trim_start().starts_with('{') {
            return Bare::Text;
        }
        let begins = |name: &String| format!("{{\"name\":{}", serde_json::Value::from(name.as_str()));
        let longest = self.names.iter().map(|name| begins(name).len()).max().unwrap_or(0);
        let held: String = self.held.chars().filter(|c| !c.is_whitespace()).take(longest).collect();
        let mut names = self.names.iter().map(begins);
        match names.clone().any(|begins| held.starts_with(&begins)) {
            true => Bare::Call,
            false if names.any(|begins| begins.starts_with(&held)) => Bare::Unclear,
            false => Bare::Text,
        }
    }

    /// The length of the end of the held text that may be the beginning of a mark, in bytes.
    fn unfinished(&self) -> usize {
        let mark = match self.format {
            Format::Mistral | Format::MistralNamed => MISTRAL,
            Format::Tagged | Format::TaggedList => OPEN_TAG,
            Format::Llama3 => PYTHON,
            Format::Harmony => return 0,
        };
        unfinished(&self.held, mark)
    }

    /// Looks for the end of a call. Only tags mark one before the answer's end.
    fn close(&mut self, out: &mut Vec<Piece>) -> bool {
        if self.bare || !matches!(self.format, Format::Tagged | Format::TaggedList) {
            return false;
        }
        let Some(end) = self.held[self.passed..].find(CLOSE_TAG) else { return false };
        let end = self.passed + end + CLOSE_TAG.len();
        if breaks_off_in_a_string(self.body(&self.held[..end])) {
            // The tag is part of an argument.
            self.passed = end;
            return true;
        }
        let whole: String = self.held.drain(..end).collect();
        self.inside = false;
        self.passed = 0;
        match self.calls(self.body(&whole)) {
            Some(calls) => out.extend(calls.into_iter().map(Piece::Call)),
            None => self.take_back(&whole, out),
        }
        true
    }

    /// A call without its marks.
    fn body<'a>(&self, text: &'a str) -> &'a str {
        let text = text.trim();
        match self.format {
            Format::Mistral | Format::MistralNamed => text.strip_prefix(MISTRAL).unwrap_or(text),
            Format::Llama3 => text.strip_prefix(PYTHON).unwrap_or(text),
            Format::Harmony => text,
            Format::Tagged | Format::TaggedList => {
                let text = text.strip_prefix(OPEN_TAG).unwrap_or(text);
                text.strip_suffix(CLOSE_TAG).unwrap_or(text)
            }
        }
    }

    fn calls(&self, body: &str) -> Option<Vec<WrittenCall>> {
        let calls = match self.format {
            Format::MistralNamed => named(body).or_else(|| listed(body))?,
            _ => listed(body)?,
        };
        // An answer that happens to be JSON is not a call.
        let marked = self.format != Format::Llama3 && !self.bare;
        let known = |call: &WrittenCall| marked || self.names.contains(&call.name);
        (!calls.is_empty() && calls.iter().all(known)).then_some(calls)
    }

    /// Returns as text what looked like a call.
    fn take_back(&mut self, text: &str, out: &mut Vec<Piece>) {
        let space = std::mem::take(&mut self.space);
        self.say(&(space + text), out);
    }

    fn say(&mut self, text: &str, out: &mut Vec<Piece>) {
        if !text.is_empty() {
            self.spoken = true;
            out.push(Piece::Text(text.to_owned()));
        }
    }
}

/// Whether a text is valid JSON so far and ends inside a string.
fn breaks_off_in_a_string(body: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in body.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    let mut values = serde_json::Deserializer::from_str(body).into_iter::<IgnoredAny>();
    inside && values.find_map(Result::err).is_some_and(|error| error.is_eof())
}

/// JSON objects or lists of them, one after another, possibly separated by semicolons.
fn listed(body: &str) -> Option<Vec<WrittenCall>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let value = values.next()?.ok()?;
        if value.get().starts_with('[') {
            let list: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            calls.extend(list.into_iter().map(call).collect::<Option<Vec<_>>>()?);
        } else {
            calls.push(call(value)?);
        }
        let end = values.byte_offset();
        rest = rest[end..].trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    Some(calls)
}

/// A call as it is written. The arguments stay unparsed: a number need not fit any of our types.
#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

fn call(value: &RawValue) -> Option<WrittenCall> {
    let Written { name, arguments, parameters } = serde_json::from_str(value.get()).ok()?;
    let arguments = match arguments.or(parameters).map(RawValue::get) {
        None | Some("null") => "{}".to_owned(),
        Some(text) if text.starts_with('"') => serde_json::from_str(text).ok()?,
        Some(text) => compact(text),
    };
    Some(WrittenCall { name, arguments })
}

/// JSON without white space outside strings.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let kept = |c: &char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        inside || !c.is_ascii_whitespace()
    };
    json.chars().filter(kept).collect()
}

/// `name[ARGS]{…}`, repeated after further marks.
fn named(body: &str) -> Option<Vec<WrittenCall>> {
    let one = |part: &str| {
        let (name, arguments) = part.split_once("[ARGS]")?;
        let name = name.split("[CALL_ID]").next().unwrap_or(name).trim();
        let arguments: &RawValue = serde_json::from_str(arguments.trim()).ok()?;
        Some(WrittenCall { name: name.to_owned(), arguments: compact(arguments.get()) })
    };
    body.split(MISTRAL).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(name: &str, arguments: &str) -> Piece {
        Piece::Call(WrittenCall { name: name.into(), arguments: arguments.into() })
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    /// All pieces, texts joined, with the answer cut after every `n` characters.
    fn run(format: Format, answer: &str, n: usize) -> Vec<Piece> {
        let mut parser = CallParser::new(format, vec!["f".into(), "g".into()]);
        let characters: Vec<char> = answer.chars().collect();
        let mut pieces: Vec<Piece> =
            characters.chunks(n).flat_map(|c| parser.push(&c.iter().collect::<String>())).collect();
        pieces.extend(parser.finish());
        pieces.into_iter().fold(Vec::new(), |mut all: Vec<Piece>, piece| {
            match (all.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(more)) => before.push_str(&more),
                (_, piece) => all.push(piece),
            }
            all
        })
    }

    #[track_caller]
    fn check(format: Format, answer: &str, expected: &[Piece]) {
        for n in [1, 2, 3, 7, 1000] {
            assert_eq!(run(format, answer, n), expected, "pieces of {n}");
        }
    }

    #[test]
    fn calls_of_every_format() {
        check(
            Format::Mistral,
            r#"[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}, "id": "x"}]"#,
            &[call("f", r#"{"a":1}"#), call("g", "{}")],
        );
        check(
            Format::MistralNamed,
            r#"[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}"#,
            &[call("f", r#"{"a":1}"#), call("g", "{}")],
        );
        check(
            Format::Llama3,
            r#"<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}"#,
            &[call("f", r#"{"a":1}"#), call("g", "{}")],
        );
        check(
            Format::Tagged,
            "Let me see.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"</x>\"}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>",
            &[text("Let me see."), call("f", r#"{"a":"</x>"}"#), call("g", "{}")],
        );
        check(
            Format::TaggedList,
            r#"<tool_call>[{"name": "f", "arguments": "{\"a\": 1}"}]</tool_call> done"#,
            &[call("f", r#"{"a": 1}"#), text(" done")],
        );
    }

    #[test]
    fn a_closing_tag_in_an_argument_is_part_of_it() {
        check(
            Format::Tagged,
            r#"<tool_call>{"name": "f", "arguments": {"a": "x</tool_call>y\"</tool_call>"}}</tool_call> end"#,
            &[call("f", r#"{"a":"x</tool_call>y\"</tool_call>"}"#), text(" end")],
        );
        check(
            Format::Tagged,
            r#"<tool_call>no "json</tool_call>!"#,
            &[text(r#"<tool_call>no "json</tool_call>!"#)],
        );
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        for format in [Format::Tagged, Format::MistralNamed] {
            let number = "12345678901234567890123";
            let answer = match format {
                Format::Tagged => format!(
                    r#"<tool_call>{{"name": "f", "arguments": {{"a": {number}, "b": 1.50}}}}</tool_call>"#
                ),
                _ => format!(r#"[TOOL_CALLS]f[ARGS]{{"a": {number}, "b": 1.50}}"#),
            };
            check(format, &answer, &[call("f", &format!(r#"{{"a":{number},"b":1.50}}"#))]);
        }
    }

    #[test]
    fn an_answer_that_is_a_call_of_a_known_function_needs_no_mark() {
        for format in [Format::Mistral, Format::MistralNamed, Format::Tagged, Format::TaggedList] {
            let one = "{\n  \"name\": \"f\", \"arguments\": {\"a\": 1}}";
            check(format, one, &[call("f", r#"{"a":1}"#)]);
            check(format, &format!(" {one}\n{one}"), &[call("f", r#"{"a":1}"#), call("f", r#"{"a":1}"#)]);
            for other in [
                r#"{"name": "unknown", "arguments": {}}"#,
                r#"{"name": "f", "arguments": {}} is a call."#,
                r#"{"name": "f", "arguments": {}} {"name": "h", "arguments": {}}"#,
                r#"So: {"name": "f", "arguments": {}}"#,
                r#"{"name""#,
            ] {
                check(format, other, &[text(other)]);
            }
        }
    }

    #[test]
    fn an_answer_in_json_is_not_held_back() {
        let mut parser = CallParser::new(Format::Tagged, vec!["f".into()]);
        assert_eq!(parser.push("{\"na"), []);
        assert_eq!(parser.push("mes\": 1"), [text("{\"names\": 1")]);
    }

    #[test]
    fn an_end_without_its_mark_still_ends_a_call() {
        check(Format::Tagged, "<tool_call>\n{\"name\": \"f\"}", &[call("f", "{}")]);
    }

    #[test]
    fn what_is_no_call_is_text() {
        for (format, answer) in [
            (Format::Tagged, "1 < 2 and <tool_ca, so"),
            (Format::Tagged, "<tool_call>not json</tool_call>!"),
            (Format::Tagged, "<tool_call>{\"name\": \"f\", "),
            (Format::Mistral, "[TOOL_ and [TOOL_CALLS] nothing"),
            (Format::Llama3, "{\"name\": \"unknown\", \"parameters\": {}}"),
            (Format::Llama3, "{\"answer\": 42}"),
            (Format::Llama3, "so {\"name\": \"f\"}"),
        ] {
            let pieces = run(format, answer, 1);
            let all: String = pieces
                .iter()
                .map(|p| match p {
                    Piece::Text(text) => text.as_str(),
                    other => panic!("{other:?} in {answer}"),
                })
                .collect();
            assert_eq!(all, answer);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1000,
            rng_seed: proptest::test_runner::RngSeed::Fixed(5),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn never_panics_and_cutting_changes_nothing(
            parts in prop::collection::vec(prop_oneof![
                Just("<tool_call>".to_owned()), Just("</tool_call>".to_owned()), Just("[TOOL_CALLS]".to_owned()),
                Just("[ARGS]".to_owned()), Just("<|python_tag|>".to_owned()), Just(r#"{"name": "f"}"#.to_owned()),
                Just("[{\"name\": \"g\", \"arguments\": {}}]".to_owned()), "[a-zé<\\[{ \n]{0,6}",
            ], 0..8),
            n in 1usize..9,
        ) {
            let answer = parts.concat();
            for format in [Format::Mistral, Format::MistralNamed, Format::Llama3, Format::Tagged, Format::TaggedList] {
                prop_assert_eq!(run(format, &answer, n), run(format, &answer, 10_000));
            }
        }
    }
}
