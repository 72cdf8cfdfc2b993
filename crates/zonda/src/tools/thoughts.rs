//! [`Thoughts`]: separates an answer's reasoning, which is between two marks, from the rest, in a text that arrives in pieces.

use super::marks::{Kind, Marks, unfinished};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Reasoning, without its marks and the white space around it.
    Reasoning(String),
    /// The rest.
    Answer(String),
}

/// Separates reasoning by its marks. Text that may be the beginning of a mark, and white space that may be the end of the
/// reasoning, are held back until that is certain.
#[derive(Clone, Debug)]
pub(super) struct Thoughts {
    marks: &'static Marks,
    state: State,
    held: String,
    /// There was reasoning before the block that is open.
    thought: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before any text.
    Start,
    /// Behind an opening mark, before the reasoning.
    Opened,
    Inside,
    /// Behind a closing mark, before the answer.
    Closed,
    Outside,
}

impl Thoughts {
    pub fn new(marks: &'static Marks) -> Thoughts {
        Thoughts { marks, state: State::Start, held: String::new(), thought: false }
    }

    /// Begins behind the end of a prompt, which may have opened the reasoning.
    pub fn begin(&mut self, prompt: &str) {
        if prompt.trim_end().ends_with(self.marks.open) {
            self.state = State::Opened;
        }
    }

    /// Takes the next piece of text, and gives what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The text has ended: what is held back is what it looks like now.
    pub fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.held);
        let part = match self.state {
            State::Opened | State::Closed if rest.trim().is_empty() => return Vec::new(),
            State::Opened | State::Inside => Part::Reasoning(rest.trim_end().to_owned()),
            State::Start | State::Closed | State::Outside => Part::Answer(rest),
        };
        let empty = matches!(&part, Part::Reasoning(text) | Part::Answer(text) if text.is_empty());
        if empty { Vec::new() } else { vec![part] }
    }

    /// Goes on as far as the held text allows; false: more is needed.
    fn step(&mut self, out: &mut Vec<Part>) -> bool {
        let Marks { open, close, kind } = *self.marks;
        let trimmed = self.held.trim_start();
        match self.state {
            State::Start => {
                if let Some(rest) = trimmed.strip_prefix(open) {
                    self.held = rest.to_owned();
                    self.state = State::Opened;
                } else if open.starts_with(trimmed) {
                    return false;
                } else {
                    self.state = State::Outside;
                }
                true
            }
            State::Opened => {
                if let Some(rest) = trimmed.strip_prefix(close) {
                    self.held = rest.to_owned();
                    self.state = State::Closed;
                } else if let Some(rest) = trimmed.strip_prefix(open) {
                    // The model wrote the mark that the prompt ended with once more.
                    self.held = rest.to_owned();
                } else if open.starts_with(trimmed) || close.starts_with(trimmed) {
                    return false;
                } else {
                    self.held = trimmed.to_owned();
                    self.state = State::Inside;
                    if self.thought {
                        // Blocks are apart by an empty line.
                        out.push(Part::Reasoning("\n\n".to_owned()));
                    }
                }
                true
            }
            State::Inside => {
                let Some(at) = self.held.find(close) else {
                    let certain =
                        self.held[..self.held.len() - unfinished(&self.held, close)].trim_end().len();
                    self.think(certain, out);
                    return false;
                };
                let certain = self.held[..at].trim_end().len();
                self.think(certain, out);
                self.held.drain(..at - certain + close.len());
                self.state = State::Closed;
                true
            }
            State::Closed => {
                if trimmed.is_empty() {
                    return false;
                }
                self.held = trimmed.to_owned();
                self.state = State::Outside;
                true
            }
            State::Outside => {
                let at = if kind == Kind::Control { self.held.find(open) } else { None };
                let certain = match (at, kind) {
                    (Some(at), _) => at,
                    (None, Kind::Control) => self.held.len() - unfinished(&self.held, open),
                    (None, _) => self.held.len(),
                };
                if certain > 0 {
                    out.push(Part::Answer(self.held.drain(..certain).collect()));
                }
                if at.is_some() {
                    self.held.drain(..open.len());
                    self.state = State::Opened;
                }
                at.is_some()
            }
        }
    }

    /// Gives out this many bytes of the held text as reasoning.
    fn think(&mut self, bytes: usize, out: &mut Vec<Part>) {
        if bytes > 0 {
            self.thought = true;
            out.push(Part::Reasoning(self.held.drain(..bytes).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINK: &str = "{{ '<think>' }}";
    const MISTRAL: &str = "{{ '[THINK]' }}";

    /// Reasoning and answer, with the text cut after every `n` characters, behind a prompt.
    fn run(template: &str, prompt: &str, text: &str, n: usize) -> (String, String) {
        let mut thoughts = Thoughts::new(Marks::of_template(template).unwrap());
        thoughts.begin(prompt);
        let characters: Vec<char> = text.chars().collect();
        let mut parts: Vec<Part> =
            characters.chunks(n).flat_map(|c| thoughts.push(&c.iter().collect::<String>())).collect();
        parts.extend(thoughts.finish());
        let (mut reasoning, mut answer) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Reasoning(text) => reasoning.push_str(&text),
                Part::Answer(text) => answer.push_str(&text),
            }
        }
        (reasoning, answer)
    }

    #[track_caller]
    fn check(template: &str, prompt: &str, text: &str, reasoning: &str, answer: &str) {
        for n in [1, 2, 3, 7, 1000] {
            let expected = (reasoning.to_owned(), answer.to_owned());
            assert_eq!(run(template, prompt, text, n), expected, "pieces of {n}");
        }
    }

    #[test]
    fn reasoning_is_apart() {
        check(THINK, "", "<think>\nhm,\n\nwind\n</think>\n\nHello!\n", "hm,\n\nwind", "Hello!\n");
        check(THINK, "", "\n<think>a < b </thin</think>c", "a < b </thin", "c");
        check(MISTRAL, "", "[THINK]a[/THINK]b", "a", "b");
    }

    #[test]
    fn a_prompt_may_have_opened_it() {
        check(THINK, "<|im_start|>assistant\n<think>\n", "hm\n</think>\n\nyes", "hm", "yes");
        check(THINK, "assistant\n<think>\n", "<think>\nhm</think>yes", "hm", "yes");
        check(THINK, "assistant\n<think>\n\n</think>\n\n", "yes", "", "yes");
        check(THINK, "assistant\n<think>\n", "</think>yes", "", "yes");
    }

    #[test]
    fn an_answer_may_end_within_it_or_have_none() {
        check(THINK, "", "<think>hm, so ", "hm, so", "");
        check(THINK, "<think>", "\n", "", "");
        check(THINK, "", "<think>\n\n</think>\n\nyes", "", "yes");
        check(THINK, "", " plain <think>x</think>", "", " plain <think>x</think>");
        check(THINK, "", "<thin", "", "<thin");
        check(THINK, "", "", "", "");
    }

    #[test]
    fn control_tokens_count_everywhere() {
        check(MISTRAL, "", "so [THINK]a[/THINK] b [THINK] c [/THINK]", "a\n\nc", "so b ");
        check(MISTRAL, "", "a [THIN b", "", "a [THIN b");
    }
}
