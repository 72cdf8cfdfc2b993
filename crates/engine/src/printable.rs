//! Text of files and other people as a terminal may show it: control characters are escaped.

use std::borrow::Cow;

/// A name as part of a line: every character that a terminal would act on is shown as `\u{1b}`, a line break as `\n`.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, acts)
}

/// Text of several lines: as [`printable`], but line breaks and tabs stay.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| acts(c) && !matches!(c, '\n' | '\t'))
}

/// A JSON document as it is printed: such characters in its strings are escaped as JSON does it, `\u001b`.
pub fn printable_json(document: &str) -> Cow<'_, str> {
    let wanted = |c| acts(c) && !matches!(c, '\n' | '\t' | '\r');
    if !document.contains(wanted) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        match c {
            c if wanted(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn escape(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            // `escape_default` writes line breaks and tabs by name, and the rest as `\u{1b}`.
            c if wanted(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// True for a character that changes what a terminal shows elsewhere: the controls C0 and C1, line and paragraph separators,
/// and those that change the direction of the text around them (Unicode's `Bidi_Control`), or are tags that nobody sees.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_stays() {
        let name = "a\u{1b}]0;title\u{7}\u{9b}2J\r\n\tb\u{202e}c\u{7f}";
        assert_eq!(printable(name), r"a\u{1b}]0;title\u{7}\u{9b}2J\r\n\tb\u{202e}c\u{7f}");
        assert_eq!(printable_lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
        let document = serde_json::to_string_pretty(&[name, "\u{e0041}"]).unwrap();
        let printed = printable_json(&document);
        assert!(!printed.contains(|c| acts(c) && c != '\n'), "{printed}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&printed).unwrap(), [name, "\u{e0041}"]);
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in ["", "model.gguf", "café — 模型 🎉 'q\\\"", "مرحبا"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
