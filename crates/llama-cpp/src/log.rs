//! Forwards llama.cpp's log to `tracing`, one level lower, and keeps each thread's last error messages for the error that
//! follows. Nothing reaches stdout or stderr.
//!
//! llama.cpp logs the reason of a failure and returns a null pointer, so an error needs these lines to state the reason.

use std::cell::RefCell;

/// llama.cpp's log level of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Default)]
struct Lines {
    /// The incomplete line: llama.cpp logs fragments.
    open: String,
    level: Option<Level>,
    complaints: Vec<String>,
}

impl Lines {
    /// Adds a fragment and returns the lines that it completes.
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

/// Maximum number of lines kept for an error.
const KEPT: usize = 4;

/// Takes a fragment; `level` is `None` if it continues the previous line.
pub(crate) fn fragment(level: Option<Level>, text: &str) {
    // A thread that is ending has no lines left, so its messages are dropped.
    let finished = LINES.try_with(|lines| lines.borrow_mut().take(level, text)).unwrap_or_default();
    for (level, line) in finished {
        // llama.cpp's warnings matter little to Zonda's users, and its errors are returned as ours.
        match level {
            Level::Error => tracing::warn!(target: "llama_cpp", "{line}"),
            Level::Warn => tracing::info!(target: "llama_cpp", "{line}"),
            Level::Info => tracing::debug!(target: "llama_cpp", "{line}"),
            Level::Debug => tracing::trace!(target: "llama_cpp", "{line}"),
        }
    }
}
/// Forgets earlier error messages of this thread. Call it before an operation that may fail.
pub(crate) fn forget() {
    LINES.with_borrow_mut(|lines| lines.complaints.clear());
}

/// `what`, and llama.cpp's error messages on this thread since [`forget`].
pub(crate) fn explain(what: &str) -> String {
    let complaints = LINES.with_borrow_mut(|lines| std::mem::take(&mut lines.complaints));
    match complaints.join("; ") {
        none if none.is_empty() => format!("llama.cpp {what} and gave no reason"),
        said => format!("llama.cpp {what}: {said}"),
    }
}

/// The line without the function name that llama.cpp puts in front, which means nothing to a user.
fn without_function(line: &str) -> &str {
    match line.split_once(": ") {
        Some((name, rest)) if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => rest,
        _ => line,
    }
}

/// The message of a failed assertion without the folders of its source file, which are those of the machine that compiled it.
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
        assert_eq!(explain("failed"), "llama.cpp failed and gave no reason");
    }

    #[test]
    fn an_assertion_is_reported_without_folders() {
        let told = "/home/x y/ggml.c:12: GGML_ASSERT(a / b > 0) failed";
        assert_eq!(without_folders(told), "ggml.c:12: GGML_ASSERT(a / b > 0) failed");
        assert_eq!(without_folders("gone"), "gone");
    }

    #[test]
    fn only_the_last_lines_are_kept_until_they_are_forgotten() {
        for i in 0..10 {
            fragment(Some(Level::Error), &format!("line {i}\n"));
        }
        assert_eq!(explain("failed"), "llama.cpp failed: line 6; line 7; line 8; line 9");
        fragment(Some(Level::Error), "old\n");
        forget();
        assert_eq!(explain("failed"), "llama.cpp failed and gave no reason");
    }
}
