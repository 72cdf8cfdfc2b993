//! The `zonda` command.
mod error;
mod interrupt;
mod npy;
mod output;
mod store;
fn main() {}
