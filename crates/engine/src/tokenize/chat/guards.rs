//! Checks while a template runs: time, cancellation, and the size of values.
//!
//! Fuel bounds the steps and the bytes that a template makes, but a few steps can make values that take for ever to compare or
//! print: a list that holds a list twice, which holds a list twice. So values have a weight and a depth, which are checked
//! where a value is made ([`BOUND`]) or stored in a namespace ([`STORE`]). The clock is checked there, too, and before
//! comparisons and in each round of a loop ([`TICK`]). The names are those of filters; no template can spell them.

use minijinja::value::{ObjectRepr, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Checks the clock and returns its argument.
pub(super) const TICK: &str = "\0tick";
/// As [`TICK`]; also bounds a value. Lists that would be computed when they are read become plain ones.
pub(super) const BOUND: &str = "\0bound";
/// As [`BOUND`], for a value to be stored in a namespace.
pub(super) const STORE: &str = "\0store";
/// The variable that holds the [`Watch`].
pub(super) const WATCH: &str = "\0watch";

/// The greatest weight of a value: a value weighs one, and one for every 64 bytes of a text; a list or mapping also what it
/// holds, each time it holds it. A conversation of 60 MB is lighter.
const WEIGHT: usize = 1 << 20;
/// How deep lists and mappings may be nested. The JSON of a request is at most 128 deep.
const DEPTH: usize = 256;
/// How long a template may run. Published ones take milliseconds for long conversations.
pub(super) const TIME: Duration = Duration::from_secs(10);

/// Whether a run must end.
#[derive(Debug)]
pub(super) struct Watch {
    /// Set when nobody needs the result any longer.
    pub abandoned: Arc<AtomicBool>,
    /// When the run began.
    pub began: Instant,
    /// How long it may take.
    pub time: Duration,
}

impl minijinja::value::Object for Watch {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter(TICK, |state: &State<'_, '_>, value: Value| tick(state).map(|()| value));
    environment.add_filter(BOUND, bound);
    environment.add_filter(STORE, store);
    // It prints all variables; Jinja has no such function.
    environment.remove_global("debug");
}

/// The weight of a template's input; an error if it exceeds the bounds.
pub(super) fn weigh(value: &Value) -> Result<usize, Error> {
    let mut left = usize::MAX;
    walk(value, 0, &mut left)?;
    Ok(usize::MAX - left)
}

fn tick(state: &State<'_, '_>) -> Result<(), Error> {
    let watch = state.lookup(WATCH);
    let Some(watch) = watch.as_ref().and_then(|value| value.downcast_object_ref::<Watch>()) else {
        return Ok(());
    };
    if watch.abandoned.load(Ordering::Relaxed) {
        return Err(refusal("it was stopped, because nobody waits for it"));
    }
    if watch.began.elapsed() > watch.time {
        return Err(refusal(format!("it ran for more than {} s", watch.time.as_secs_f64())));
    }
    Ok(())
}

fn bound(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    tick(state)?;
    let Some(object) = value.as_object() else { return Ok(value) };
    walk(&value, 0, &mut { WEIGHT })?;
    let lazy = match object.repr() {
        ObjectRepr::Iterable => true,
        ObjectRepr::Seq => !value.is_tuple() && value.downcast_object_ref::<Vec<Value>>().is_none(),
        _ => false,
    };
    match object.try_iter() {
        Some(items) if lazy => Ok(Value::from(items.collect::<Vec<_>>())),
        _ => Ok(value),
    }
}

fn store(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if changes(&value) {
        return Err(nested());
    }
    bound(state, value)
}

fn walk(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    let weight = 1 + value.as_str().map_or(0, |text| text.len() / 64);
    let heavy = || refusal(format!("expected values of at most {WEIGHT} items and {} MiB", WEIGHT >> 14));
    *left = left.checked_sub(weight).ok_or_else(heavy)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    if depth > DEPTH {
        return Err(refusal(format!("expected lists and mappings of at most {DEPTH} levels")));
    }
    if depth > 0 && changes(value) {
        return Err(nested());
    }
    match (object.repr(), value.downcast_object_ref::<Vec<Value>>()) {
        (ObjectRepr::Plain, _) => Ok(()),
        (_, Some(items)) => items.iter().try_for_each(|item| walk(item, depth + 1, left)),
        (ObjectRepr::Map, None) => {
            object.try_iter_pairs().into_iter().flatten().try_for_each(|(key, item)| {
                walk(&key, depth + 1, left)?;
                walk(&item, depth + 1, left)
            })
        }
        (_, None) => {
            object.try_iter().into_iter().flatten().try_for_each(|item| walk(&item, depth + 1, left))
        }
    }
}

/// Whether a value can change after it was checked: namespaces and `loop`.
fn changes(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        let name = object.type_name();
        name.ends_with("::Namespace") || name.ends_with("::Loop")
    })
}

fn nested() -> Error {
    refusal("a namespace or `loop` can't be part of another value")
}

fn refusal(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
