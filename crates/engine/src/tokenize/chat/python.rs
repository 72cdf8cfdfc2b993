//! Python's methods of strings, lists and dictionaries.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// The widest field that `str.format` fills, in characters.
const WIDTH_DIGITS: usize = 4;

/// Calls a method that the value's type does not have itself.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let (ValueKind::String, Some(text), "format") = (value.kind(), value.as_str(), method) {
        let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
        if digits > WIDTH_DIGITS {
            let reason = format!("str.format: expected numbers of at most {WIDTH_DIGITS} digits");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}
