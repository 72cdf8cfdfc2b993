//! Opening models: the formats, the specs they give, and what damaged files give.

mod hf;
