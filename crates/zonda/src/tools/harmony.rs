//! [`Channels`]: the messages of one answer in OpenAI's harmony format, which gpt-oss writes: reasoning, text and calls, each
//! behind a header.
//!
//! ```text
//! <|channel|>analysis<|message|>reasoning<|end|><|start|>assistant<|channel|>final<|message|>text<|return|>
//! <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
//! <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}<|call|>
//! ```

use super::marks::unfinished;
use super::parse::{Piece, WrittenCall};

const START: &str = "<|start|>";
const MESSAGE: &str = "<|message|>";
const CHANNEL: &str = "<|channel|>";
const END: &str = "<|end|>";
/// What ends a message.
const ENDS: [&str; 4] = [END, "<|call|>", "<|return|>", START];

/// Reads messages in channels. Text that may be the beginning of a mark is held back until that is certain.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    held: String,
    /// Where the message goes whose text comes now; `None`: its header comes.
    message: Option<To>,
    /// Calls are looked for.
    calls: bool,
    /// Everything but calls is text, headers included.
    raw: bool,
    /// There was reasoning in an earlier message.
    thought: bool,
    /// There was text in an earlier message.
    spoke: bool,
    /// Something of this message was given out.
    begun: bool,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Reasoning,
    Text,
    /// The function of this name.
    Function(String),
}

impl Channels {
    pub fn new(calls: bool, raw: bool) -> Channels {
        Channels {
            held: String::new(),
            message: None,
            calls,
            raw,
            thought: false,
            spoke: false,
            begun: false,
        }
    }

    /// Begins behind the end of a prompt: in a header, or in a message that the prompt has begun.
    pub fn begin(&mut self, prompt: &str) {
        let header = prompt.rsplit(START).next().unwrap_or_default();
        if let Some((header, _)) = header.rsplit_once(MESSAGE) {
            self.message = Some(self.recipient(header));
        }
    }

    /// Takes the next piece of text, and gives what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The text has ended: what is held back is what it looks like now.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let mut out = Vec::new();
        match self.message.take() {
            Some(To::Function(name)) => out.push(call(name, &rest)),
            Some(to) => self.give(&to, &rest, &mut out),
            // A header without a message says nothing, and text without a header is text.
            None if rest.contains(CHANNEL) || rest.starts_with(START) || self.thought || self.spoke => {}
            None => self.give(&To::Text, &rest, &mut out),
        }
        out
    }

    /// Goes on as far as the held text allows; false: more is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        let Some(to) = self.message.take() else {
            let Some(at) = self.held.find(MESSAGE) else { return false };
            let header: String = self.held.drain(..at + MESSAGE.len()).collect();
            let to = self.recipient(&header[..at]);
            if self.raw && !matches!(to, To::Function(_)) {
                out.push(Piece::Text(header));
            }
            self.message = Some(to);
            self.begun = false;
            return true;
        };
        let end = ENDS.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min();
        let Some((at, mark)) = end else {
            if !matches!(to, To::Function(_)) {
                let unfinished = ENDS.iter().map(|mark| unfinished(&self.held, mark)).max().unwrap_or(0);
                let certain: String = self.held.drain(..self.held.len() - unfinished).collect();
                self.give(&to, &certain, out);
            }
            self.message = Some(to);
            return false;
        };
        let text: String = self.held.drain(..at).collect();
        self.held.drain(..mark.len());
        match to {
            To::Function(name) => out.push(call(name, &text)),
            to => {
                self.give(&to, &text, out);
                if self.raw {
                    out.push(Piece::Text(mark.to_owned()));
                }
                self.thought |= self.begun && to == To::Reasoning;
                self.spoke |= self.begun && to == To::Text;
            }
        }
        true
    }

    /// Gives out text of a message. Messages of one kind are apart by an empty line.
    fn give(&mut self, to: &To, text: &str, out: &mut Vec<Piece>) {
        if text.is_empty() {
            return;
        }
        if self.raw {
            out.push(Piece::Text(text.to_owned()));
            return;
        }
        let before = if *to == To::Reasoning { self.thought } else { self.spoke };
        let apart = if before && !self.begun { "\n\n" } else { "" };
        self.begun = true;
        let text = format!("{apart}{text}");
        out.push(if *to == To::Reasoning { Piece::Reasoning(text) } else { Piece::Text(text) });
    }

    /// Where the message behind a header goes.
    fn recipient(&self, header: &str) -> To {
        let word_after = |mark: &str| {
            let rest = &header[header.rfind(mark)? + mark.len()..];
            rest.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let channel = word_after(CHANNEL).unwrap_or("final");
        match word_after("to=functions.") {
            Some(name) if self.calls && !name.is_empty() => To::Function(name.to_owned()),
            // A call of a tool that the model was not given is not for the reader.
            Some(_) => To::Reasoning,
            None if channel == "analysis" => To::Reasoning,
            None => To::Text,
        }
    }
}

