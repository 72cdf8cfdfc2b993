//! JSON numbers with their original text. `serde_json` reads numbers as integers of 64 bits or as floats, and would
//! write some of them differently (`12345678901234567890123` as `1.2345678901234568e+22`). Such a number is kept as a
//! string between two marks, and loses its quotes when it is written as JSON. The marks are removed from the rendered
//! prompt together with the guards.

use serde::de::IgnoredAny;
use serde_json::{Number, Value};
use std::borrow::Cow;

/// A noncharacter, like the guards.
pub(crate) const MARK: char = '\u{fdd1}';

/// Reads JSON. Numbers that `serde_json` would write differently become marked strings, which [`write_exact`] and
/// templates' `tojson` write as they were.
///
/// # Errors
/// If it is not JSON.
pub fn read_exact(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<IgnoredAny>(text)?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Outside strings only numbers begin with a digit or a minus.
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = if rest.starts_with('"') { string_end(rest) } else { number_end(rest) };
        let token = &rest[..end];
        rest = &rest[end..];
        if token.starts_with('"') || is_written_alike(token) {
            out.push_str(token);
        } else {
            out.extend(['"', MARK]);
            out.push_str(token);
            out.extend([MARK, '"']);
        }
    }
    out.push_str(rest);
    serde_json::from_str(&out)
}

/// JSON text whose marked strings are numbers again.
pub fn write_exact(text: &str) -> Cow<'_, str> {
    let (open, close) = (format!("\"{MARK}"), format!("{MARK}\""));
    if !text.contains(&open) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&open) {
        let number = &rest[at + open.len()..];
        let end = number_end(number);
        let whole = serde_json::from_str::<IgnoredAny>(&number[..end]).is_ok();
        if whole && number[end..].starts_with(&close) {
            out.push_str(&rest[..at]);
            // The mark stays, so that no name of a control token can form here.
            out.push(MARK);
            out.push_str(&number[..end]);
            rest = &number[end + close.len()..];
        } else {
            out.push_str(&rest[..at + open.len()]);
            rest = number;
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether `serde_json` writes a number as it was read.
fn is_written_alike(token: &str) -> bool {
    serde_json::from_str::<Number>(token).is_ok_and(|number| number.to_string() == token)
}

/// The length in bytes of the number at the start of a text.
fn number_end(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(text.len())
}

/// The length in bytes of the string at the start of a text, including its quotes.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_text() {
        let text = r#"{"a":12345678901234567890123,"b":[1.50,1e3,-0,0.1,7,1E999],"c":"say \"1e3\" 1.50"}"#;
        let value = read_exact(text).unwrap();
        assert_eq!(value["b"][4], 7);
        assert_eq!(value["c"], "say \"1e3\" 1.50");
        let written = serde_json::to_string(&value).unwrap();
        assert_eq!(write_exact(&written).replace(MARK, ""), text);
        for bad in ["", "{", "01", "{\"a\":1.}", "1 2"] {
            assert!(read_exact(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_numbers_lose_their_quotes() {
        for text in
            ["\"\u{fdd1}x\u{fdd1}\"", "\"\u{fdd1}1,2\u{fdd1}\"", "\"\u{fdd1}\u{fdd1}\"", "\"\u{fdd1}1\""]
        {
            assert_eq!(write_exact(text), text);
        }
    }
}
