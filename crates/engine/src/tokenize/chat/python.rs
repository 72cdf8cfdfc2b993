//! The behaviour of Python's strings that templates rely on: methods, the operator `%`, and the filters `int` and
//! `float`. `minijinja_contrib` provides the methods that it implements as Python does.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// The operator `%`, as a filter of two arguments. No template can spell the name.
pub(super) const PERCENT: &str = "\0percent";
/// The widest field that a string is filled to, in characters.
const WIDTH: usize = 9999;

pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter(PERCENT, percent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
}

/// Calls a method that the value's type does not have itself.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().filter(|_| value.kind() == ValueKind::String);
    match text.map(|text| of_text(text, name, args)).transpose()?.flatten() {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Returns `None` for methods that are implemented elsewhere.
fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(named.get("sep")?).filter(|value| !value.is_none());
            let most = most.or(named.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
            named.assert_all_used()?;
            let most = most.unwrap_or(usize::MAX);
            let parts = match separator.as_ref().map(|value| (value, value.as_str())) {
                None if name == "split" => words(text, most),
                None => words_from_right(text, most),
                Some((_, Some(""))) => {
                    return Err(invalid("split: expected a separator, found an empty text"));
                }
                Some((_, Some(by))) if name == "split" => text.splitn(most.saturating_add(1), by).collect(),
                Some((_, Some(by))) => {
                    let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), by).collect();
                    parts.reverse();
                    parts
                }
                Some((other, None)) => {
                    return Err(invalid(format!(
                        "split: expected a text as separator, found {}",
                        other.kind()
                    )));
                }
            };
            Value::from_iter(parts)
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(named.get("keepends")?).unwrap_or(false);
            named.assert_all_used()?;
            Value::from_iter(lines(text, keep))
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            if by.is_empty() {
                return Err(invalid(format!("{name}: expected a separator, found an empty text")));
            }
            let cut = if name == "partition" { text.split_once(by) } else { text.rsplit_once(by) };
            let parts = match (cut, name) {
                (Some((before, after)), _) => [before, by, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(rest.unwrap_or(text))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = text.len() - text.strip_prefix(['+', '-']).unwrap_or(text).len();
            let (sign, digits) = text.split_at(sign);
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing(text, width)?)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let missing = missing(text, width)?;
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                // If the padding is odd, the extra character goes to the left if the width is odd, too.
                _ => missing / 2 + (missing & (width.max(0) as usize) & 1),
            };
            let fill = |n: usize| fill.unwrap_or(' ').to_string().repeat(n);
            Value::from(format!("{}{text}{}", fill(left), fill(missing - left)))
        }
        "format" if widest(text) > WIDTH => return Err(too_wide()),
        _ => return Ok(None),
    }))
}

/// Python's white space: Unicode's, and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Words, and after `most` of them the rest as it is.
fn words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < most { rest.find(is_space) } else { None };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

/// As [`words`], from the right.
fn words_from_right(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let space = if parts.len() < most { rest.char_indices().rfind(|(_, c)| is_space(*c)) } else { None };
        let (before, word) = rest.split_at(space.map_or(0, |(at, c)| at + c.len_utf8()));
        parts.push(word);
        rest = before.trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// Lines by all of Python's line breaks.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    let breaks = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(breaks).unwrap_or(rest.len());
        let mut chars = rest[end..].chars();
        if chars.next() == Some('\r') && chars.as_str().starts_with('\n') {
            chars.next();
        }
        let after = chars.as_str();
        lines.push(if keep { &rest[..rest.len() - after.len()] } else { &rest[..end] });
        rest = after;
    }
    lines
}

/// A letter after another letter becomes lower case, all others upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        match within {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        within = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// How many characters a text is short of a width.
fn missing(text: &str, width: i64) -> Result<usize, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    if width > WIDTH {
        return Err(too_wide());
    }
    Ok(width.saturating_sub(text.chars().count()))
}

/// The largest number in a text.
fn widest(text: &str) -> usize {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).max().unwrap_or(0)
}

fn too_wide() -> Error {
    invalid(format!("expected a width of at most {WIDTH}"))
}

fn invalid(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// `left % right`: a text is formatted, with each item of a tuple or with one value; numbers have a remainder with the sign of the
/// divisor.
fn percent(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if left.kind() == ValueKind::String {
        if left.as_str().map_or(0, widest) > WIDTH {
            return Err(too_wide());
        }
        let mut args = vec![left];
        if right.is_tuple() {
            args.extend(right.try_iter()?);
        } else {
            args.push(right);
        }
        return state.apply_filter("format", &args);
    }
    let number = |value: &Value| value.is_number() || matches!(value.kind(), ValueKind::Bool);
    if !number(&left) || !number(&right) {
        let kinds = (left.kind(), right.kind());
        return Err(invalid(format!(
            "tried to use % operator on unsupported types {} and {}",
            kinds.0, kinds.1
        )));
    }
    if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone()))
        && left.is_integer()
        && right.is_integer()
    {
        let rest =
            a.checked_rem(b).ok_or_else(|| invalid(format!("unable to calculate {left} % {right}")))?;
        let rest = if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest };
        return Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from));
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if b == 0.0 {
        return Err(invalid(format!("unable to calculate {left} % {right}")));
    }
    let rest = a % b;
    Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
}

/// As in Jinja: a value that is not a number gives the default, which is 0 if not set.
fn int(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or(Value::from(0));
    let base = base.or(named.get("base")?);
    named.assert_all_used()?;
    let none = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    let trimmed = value.as_str().map(|text| Value::from(text.trim()));
    let parsed =
        minijinja::filters::int(state, trimmed.as_ref().unwrap_or(value), Some(default.clone()), base, none);
    Ok(parsed.unwrap_or(default))
}

/// As in Jinja: a value that is not a number gives the default, which is 0.0 if not set.
fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or(Value::from(0.0));
    named.assert_all_used()?;
    let parsed = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(parsed.map_or(default, Value::from))
}
