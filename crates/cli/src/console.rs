//! Writing to standard error, which never fails: a closed pipe or a full disk must not end a command.

use std::io::{self, Write as _};

/// Prints to standard error, with a newline. Unlike `eprintln!` it never panics.
macro_rules! note {
    ($($text:tt)*) => { $crate::console::write(&format!("{}\n", format_args!($($text)*))) };
}
pub(crate) use note;

/// Writes text to standard error, in one piece. Characters that a terminal would act on are escaped, since names in the
/// text may come from anywhere.
pub fn write(text: &str) {
    let text = zonda_engine::printable_lines(text);
    // There is no other place to report a failure.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// As [`write()`], between two texts of our own that switch a style on and off.
pub fn write_styled(text: &str, (on, off): (&str, &str)) {
    let text = format!("{on}{}{off}", zonda_engine::printable_lines(text));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Standard error as a writer for the log: failures are dropped.
pub struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().lock().flush();
        Ok(())
    }
}
