//! [`Style`]: how a model calls functions.

use super::choice::Tools;
use super::format::Format;
use super::parse::Parser;
use zonda_engine::tokenize::{ChatTemplate, Tokenizer};
use zonda_engine::{TextProcessor, TokenId};

/// How a model calls functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub(super) format: Format,
    /// Whether the model's template supports tools; otherwise the system message describes them.
    pub(super) native: bool,
}

impl Style {
    /// A model's style, recognised by words in its chat template.
    pub fn of(text: Option<&TextProcessor>) -> Style {
        Style::of_template(text.and_then(|t| t.template.as_deref()).map_or("", ChatTemplate::source))
    }

    fn of_template(source: &str) -> Style {
        let has = |word: &str| source.contains(word);
        // A template that refuses tools also mentions them.
        let native = has("tools") && (has("tool_call") || has("TOOL_CALLS") || has("python_tag"));
        let format = match () {
            () if !native => Format::TaggedList,
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Format::MistralNamed,
            () if has("[TOOL_CALLS]") => Format::Mistral,
            () if has("<|python_tag|>") || has("<|start_header_id|>") => Format::Llama3,
            () if has("<tool_call>[") => Format::TaggedList,
            () if has("<tool_call>") => Format::Tagged,
            // The model has an unknown format, so we explain ours to it.
            () => return Style { format: Format::TaggedList, native: false },
        };
        let refuses = has("has no tools") && !has("[TOOL_CALLS]");
        Style { format: if refuses { Format::TaggedList } else { format }, native: native && !refuses }
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
        };
        let control = |name: &&str| tokenizer.token_id(name).filter(|&id| tokenizer.is_special(id));
        names.iter().filter_map(control).collect()
    }

    /// A parser of one answer's text.
    pub(super) fn parser(self, tools: &Tools) -> Parser {
        Parser::new(self.format, tools.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_their_format() {
        let mock = Tokenizer::mock();
        let builtin = |name| Style::of_template(ChatTemplate::builtin(name, &mock).unwrap().source());
        let told = Style { format: Format::TaggedList, native: false };
        assert_eq!(builtin("chatml"), told);
        assert_eq!(builtin("llama3"), told);
        assert_eq!(builtin("mistral-v1"), told);
        for name in ["mistral-v2", "mistral-v3", "mistral-v7"] {
            assert_eq!(builtin(name), Style { format: Format::Mistral, native: true }, "{name}");
        }
        let native = |source, format| {
            assert_eq!(Style::of_template(source), Style { format, native: true }, "{source}")
        };
        native("{% if tools %}{{ tools }}<tool_call>\n{{ tool_call.name }}</tool_call>", Format::Tagged);
        native(
            "{% if tools %}{{ tools }}<tool_call>[{{ message.tool_calls }}]</tool_call>",
            Format::TaggedList,
        );
        native("{{ tools }}<|start_header_id|>{{ message.tool_calls }}", Format::Llama3);
        native("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]", Format::MistralNamed);
        assert_eq!(Style::of_template("{{ tools }}{{ message.tool_calls }}"), told);
    }
}
