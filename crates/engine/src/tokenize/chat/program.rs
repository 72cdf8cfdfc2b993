//! [`Program`]: a compiled template with guards between its instructions, and how it runs.
//!
//! A template comes with a model's file and is not trusted. It is compiled and run on threads with a large stack,
//! within limits of time and memory: see [`super::check`] and [`super::guards`].

use super::check::{self, Exceeded};
use super::error::{TemplateError, reason, render_error};
use super::functions;
use super::guards::{self, BOUND, STORE, TICK, WATCH, Watch};
use super::python::PERCENT;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse};
use minijinja::value::{Value, merge_maps};
use minijinja::{AutoEscape, Environment};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest source of a template, in bytes; published ones have at most a tenth of it.
const SOURCE: usize = 256 << 10;
/// Stack of the thread that compiles a template, in bytes, besides [`COMPILE_STACK_PER_BYTE`].
const COMPILE_STACK: usize = 4 << 20;
/// More of it for each byte of the source: the parser recurses along chains that are as long as the source. The longest source
/// has 512 MiB, of which the system commits only the pages that are used.
const COMPILE_STACK_PER_BYTE: usize = 2 << 10;
/// Stack of the thread that runs a template: values have bounded depth.
const RUN_STACK: usize = 64 << 20;
/// How often a run checks whether it was abandoned.
const POLL: Duration = Duration::from_millis(20);
/// Maximum number of steps of a template, where one also pays for 64 bytes of text. Real ones need some thousands per message; a
/// malicious one would never end.
const FUEL: u64 = 5_000_000;

self_cell::self_cell!(
    struct Compiled {
        owner: String,
        #[covariant]
        dependent: Instructions,
    }
);

/// A compiled template. Share it in an `Arc`.
pub(super) struct Program(Compiled);

impl Program {
    /// Compiles a source, as [`functions::prepare`] gives it.
    pub fn compile(name: &'static str, source: String) -> Result<Program, TemplateError> {
        if source.len() > SOURCE {
            let reason = format!("expected at most {SOURCE} bytes, found {}", source.len());
            return Err(TemplateError::Syntax { line: 0, reason });
        }
        let stack = COMPILE_STACK + COMPILE_STACK_PER_BYTE * source.len();
        apart(stack, || Compiled::try_new(source, |source| compile(name, source)), || ())?.map(Program)
    }

    /// As [`Program::compile`], on the caller's stack, for a source that is part of this program.
    pub fn compile_here(name: &'static str, source: String) -> Result<Program, TemplateError> {
        Compiled::try_new(source, |source| compile(name, source)).map(Program)
    }

    /// Renders the template within `time`. `abandoned` is checked every [`POLL`] and ends the run.
    pub fn run(
        &self,
        environment: &Environment<'static>,
        variables: Value,
        abandoned: &dyn Fn() -> bool,
        time: Duration,
    ) -> Result<String, TemplateError> {
        let mut environment = environment.clone();
        let weight = guards::weigh(&variables).map_err(|e| render_error(&e))?;
        // The fuel suffices to process each byte of the input 32 more times.
        environment.set_fuel(Some(FUEL + (weight as u64).saturating_mul(32)));
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch { abandoned: stop.clone(), began: Instant::now(), time };
        let watch = Value::from_pairs([(WATCH, Value::from_object(watch))]);
        let variables = merge_maps([variables, watch]);
        let run = || {
            let mut text = String::new();
            let mut output = make_string_output(&mut text);
            let (code, blocks) = (self.0.borrow_dependent(), BTreeMap::new());
            match eval(&environment, code, variables, &blocks, &mut output, AutoEscape::None) {
                Ok(_) => Ok(text),
                Err(error) => Err(render_error(&error)),
            }
        };
        let look = || {
            if abandoned() {
                stop.store(true, Ordering::Relaxed);
            }
        };
        apart(RUN_STACK, run, look)?
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("bytes", &self.0.borrow_owner().len()).finish_non_exhaustive()
    }
}

