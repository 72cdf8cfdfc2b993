//! One file per command: its flags, and what it does.

pub mod bench;
pub mod bench_child;
pub mod bench_compare;
pub mod bench_report;
pub mod bench_serve;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod detokenize;
pub mod doctor;
mod generate;
pub mod inspect;
pub mod list;
pub mod logits;
pub mod perplexity;
pub mod pull;
pub mod quantize;
pub mod recommend;
pub mod rm;
pub mod run;
pub mod serve;
pub mod synth;
pub mod tokenize;
pub mod verify;
