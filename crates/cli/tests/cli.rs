//! Every command as a process. One program holds all these tests, since linking takes longer than running most of them;
//! tests that need a feature of the crate are programs of their own.

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
