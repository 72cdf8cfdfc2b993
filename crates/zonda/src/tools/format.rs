//! [`Format`]: how a model writes calls.

/// How calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Mistral,
    MistralNamed,
    Llama3,
    Tagged,
    TaggedList,
    Harmony,
}
