//! Bounds on grammars and schemas, checked before they are compiled.
//!
//! The compiler recurses along rules, groups and `$ref`s, and visits each rule and each `$ref` target once. So the depth of
//! its recursion is at most the number of rules plus the nesting of each. That sum is bounded here, without recursion on the
//! input. The checks are linear in the input, apart from `$ref` targets, whose visits are counted.

use serde_json::Value;
use std::collections::HashSet;

/// The longest Lark grammar or regular expression, in bytes.
const MAX_SOURCE: usize = 256 << 10;
/// The maximum number of values in a schema, and of bytes of its texts.
const MAX_VALUES: usize = 50_000;
const MAX_TEXT: usize = 1 << 20;
/// The deepest recursion of the compiler: rules, or `$ref` targets, plus the nesting in each.
const MAX_DEPTH: usize = 4_000;
/// The maximum number of values visited while the nesting of `$ref` targets is measured.
const MAX_VISITS: usize = 5_000_000;

/// Checks a regular expression's size.
///
/// # Errors
/// The limit and the size found.
pub(super) fn check_regex(pattern: &str) -> Result<(), String> {
    at_most("bytes of a regular expression", MAX_SOURCE, pattern.len())
}

fn at_most(what: &str, most: usize, found: usize) -> Result<(), String> {
    if found <= most {
        return Ok(());
    }
    Err(format!("expected at most {most} {what}, found {found}"))
}

/// Sums the definitions of a Lark grammar and the deepest nesting in each, and checks the schemas in it. Cuts the text into
/// tokens as `llguidance` does; text that this function can't read is refused by that crate before it recurses.
pub(super) fn check_lark(text: &str) -> Result<(), String> {
    at_most("bytes of grammar", MAX_SOURCE, text.len())?;
    let bytes = text.as_bytes();
    let (mut at, mut total, mut deepest, mut open, mut tildes) = (0, 0usize, 0usize, 0usize, 0usize);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        tildes = if byte == b'~' { tildes + 1 } else { 0 };
        deepest = deepest.max(open + tildes);
        at += match byte {
            b'#' => line(rest),
            b'/' if rest.get(1) == Some(&b'/') => line(rest),
            b'/' => quoted(rest, b'/'),
            b'"' => quoted(rest, b'"'),
            b'<' => rest.iter().position(|b| b">\n \t".contains(b)).map_or(1, |n| n + 1),
            b'%' => {
                let name = 1 + rest[1..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
                match &rest[..name] {
                    b"%json" | b"%llguidance" | b"%regex" => name + check_embedded(&text[at + name..])?,
                    _ => name,
                }
            }
            b':' if rest.get(1) == Some(&b':') => 2,
            b':' => {
                total += 1 + std::mem::take(&mut deepest);
                1
            }
            b'(' | b'[' | b'{' => {
                open += 1;
                1
            }
            b')' | b']' | b'}' => {
                open = open.saturating_sub(1);
                1
            }
            _ => 1,
        };
        deepest = deepest.max(open);
    }
    at_most("rules, terminals and nested groups in all", MAX_DEPTH, total + deepest)
}

/// The length of a comment, in bytes.
fn line(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len())
}

/// The length of a quoted text, in bytes.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += if byte == b'\\' { 2 } else { 1 };
        if byte == quote {
            break;
        }
    }
    at.min(bytes.len())
}

/// Checks the JSON at the start of a text, and returns its length in bytes; 0 if there is none.
fn check_embedded(text: &str) -> Result<usize, String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let Some(Ok(value)) = values.next() else { return Ok(0) };
    check_schema(&value)?;
    Ok(values.byte_offset())
}

/// Bounds a schema's size, the recursion that its `$ref`s lead to, and its integers.
pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    let (mut values, mut text) = (0, 0);
    let mut references = HashSet::new();
    let mut open = vec![(schema, false)];
    while let Some((value, exact)) = open.pop() {
        values += 1;
        match value {
            Value::String(content) => text += content.len(),
            Value::Array(items) => open.extend(items.iter().map(|item| (item, exact))),
            Value::Object(fields) => {
                for (key, field) in fields {
                    text += key.len();
                    if let ("$ref", Value::String(target)) = (key.as_str(), field) {
                        references.insert(target.as_str());
                    }
                    open.push((field, exact || EXACT.contains(&key.as_str())));
                }
            }
            Value::Number(number) if exact && is_rounded(number) => {
                return Err(format!(
                    "expected integers in a schema up to 2^53 in size, beyond which they would be rounded, found {number}"
                ));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        at_most("values in a schema", MAX_VALUES, values)?;
        at_most("bytes of text in a schema", MAX_TEXT, text)?;
    }
    let mut visits = 0;
    let mut depth = height(schema, &mut visits)?;
    for target in references {
        // A target that is missing is an error of the compiler's.
        depth += 1 + resolve(schema, target).map_or(Ok(0), |value| height(value, &mut visits))?;
        at_most("levels of `$ref` targets and their nesting in all", MAX_DEPTH, depth)?;
    }
    Ok(())
}

/// Keywords whose numbers are compared with what is generated.
const EXACT: [&str; 7] =
    ["const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// The compiler reads numbers as `f64`, which would change this one.
fn is_rounded(number: &serde_json::Number) -> bool {
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    exact.is_some_and(|n| n.unsigned_abs() > 1 << 53)
}

/// The depth of a value's nesting.
fn height(value: &Value, visits: &mut usize) -> Result<usize, String> {
    let mut open = vec![(value, 1)];
    let mut most = 0;
    while let Some((value, depth)) = open.pop() {
        *visits += 1;
        at_most("values behind `$ref`s", MAX_VISITS, *visits)?;
        most = most.max(depth);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|v| (v, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    Ok(most)
}

/// The target of a `$ref`, by the compiler's rules.
fn resolve<'a>(schema: &'a Value, target: &str) -> Option<&'a Value> {
    let path = target.strip_prefix('#')?;
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(schema);
    }
    path.split('/').try_fold(schema, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}
