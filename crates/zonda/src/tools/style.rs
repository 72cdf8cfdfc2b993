//! [`Style`]: how a model calls functions and marks its reasoning.

use super::choice::Tools;
use super::format::Format;
use super::marks::{Kind, Marks};
use super::parse::CallParser;
use zonda_engine::tokenize::{ChatTemplate, Tokenizer};
use zonda_engine::{TextProcessor, TokenId};

/// How a model calls functions and marks its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub(super) format: Format,
    /// Whether the model's template supports tools; otherwise the system message describes them.
    pub(super) native: bool,
    /// How it marks its reasoning; `None`: it has none.
    pub(super) marks: Option<&'static Marks>,
    /// Reasoning is separated from the answer.
    pub(super) separates: bool,
}

impl Style {
    /// A model's style, recognised by words in its chat template.
    pub fn of(text: Option<&TextProcessor>) -> Style {
        let style =
            Style::of_template(text.and_then(|t| t.template.as_deref()).map_or("", ChatTemplate::source));
        let marks = style.marks.filter(|marks| text.is_some_and(|text| marks.known_to(&text.tokenizer)));
        Style { marks, ..style }
    }

    fn of_template(source: &str) -> Style {
        let has = |word: &str| source.contains(word);
        let marks = Marks::of_template(source);
        let told = Style { format: Format::TaggedList, native: false, marks, separates: true };
        // A template that refuses tools also mentions them.
        let native = has("tools") && (has("tool_call") || has("TOOL_CALLS") || has("python_tag"));
        let format = match () {
            () if !native => return told,
            () if marks.is_some_and(|marks| marks.kind == Kind::Harmony) => Format::Harmony,
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Format::MistralNamed,
            () if has("[TOOL_CALLS]") => Format::Mistral,
            () if has("<|python_tag|>") || has("<|start_header_id|>") => Format::Llama3,
            () if has("<tool_call>[") => Format::TaggedList,
            () if has("<tool_call>") => Format::Tagged,
            // The model has an unknown format, so we explain ours to it.
            () => return told,
        };
        let refuses = has("has no tools") && !has("[TOOL_CALLS]");
        if refuses { told } else { Style { format, native, ..told } }
    }

    /// The same style with reasoning left in the text as the model writes it, marks included, if `separate` is false.
    #[must_use]
    pub fn separating(self, separate: bool) -> Style {
        Style { separates: separate, ..self }
    }

    /// Whether answers are split into reasoning and text.
    pub fn separates_reasoning(self) -> bool {
        self.separates && self.marks.is_some()
    }

    /// Whether ids of calls must be nine letters and digits, as Mistral's templates require.
    pub fn short_ids(self) -> bool {
        matches!(self.format, Format::Mistral | Format::MistralNamed)
    }

    /// The control tokens that mark calls. They must appear in the text.
    pub(super) fn markers(self, tokenizer: &Tokenizer) -> Vec<TokenId> {
        let names: &[&str] = match self.format {
            Format::Mistral | Format::MistralNamed => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            Format::Llama3 => &["<|python_tag|>"],
            Format::Tagged | Format::TaggedList => &["<tool_call>", "</tool_call>"],
            // The marks of its channels are enough.
            Format::Harmony => &[],
        };
        let control = |name: &&str| tokenizer.token_id(name).filter(|&id| tokenizer.is_special(id));
        names.iter().filter_map(control).collect()
    }

    /// A parser of the calls in one answer's text.
    pub(super) fn calls_parser(self, tools: &Tools) -> CallParser {
        CallParser::new(self.format, tools.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_their_format() {
        let mock = Tokenizer::mock();
        let builtin = |name| Style::of_template(ChatTemplate::builtin(name, &mock).unwrap().source());
        let told = Style { format: Format::TaggedList, native: false, marks: None, separates: true };
        assert_eq!(builtin("chatml"), told);
        assert_eq!(builtin("llama3"), told);
        assert_eq!(builtin("mistral-v1"), told);
        for name in ["mistral-v2", "mistral-v3", "mistral-v7"] {
            assert_eq!(builtin(name), Style { format: Format::Mistral, native: true, ..told }, "{name}");
        }
        for name in ["mistral-v11", "mistral-v13", "mistral-v15"] {
            assert_eq!(builtin(name).format, Format::MistralNamed, "{name}");
        }
        let native = |source, format| {
            assert_eq!(Style::of_template(source), Style { format, native: true, ..told }, "{source}")
        };
        native("{% if tools %}{{ tools }}<tool_call>\n{{ tool_call.name }}</tool_call>", Format::Tagged);
        native(
            "{% if tools %}{{ tools }}<tool_call>[{{ message.tool_calls }}]</tool_call>",
            Format::TaggedList,
        );
        native("{{ tools }}<|start_header_id|>{{ message.tool_calls }}", Format::Llama3);
        native("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]", Format::MistralNamed);
        assert_eq!(Style::of_template("{{ tools }}{{ message.tool_calls }}"), told);
        let harmony = "{{ tools }}{{ message.tool_calls }}<|channel|>analysis<|message|>";
        assert_eq!(Style::of_template(harmony).format, Format::Harmony);
        assert!(Style::of_template("{{ '<think>' }}").separates_reasoning());
        assert!(!Style::of_template("{{ '<think>' }}").separating(false).separates_reasoning());
    }
}
