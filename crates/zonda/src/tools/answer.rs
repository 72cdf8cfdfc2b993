//! [`Parser`]: an answer's text as it comes, as reasoning, text and calls.

use super::harmony::Channels;
use super::marks::{Kind, Marks};
use super::parse::{CallParser, Piece};
use super::thoughts::{Part, Thoughts};
use zonda_engine::TokenId;
use zonda_engine::tokenize::Tokenizer;

/// Splits an answer into reasoning, text and calls. Text that may be the beginning of a mark is held back until that is
/// certain.
#[derive(Clone, Debug)]
pub struct Parser {
    reasoning: Option<Reasoning>,
    calls: Option<CallParser>,
    /// A grammar decides how the answer begins, so that the prompt's end does not.
    constrained: bool,
}

#[derive(Clone, Debug)]
enum Reasoning {
    Marked(Thoughts),
    Channels(Channels),
}

impl Parser {
    /// `marks`: of reasoning, if the model has some, which are looked for if it `separates`; `calls`: if calls are allowed.
    pub(super) fn new(
        marks: Option<&'static Marks>,
        separates: bool,
        calls: Option<CallParser>,
        constrained: bool,
    ) -> Parser {
        let reasoning = marks.and_then(|marks| match marks.kind {
            Kind::Harmony if separates || calls.is_some() => {
                Some(Reasoning::Channels(Channels::new(calls.is_some(), !separates)))
            }
            _ if separates => Some(Reasoning::Marked(Thoughts::new(marks))),
            _ => None,
        });
        // The messages of channels say themselves which are calls.
        let calls = calls.filter(|_| !matches!(reasoning, Some(Reasoning::Channels(_))));
        Parser { reasoning, calls, constrained }
    }

    /// Begins behind a prompt, of which `end` is the end: it may have opened the reasoning.
    pub fn begin(&mut self, end: &[TokenId], tokenizer: &Tokenizer) {
        let end = tokenizer.decode(end, false);
        match &mut self.reasoning {
            Some(Reasoning::Marked(thoughts)) if !self.constrained => thoughts.begin(&end),
            Some(Reasoning::Channels(channels)) => channels.begin(&end),
            _ => {}
        }
    }

    /// Takes the next piece of text, and gives what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.reasoning {
            None => self.answer(text),
            Some(Reasoning::Channels(channels)) => channels.push(text),
            Some(Reasoning::Marked(thoughts)) => {
                let parts = thoughts.push(text);
                self.parts(parts)
            }
        }
    }

    /// The text has ended: what is held back is what it looks like now.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut out = match &mut self.reasoning {
            None => Vec::new(),
            Some(Reasoning::Channels(channels)) => channels.finish(),
            Some(Reasoning::Marked(thoughts)) => {
                let parts = thoughts.finish();
                self.parts(parts)
            }
        };
        out.extend(self.calls.iter_mut().flat_map(CallParser::finish));
        out
    }

    fn parts(&mut self, parts: Vec<Part>) -> Vec<Piece> {
        let piece = |part| match part {
            Part::Reasoning(text) => vec![Piece::Reasoning(text)],
            Part::Answer(text) => self.answer(&text),
        };
        parts.into_iter().flat_map(piece).collect()
    }

    fn answer(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.calls {
            Some(calls) => calls.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text.to_owned())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::*;

    #[test]
    fn calls_follow_reasoning() {
        let marks = Marks::of_template("<think>");
        let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
        let text = format!("<think>\nI call {call}.\n</think>\n\nLet me see.\n{call}");
        for n in [1, 4, 1000] {
            let calls = CallParser::new(Format::Tagged, vec!["f".to_owned()]);
            let mut parser = Parser::new(marks, true, Some(calls), false);
            let characters: Vec<char> = text.chars().collect();
            let mut pieces: Vec<Piece> =
                characters.chunks(n).flat_map(|c| parser.push(&c.iter().collect::<String>())).collect();
            pieces.extend(parser.finish());
            let (mut reasoning, mut answer, mut names) = (String::new(), String::new(), Vec::new());
            for piece in pieces {
                match piece {
                    Piece::Reasoning(text) => reasoning.push_str(&text),
                    Piece::Text(text) => answer.push_str(&text),
                    Piece::Call(call) => names.push(call.name),
                }
            }
            assert_eq!(reasoning, format!("I call {call}."), "a call that is only thought of is none");
            assert_eq!((answer.as_str(), names), ("Let me see.", vec!["f".to_owned()]));
        }
    }

    #[test]
    fn a_grammar_begins_outside_reasoning() {
        let mock = Tokenizer::mock();
        let end = mock.encode("<think>\n", zonda_engine::tokenize::Encode::default()).unwrap();
        for (constrained, expected) in
            [(true, Piece::Text("{}".to_owned())), (false, Piece::Reasoning("{}".to_owned()))]
        {
            let mut parser = Parser::new(Marks::of_template("<think>"), true, None, constrained);
            parser.begin(&end, &mock);
            let mut pieces = parser.push("{}");
            pieces.extend(parser.finish());
            assert_eq!(pieces, [expected]);
        }
    }
}
