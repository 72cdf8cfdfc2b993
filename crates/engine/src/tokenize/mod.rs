//! Text to token ids and back: tokenizers of every format, chat templates.
