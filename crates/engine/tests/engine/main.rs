//! The engine's tests in one program. The tests of opening models are a separate program, because they count allocations.

mod context_full;
mod end_to_end;
mod faults;
mod mistral_formats;
mod mock;
mod odd;
mod sample;
mod scheduler;
mod scheduler_import;
mod scheduling;
mod shift;
mod speculate;
mod tokenize_bounds;
mod tokenize_damage;
mod tokenize_goldens;
mod tokenize_smollm2;
mod tokenizer_json;