/// Runs `work` on a thread with a stack of this many bytes, and `look` every [`POLL`] meanwhile. A panic is an error.
fn apart<T: Send>(
    stack: usize,
    work: impl FnOnce() -> T + Send,
    look: impl Fn(),
) -> Result<T, TemplateError> {
    thread::scope(|scope| {
        let (ended, waiting) = mpsc::channel::<()>();
        let body = move || {
            // Dropped at the end, also of a panic.
            let _ended = ended;
            work()
        };
        let thread = thread::Builder::new().name("zonda-template".into()).stack_size(stack);
        let thread = thread.spawn_scoped(scope, body);
        let thread = thread.map_err(TemplateError::Thread)?;
        while let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(POLL) {
            look();
        }
        let panicked =
            |_| TemplateError::Render { line: 0, reason: "the template engine panicked".to_owned() };
        thread.join().map_err(panicked)
    })
}

fn compile<'s>(name: &'static str, source: &'s str) -> Result<Instructions<'s>, TemplateError> {
    let ast = parse(source, name, functions::syntax())
        .map_err(|e| TemplateError::Syntax { line: e.line().unwrap_or(0), reason: reason(&e) })?;
    check::check(&ast).map_err(|Exceeded { line, reason }| TemplateError::Syntax { line, reason })?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&ast);
    Ok(guarded(&generator.finish().0))
}

/// A copy with guards, which are filters on the top of the stack.
fn guarded<'s>(plain: &Instructions<'s>) -> Instructions<'s> {
    let mut out = Instructions::new(plain.name(), plain.source());
    // The new positions of the instructions and their guards.
    let mut places = Vec::new();
    let mut next = 0;
    while let Some(instruction) = plain.get(places.len() as u32) {
        let at = places.len() as u32;
        places.push(next);
        let before = at.checked_sub(1).and_then(|before| plain.get(before));
        let filter = |name| Instruction::ApplyFilter(name, Some(1), u8::MAX);
        use Instruction as I;
        let (before, after) = match instruction {
            I::BuildMap(_)
            | I::BuildList(_)
            | I::BuildTuple(_)
            | I::Add
            | I::Mul
            | I::Slice
            | I::Rem
            | I::ApplyFilter(..)
            | I::CallFunction(..)
            | I::CallMethod(..)
            | I::CallObject(_) => (vec![], vec![filter(BOUND)]),
            I::Eq | I::Ne | I::Lt | I::Lte | I::Gt | I::Gte | I::In | I::CompareAndPreserve(_) => {
                (vec![filter(TICK)], vec![])
            }
            I::GetItem | I::StringConcat | I::Emit => (vec![filter(TICK)], vec![]),
            I::Iterate(_) | I::PerformTest(..) => (vec![], vec![filter(TICK)]),
            // On the stack: the value, then the namespace, which a variable holds.
            I::SetAttr(_) => {
                let whole = match before {
                    Some(I::Lookup(name)) => vec![I::Lookup(name), filter(BOUND), I::DiscardTop],
                    _ => vec![],
                };
                (vec![I::Swap, filter(STORE), I::Swap], whole)
            }
            _ => (vec![], vec![]),
        };
        let instruction = match instruction {
            // Python formats a text with it.
            I::Rem => I::ApplyFilter(PERCENT, Some(2), u8::MAX),
            other => other.clone(),
        };
        for instruction in before.into_iter().chain([instruction]).chain(after) {
            next = 1 + match (plain.get_span(at), plain.get_line(at)) {
                (Some(span), _) => out.add_with_span(instruction, span),
                (None, line) => out.add_with_line(instruction, line.map_or(0, |line| line as u16)),
            };
        }
    }
    places.push(next);
    for at in 0..next {
        use Instruction as I;
        if let Some(
            I::Jump(to)
            | I::JumpIfFalse(to)
            | I::JumpIfFalseOrPop(to)
            | I::JumpIfTrueOrPop(to)
            | I::Iterate(to)
            | I::BuildMacro(_, to, _),
        ) = out.get_mut(at)
        {
            *to = places[*to as usize];
        }
    }
    out
}
