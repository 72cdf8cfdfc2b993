//! [`Marks`]: how families of models mark what they think before they answer.

use zonda_engine::TokenId;
use zonda_engine::tokenize::Tokenizer;

/// How a family of models marks its reasoning.
#[derive(Debug, PartialEq, Eq)]
pub struct Marks {
    /// What begins the reasoning.
    pub open: &'static str,
    /// What ends it.
    pub close: &'static str,
    pub(super) kind: Kind,
}

/// Where the marks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// At the beginning of an answer: they are plain text for the tokenizer, or a model may write about them.
    Start,
    /// Anywhere: they are control tokens, which text can't contain.
    Control,
    /// Messages in channels, each with a header: OpenAI's harmony format.
    Harmony,
}

/// All families. A model belongs to the first one whose marks its chat template contains.
const FAMILIES: [Marks; 10] = [
    // gpt-oss
    Marks { open: "<|channel|>", close: "<|message|>", kind: Kind::Harmony },
    // Mistral: Magistral, Ministral 3, Mistral Small 4
    Marks { open: "[THINK]", close: "[/THINK]", kind: Kind::Control },
    // Gemma 4
    Marks { open: "<|channel>thought", close: "<channel|>", kind: Kind::Start },
    // Command A, Command R7B
    Marks { open: "<|START_THINKING|>", close: "<|END_THINKING|>", kind: Kind::Control },
    // Seed-OSS
    Marks { open: "<seed:think>", close: "</seed:think>", kind: Kind::Start },
    // Apertus
    Marks { open: "<|inner_prefix|>", close: "<|inner_suffix|>", kind: Kind::Control },
    // Kimi-VL
    Marks { open: "◁think▷", close: "◁/think▷", kind: Kind::Start },
    // MiniMax M3
    Marks { open: "<mm:think>", close: "</mm:think>", kind: Kind::Start },
    // EXAONE Deep
    Marks { open: "<thought>", close: "</thought>", kind: Kind::Start },
    // DeepSeek R1, Qwen 3, GLM-4.5, SmolLM3, Nemotron and most others
    Marks { open: "<think>", close: "</think>", kind: Kind::Start },
];

/// The control tokens of harmony's headers.
const HARMONY: [&str; 5] = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>"];

impl Marks {
    /// The marks that a chat template contains; `None`: its model does not think, or in a way that is not known here.
    pub(super) fn of_template(source: &str) -> Option<&'static Marks> {
        let has = |marks: &&Marks| match marks.kind {
            Kind::Harmony => source.contains(marks.open) && source.contains(marks.close),
            _ => source.contains(marks.open) || source.contains(marks.close),
        };
        FAMILIES.iter().find(has)
    }

    /// The control tokens among the marks, which must appear in the text.
    pub(super) fn tokens(&self, tokenizer: &Tokenizer) -> Vec<TokenId> {
        let own = [self.open, self.close];
        let names = if self.kind == Kind::Harmony { &HARMONY[..] } else { &own[..] };
        let control = |name: &&str| tokenizer.token_id(name).filter(|&id| tokenizer.is_special(id));
        names.iter().filter_map(control).collect()
    }

    /// Whether a tokenizer has the tokens that the marks need.
    pub(super) fn known_to(&self, tokenizer: &Tokenizer) -> bool {
        self.kind == Kind::Start || self.tokens(tokenizer).len() >= 2
    }
}

/// The length of the end of a text that may be the beginning of a mark, in bytes.
pub(super) fn unfinished(text: &str, mark: &str) -> usize {
    let longest = (1..mark.len().min(text.len() + 1)).rev();
    longest.into_iter().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_their_marks() {
        let open = |source| Marks::of_template(source).map(|marks| marks.open);
        assert_eq!(open("{{ '<|im_start|>assistant\n<think>\n' }}"), Some("<think>"));
        assert_eq!(open("{{ content.split('</think>')[-1] }}"), Some("<think>"));
        assert_eq!(open("[THINK]{{ x }}[/THINK] <think>"), Some("[THINK]"));
        assert_eq!(open("<|channel|>analysis<|message|>"), Some("<|channel|>"));
        assert_eq!(open("<|channel>thought\n<channel|>"), Some("<|channel>thought"));
        assert_eq!(open("<|channel|> alone"), None);
        assert_eq!(open("{{ messages }}"), None);
    }

    #[test]
    fn control_tokens_must_be_in_the_vocabulary() {
        let mock = Tokenizer::mock();
        for marks in &FAMILIES {
            assert_eq!(marks.known_to(&mock), marks.kind == Kind::Start, "{}", marks.open);
        }
    }
}
