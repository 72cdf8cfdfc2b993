//! Every command as a process. All these tests are in one program, because linking takes longer than running most of them.
//! Tests that need a feature of the crate are separate programs.

mod common;

mod cli {
    mod bench;
    mod bench_serve;
    mod clients;
    mod commands;
    mod context_shift;
    mod doctor_verify;
    mod hostile_files;
    mod hub;
    mod page;
    mod prompt_cache;
    mod pull;
    mod quality;
    mod quantize;
    mod recommend;
    mod serve;
    mod speculate;
}
