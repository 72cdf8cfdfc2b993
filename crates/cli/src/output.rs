//! Standard output (the result) and progress on standard error.

use crate::console::note;
use crate::error::OutputClosed;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
pub use zonda::human_bytes;
use zonda_engine::{printable, printable_json, printable_lines};

/// Writes text for people to standard output. Characters that a terminal would act on are escaped, since names in the
/// text may come from anywhere.
///
/// # Errors
/// [`OutputClosed`] if the reader has gone, else the system's error.
pub fn print(text: &str) -> anyhow::Result<()> {
    write(&printable_lines(text))
}

/// Writes a text that is the result itself, such as an answer. It flushes, so that streamed text shows as it arrives.
/// On a terminal the text is escaped as in [`print()`], elsewhere it is unchanged.
///
/// # Errors
/// As [`print()`].
pub fn data(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { print(text) } else { write(text) }
}

/// Writes text with styles; names in it are already escaped.
///
/// # Errors
/// As [`print()`].
pub fn styled(text: &str) -> anyhow::Result<()> {
    write(text)
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints one JSON document and a newline.
///
/// # Errors
/// As [`print()`].
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    json_text(&text)
}

/// Prints a JSON document that is text already.
///
/// # Errors
/// As [`print()`].
pub fn json_text(document: &str) -> anyhow::Result<()> {
    write(&printable_json(document))
}

fn closed(result: io::Result<()>) -> anyhow::Result<()> {
    result.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::new(e).context("standard output"),
    })
}

/// Shows on a terminal that work of unknown length is in progress: loading, reading a prompt. It appears after half a
/// second.
pub struct Spinner {
    bar: ProgressBar,
    done: Arc<AtomicBool>,
}

impl Spinner {
    /// `what` is a phrase such as `loading model`.
    pub fn start(what: impl Into<String>, quiet: bool) -> Spinner {
        let bar = ProgressBar::hidden();
        let done = Arc::new(AtomicBool::new(false));
        if io::stderr().is_terminal() && !quiet {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(printable(&what.into()).into_owned());
            let (later, over) = (bar.clone(), done.clone());
            // Without a thread nothing is shown, and the work continues.
            let _ = std::thread::Builder::new().spawn(move || {
                std::thread::sleep(Duration::from_millis(500));
                if !over.load(Ordering::SeqCst) {
                    later.set_draw_target(ProgressDrawTarget::stderr());
                    later.enable_steady_tick(Duration::from_millis(100));
                }
                // The work ended just before the spinner appeared.
                if over.load(Ordering::SeqCst) {
                    later.finish_and_clear();
                }
            });
        }
        Spinner { bar, done }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        self.bar.finish_and_clear();
    }
}

/// A progress bar. If standard error is not a terminal, prints one line that says what is in progress.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    what: String,
    quiet: bool,
}

impl Progress {
    /// `what` is a phrase such as `downloading model.gguf`; `total` is in bytes, 0 if unknown.
    pub fn bytes(what: impl Into<String>, total: u64, quiet: bool) -> Progress {
        let bytes = "{msg} [{wide_bar}] {bytes}/{total_bytes}, {eta} left";
        Progress::new(what.into(), total, if total > 0 { bytes } else { "{msg} {bytes}" }, quiet)
    }

    /// A bar over steps of equal size, 0 if their number is not known yet. Where standard error is not a terminal,
    /// [`Progress::step`] prints lines.
    pub fn steps(what: impl Into<String>, total: u64, quiet: bool) -> Progress {
        Progress::new(what.into(), total, "{msg} [{wide_bar}] {pos}/{len}, {eta} left", quiet)
    }

    fn new(what: String, total: u64, template: &str, quiet: bool) -> Progress {
        let plain = !io::stderr().is_terminal();
        let target = if plain || quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let what = printable(&what).into_owned();
        bar.set_message(what.clone());
        if !plain && !quiet {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        if plain && !quiet {
            note!("{what}…");
        }
        Progress { bar, plain, what, quiet }
    }

    /// Shows how many steps are done, and the result so far; as lines, at every tenth of the work.
    pub fn step(&self, done: u64, so_far: &str) {
        let total = self.bar.length().unwrap_or(0).max(1);
        let tenth = |n: u64| n * 10 / total;
        if self.plain && !self.quiet && tenth(done) > tenth(done.saturating_sub(1)) {
            note!("{}: {done}/{total}, {so_far}", self.what);
        }
        self.bar.set_message(format!("{}, {}", self.what, printable(so_far)));
        self.bar.set_position(done);
    }

    /// Shows how many bytes are done; also corrects the total.
    pub fn set(&self, done: u64, total: u64) {
        if total > 0 && self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    /// The work is done: the bar disappears, and a line stays.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        if !self.quiet && !self.plain {
            note!("{}: done", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The columns of the terminal on standard output and whether to use colour; 120 and `false` if it is not a terminal.
pub fn terminal() -> (u16, bool) {
    let out = io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let width = terminal_size::terminal_size_of(&out).map_or(120, |(width, _)| width.0);
    (width, colour)
}
