//! The building blocks of the page: sections, cards, lists, notes, colours, and escaped text.

use crate::report::figures::SubjectFigures;
use std::fmt::Write;

/// The number of colours in the style sheet.
const COLOURS: usize = 8;

/// A section, omitted if it is empty.
pub(super) fn section(out: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        let _ = writeln!(out, "<section><h2>{title}</h2>{body}</section>");
    }
}

pub(super) fn card(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("<div class=\"card\">{body}</div>") }
}

pub(super) fn list(sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    format!("<ul>{}</ul>", sentences.iter().map(|s| format!("<li>{}</li>", escape(s))).collect::<String>())
}

pub(super) fn note_of(text: &str) -> String {
    format!("<p class=\"note\">{}</p>", escape(text))
}

/// A subject's colour in every plot.
pub(super) fn colour(subject: usize) -> String {
    format!("var(--c{})", subject % COLOURS)
}

pub(super) fn legend<'a>(subjects: impl Iterator<Item = &'a SubjectFigures<'a>>) -> String {
    let entries: String =
        subjects.map(|s| format!("<li>{}{}</li>", swatch(s.index), escape(&s.name))).collect();
    format!("<ul class=\"legend\">{entries}</ul>")
}

pub(super) fn swatch(subject: usize) -> String {
    format!("<i style=\"background:{}\"></i>", colour(subject))
}

/// Escapes text for HTML; control characters, which XML forbids, become spaces.
pub(super) fn escape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
