//! How commands end: exit codes, errors with advice, and the two endings that are not failures.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

use crate::console::note;
use std::fmt;
use std::process::ExitCode;

/// The command line was wrong in a way that only the command could detect: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The user pressed Ctrl-C: exit code 130, nothing printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The reader of standard output has gone (`zonda … | head`): not a failure, nothing printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct OutputClosed;

/// An error with advice on what to do about it.
#[derive(Debug)]
struct Advised {
    advice: String,
    source: anyhow::Error,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Adds advice to an error: what to do next.
pub trait Advice<T> {
    /// The advice is a sentence in lower case without a full stop.
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advice<T> for Result<T, E> {
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| Advised { advice: advice.into(), source: e.into() }.into())
    }
}

/// An error made of a sentence and advice.
pub fn advised(message: impl fmt::Display, advice: impl Into<String>) -> anyhow::Error {
    Advised { advice: advice.into(), source: anyhow::anyhow!("{message}") }.into()
}

/// Prints what went wrong to standard error and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if holds::<Interrupted>(error) || library(error).any(|e| matches!(e, zonda::Error::Cancelled)) {
        return ExitCode::from(130);
    }
    if holds::<OutputClosed>(error) {
        return ExitCode::SUCCESS;
    }
    note!("error: {}", sentence(error));
    for e in error.chain() {
        if let Some(Advised { advice, .. }) = e.downcast_ref() {
            note!("help: {advice}");
        }
    }
    if let Some(advice) = library(error).find_map(zonda::Error::advice) {
        note!("help: {advice}");
    }
    if holds::<Usage>(error) { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The library's errors in the chain, advised or not.
fn library(error: &anyhow::Error) -> impl Iterator<Item = &zonda::Error> {
    error.chain().filter_map(|e| match e.downcast_ref::<Advised>() {
        Some(advised) => advised.source.downcast_ref(),
        None => e.downcast_ref(),
    })
}

/// True if a `T` is anywhere in the chain, advised or not.
fn holds<T: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.is::<T>() || e.downcast_ref().is_some_and(|a: &Advised| holds::<T>(&a.source)))
}

/// The chain as one line, outermost first, without causes that the message before already quotes.
fn sentence(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for e in error.chain() {
        let text = e.to_string();
        if !out.ends_with(&text) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_named_once() {
        let io = std::io::Error::other("disk on fire");
        let wrapped: anyhow::Result<()> = Err(io).advise("buy an extinguisher").context("model.gguf");
        let error = wrapped.unwrap_err();
        assert_eq!(sentence(&error), "model.gguf: disk on fire");
        assert!(holds::<Advised>(&error));
        assert!(!holds::<Usage>(&error));
    }

    #[test]
    fn advice_hides_no_exit_code() {
        let error = Err::<(), _>(Usage("two models".into())).advise("name one").unwrap_err();
        assert!(holds::<Usage>(&error));
        assert_eq!(sentence(&error), "two models");
    }
}
