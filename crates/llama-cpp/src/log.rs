//! Where llama.cpp's log goes: to `tracing`, one level down from what it calls it, and the last complaints of each
//! thread to the error that follows them. Nothing reaches stdout or stderr.
//!
//! llama.cpp logs its failures and returns a null pointer, so without these lines an error could not say why.

use std::cell::RefCell;

/// How bad llama.cpp finds a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Default)]
struct Lines {
    /// The line being put together: llama.cpp hands out fragments.
    open: String,
    level: Option<Level>,
    complaints: Vec<String>,
}

impl Lines {
    /// Adds a fragment and returns the lines that it ends.
    fn take(&mut self, level: Option<Level>, text: &str) -> Vec<(Level, String)> {
        self.level = level.or(self.level);
        let level = self.level.unwrap_or(Level::Info);
        self.open.push_str(text);
        let Some(end) = self.open.rfind('\n') else { return Vec::new() };
        let whole: String = self.open.drain(..=end).collect();
        let lines = whole.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let lines: Vec<_> = lines.map(|line| (level, line.to_owned())).collect();
        if level == Level::Error {
            self.complaints.extend(lines.iter().map(|(_, line)| without_function(line).to_owned()));
            self.complaints.drain(..self.complaints.len().saturating_sub(KEPT));
        }
        lines
    }
}

thread_local! {
    static LINES: RefCell<Lines> = RefCell::default();
}

/// Most lines kept for an error.
const KEPT: usize = 4;

/// Takes a fragment; `level` is `None` where it continues the line before.
pub(crate) fn fragment(level: Option<Level>, text: &str) {
    // A thread that is ending has no lines any more: what it says is dropped.
    let finished = LINES.try_with(|lines| lines.borrow_mut().take(level, text)).unwrap_or_default();
    for (level, line) in finished {
        // What llama.cpp calls a warning is a remark to Zonda's user, and its errors come back as ours.
        match level {
            Level::Error => tracing::warn!(target: "llama_cpp", "{line}"),
            Level::Warn => tracing::info!(target: "llama_cpp", "{line}"),
            Level::Info => tracing::debug!(target: "llama_cpp", "{line}"),
            Level::Debug => tracing::trace!(target: "llama_cpp", "{line}"),
        }
    }
}
/// Forgets earlier complaints of this thread: called before what may fail.
pub(crate) fn forget() {
    LINES.with_borrow_mut(|lines| lines.complaints.clear());
}

/// `what`, and what llama.cpp said about it on this thread since [`forget`].
pub(crate) fn explain(what: &str) -> String {
    let complaints = LINES.with_borrow_mut(|lines| std::mem::take(&mut lines.complaints));
    match complaints.join("; ") {
        none if none.is_empty() => format!("llama.cpp {what} and did not say why"),
        said => format!("llama.cpp {what}: {said}"),
    }
}

/// llama.cpp begins lines with the name of its function, which says nothing to a user.
fn without_function(line: &str) -> &str {
    match line.split_once(": ") {
        Some((name, rest)) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => rest,
        _ => line,
    }
}

/// A failed assertion begins with the file it is in, whose folders are those of whoever compiled it.
pub(crate) fn without_folders(message: &str) -> &str {
    let file = message.split(": ").next().unwrap_or_default();
    match file.rfind(['/', '\\']) {
        Some(last) => &message[last + 1..],
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_in_whole_lines_for_the_next_failure() {
        forget();
        fragment(Some(Level::Info), "llama_model_loader: loading\n");
        fragment(Some(Level::Error), "llama_model_load: error loading ");
        fragment(None, "model: bad magic\nsecond: C:\\x is 3: too many\n");
        assert_eq!(
            explain("could not load x.gguf"),
            "llama.cpp could not load x.gguf: error loading model: bad magic; C:\\x is 3: too many"
        );
        assert_eq!(explain("failed"), "llama.cpp failed and did not say why");
    }

    #[test]
    fn an_assertion_is_told_without_folders() {
        let told = "/home/x y/ggml.c:12: GGML_ASSERT(a / b > 0) failed";
        assert_eq!(without_folders(told), "ggml.c:12: GGML_ASSERT(a / b > 0) failed");
        assert_eq!(without_folders("gone"), "gone");
    }

    #[test]
    fn only_the_last_lines_are_kept_and_forgetting_empties() {
        for i in 0..10 {
            fragment(Some(Level::Error), &format!("line {i}\n"));
        }
        assert_eq!(explain("failed"), "llama.cpp failed: line 6; line 7; line 8; line 9");
        fragment(Some(Level::Error), "old\n");
        forget();
        assert_eq!(explain("failed"), "llama.cpp failed and did not say why");
    }
}
