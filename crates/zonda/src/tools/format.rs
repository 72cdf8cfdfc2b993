//! [`Format`]: the format of a model's calls.

/// The format of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Mistral,
    MistralNamed,
    Llama3,
    Tagged,
    TaggedList,
    Harmony,
}
