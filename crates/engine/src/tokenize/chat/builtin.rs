//! Templates that Zonda knows by name, for models that come without one. Formats as their makers document them.

/// Names of the built-in templates.
pub const NAMES: [&str; 7] =
    ["chatml", "llama3", "mistral-v1", "mistral-v3", "mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken"];

/// Qwen, SmolLM2 and many others.
const CHATML: &str = "\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{{ '\\n' if false }}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}";

/// The source of a built-in template.
pub(super) fn source(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        _ => None,
    }
}