fn call(name: String, arguments: &str) -> Piece {
    let arguments = arguments.trim();
    let arguments = if arguments.is_empty() { "{}" } else { arguments };
    Piece::Call(WrittenCall { name, arguments: arguments.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "<|start|>user<|message|>hi<|end|><|start|>assistant";

    /// Reasoning, text and calls, with the answer cut after every `n` characters.
    fn run(calls: bool, prompt: &str, answer: &str, n: usize) -> (String, String, Vec<(String, String)>) {
        let mut channels = Channels::new(calls, false);
        channels.begin(prompt);
        let characters: Vec<char> = answer.chars().collect();
        let mut pieces: Vec<Piece> =
            characters.chunks(n).flat_map(|c| channels.push(&c.iter().collect::<String>())).collect();
        pieces.extend(channels.finish());
        let (mut reasoning, mut text, mut found) = (String::new(), String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Reasoning(more) => reasoning.push_str(&more),
                Piece::Text(more) => text.push_str(&more),
                Piece::Call(call) => found.push((call.name, call.arguments)),
            }
        }
        (reasoning, text, found)
    }

    #[track_caller]
    fn check(answer: &str, reasoning: &str, text: &str, calls: &[(&str, &str)]) {
        let calls: Vec<_> =
            calls.iter().map(|(name, args)| ((*name).to_owned(), (*args).to_owned())).collect();
        for n in [1, 2, 5, 1000] {
            let expected = (reasoning.to_owned(), text.to_owned(), calls.clone());
            assert_eq!(run(true, PROMPT, answer, n), expected, "pieces of {n}");
        }
    }

    #[test]
    fn channels_are_apart() {
        check(
            "<|channel|>analysis<|message|>hm, 1 < 2<|end|><|start|>assistant<|channel|>final<|message|>Hello <| you",
            "hm, 1 < 2",
            "Hello <| you",
            &[],
        );
        check(
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant\
             <|channel|>analysis<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>",
            "a\n\nb",
            "I look.\n\nDone.",
            &[],
        );
    }

    #[test]
    fn calls_have_a_recipient() {
        check(
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
            "a",
            "",
            &[("f", "{\"a\": 1}")],
        );
        check(" to=functions.f-2<|channel|>commentary json<|message|>{}", "", "", &[("f-2", "{}")]);
        let answer = "<|channel|>commentary to=functions.f<|message|>{}<|call|>";
        assert_eq!(run(false, PROMPT, answer, 3), ("{}".to_owned(), String::new(), Vec::new()));
    }

    #[test]
    fn raw_text_keeps_all_but_calls() {
        let said = "<|channel|>analysis<|message|>a<|end|>";
        let call = "<|start|>assistant<|channel|>commentary to=functions.f<|message|>{}<|call|>";
        let mut channels = Channels::new(true, true);
        let pieces = channels.push(&format!("{said}{call}"));
        let text: String = pieces
            .iter()
            .filter_map(|p| if let Piece::Text(t) = p { Some(t.as_str()) } else { None })
            .collect();
        assert_eq!(text, said);
        assert!(matches!(pieces.last(), Some(Piece::Call(call)) if call.name == "f"), "{pieces:?}");
    }

    #[test]
    fn a_prompt_may_have_begun_a_message() {
        let prompt = "<|start|>assistant<|channel|>analysis<|message|>I";
        let answer = " think<|end|><|start|>assistant<|channel|>final<|message|>yes";
        assert_eq!(run(true, prompt, answer, 4), (" think".to_owned(), "yes".to_owned(), Vec::new()));
    }

    #[test]
    fn what_breaks_off_is_what_it_looks_like() {
        check("<|channel|>analysis<|message|>hm<|en", "hm<|en", "", &[]);
        check("<|channel|>fin", "", "", &[]);
        check("plain", "", "plain", &[]);
        check("", "", "", &[]);
    }
}
