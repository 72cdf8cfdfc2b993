//! The Jinja environment chat templates expect: what `transformers` adds to plain Jinja.

use super::numbers::write_exact;
use super::{guards, python};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io::{self, Write};

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

/// The longest text that `tojson` and `indent` write, in bytes.
const TEXT: usize = 64 << 20;

/// White space as `transformers` sets it.
pub(super) fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("only white space settings differ from the default")
}

/// An environment with the functions, filters and settings that templates are written for.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    python::install(&mut environment);
    guards::install(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_filter("indent", indent);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Normalises line breaks as Jinja does, and rewrites `{% generation %}` to `{% if true %}`: the tag marks the assistant's text for training and prints
/// nothing. White space control and line numbers stay.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inside = tag.trim_start_matches(['-', '+']).trim_start();
        out.push_str(&tag[..tag.len() - inside.len()]);
        rest = inside;
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = inside.strip_prefix(name).map(|after| (after, after.trim_start()));
            if let Some((after, _)) = after.filter(|(_, end)| end.starts_with("%}") || end.starts_with("-%}"))
            {
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The local date and time in C's notation.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: `", "` and `": "` between, nothing escaped
/// for HTML. Takes `indent` and ignores the other arguments of Python's function but `ensure_ascii`.
fn to_json(
    value: Serde<serde_json::Value>,
    indent: Option<usize>,
    arguments: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => arguments.get::<Option<usize>>("indent")?,
    };
    let ascii = arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = arguments.get::<Option<Vec<String>>>("separators")?;
    arguments.assert_all_used()?;

    let mut value = value.0;
    if sort {
        value.sort_all_objects();
    }
    let mut out = Bounded(Vec::new());
    let written = match (indent, separators.as_deref()) {
        (Some(indent), _) => {
            write(&value, PrettyFormatter::with_indent(" ".repeat(indent.min(16)).as_bytes()), &mut out)
        }
        (None, Some([item, key])) => write(&value, Separated { item, key }, &mut out),
        (None, _) => write(&value, Separated { item: ", ", key: ": " }, &mut out),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let text =
        String::from_utf8(out.0).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let text = write_exact(&text).into_owned();
    let text = if ascii { escape_non_ascii(&text) } else { text };
    Ok(Value::from_safe_string(text))
}

/// Jinja's `indent`, which keeps a line break at the end.
fn indent(
    text: String,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    arguments: Kwargs,
) -> Result<String, Error> {
    let width = width.or(arguments.get("width")?).unwrap_or(4).min(1000);
    let first = first.or(arguments.get("first")?).unwrap_or(false);
    let blank = blank.or(arguments.get("blank")?).unwrap_or(false);
    arguments.assert_all_used()?;
    let lines = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
    if lines * width + text.len() > TEXT {
        return Err(Error::new(ErrorKind::InvalidOperation, too_long()));
    }
    let mut out = String::with_capacity(text.len() + width);
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            out.extend(std::iter::repeat_n(' ', width));
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Whether Python can iterate a value: not `none`, but text.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Undefined | String | Seq | Map | Iterable)
}

/// Whether a value is a sequence in Python: it has a length and items.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Undefined | String | Seq | Map)
}

fn write(value: &serde_json::Value, formatter: impl Formatter, out: &mut Bounded) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, formatter))
}

/// `json.dumps`'s `ensure_ascii`. Outside strings JSON is ASCII, so every other character is inside one.
fn escape_non_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// A writer that takes at most [`TEXT`] bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT {
            return Err(io::Error::other(too_long()));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_long() -> String {
    format!("expected a text of at most {} MiB", TEXT >> 20)
}

/// One line, with given separators.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for Separated<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}
