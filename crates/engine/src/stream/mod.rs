//! Tokens to text events: detokenising, stop strings, finish reasons.
