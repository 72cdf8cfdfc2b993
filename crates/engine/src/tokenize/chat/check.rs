//! Bounds on a parsed template, checked before code is generated for it.
//!
//! The code generator recurses along every chain (`a|b|c`, `a.b.c`, `elif` after `elif`), walks chains of operators once per
//! operator, and computes constants, however long.

use minijinja::machinery::Span;
use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};

/// How deep expressions and statements may be nested; a chain of `n` operators, filters, attributes, calls or `elif` branches is
/// `n` levels. Published templates have at most some dozens.
const LEVELS: usize = 2000;
/// How many items a constant list may be repeated to.
const REPEATED: u64 = 100_000;

/// What is wrong with a template, and in which line.
pub(super) struct Exceeded {
    pub line: usize,
    pub reason: String,
}

/// Checks a template's statements.
pub(super) fn check(template: &Stmt<'_>) -> Result<(), Exceeded> {
    statement(template, 0)
}

fn level(depth: usize, span: Span) -> Result<usize, Exceeded> {
    if depth < LEVELS {
        return Ok(depth + 1);
    }
    let reason = format!("expected at most {LEVELS} levels of nested or chained expressions and branches");
    Err(Exceeded { line: span.start_line.into(), reason })
}

fn statements(all: &[Stmt<'_>], depth: usize) -> Result<(), Exceeded> {
    all.iter().try_for_each(|one| statement(one, depth))
}

fn statement(one: &Stmt<'_>, depth: usize) -> Result<(), Exceeded> {
    match one {
        Stmt::Template(s) => statements(&s.children, level(depth, s.span())?),
        Stmt::EmitExpr(s) => expression(&s.expr, depth),
        Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => Ok(()),
        Stmt::ForLoop(s) => {
            let depth = level(depth, s.span())?;
            [&s.target, &s.iter].into_iter().chain(&s.filter_expr).try_for_each(|e| expression(e, depth))?;
            statements(&s.body, depth)?;
            statements(&s.else_body, depth)
        }
        Stmt::IfCond(s) => {
            let depth = level(depth, s.span())?;
            expression(&s.expr, depth)?;
            statements(&s.true_body, depth)?;
            statements(&s.false_body, depth)
        }
        Stmt::WithBlock(s) => {
            let depth = level(depth, s.span())?;
            s.assignments.iter().flat_map(|(a, b)| [a, b]).try_for_each(|e| expression(e, depth))?;
            statements(&s.body, depth)
        }
        Stmt::Set(s) => [&s.target, &s.expr].into_iter().try_for_each(|e| expression(e, depth)),
        Stmt::SetBlock(s) => {
            let depth = level(depth, s.span())?;
            [&s.target].into_iter().chain(&s.filter).try_for_each(|e| expression(e, depth))?;
            statements(&s.body, depth)
        }
        Stmt::AutoEscape(s) => {
            let depth = level(depth, s.span())?;
            expression(&s.enabled, depth)?;
            statements(&s.body, depth)
        }
        Stmt::FilterBlock(s) => {
            let depth = level(depth, s.span())?;
            expression(&s.filter, depth)?;
            statements(&s.body, depth)
        }
        Stmt::Macro(s) => {
            let depth = level(depth, s.span())?;
            s.args.iter().chain(&s.defaults).try_for_each(|e| expression(e, depth))?;
            statements(&s.body, depth)
        }
        Stmt::CallBlock(s) => {
            let depth = level(depth, s.call.span())?;
            expression(&s.call.expr, depth)?;
            arguments(&s.call.args, depth)?;
            let called = &s.macro_decl;
            called.args.iter().chain(&called.defaults).try_for_each(|e| expression(e, depth))?;
            statements(&called.body, depth)
        }
        Stmt::Do(s) => {
            let depth = level(depth, s.call.span())?;
            expression(&s.call.expr, depth)?;
            arguments(&s.call.args, depth)
        }
    }
}

fn arguments(all: &[CallArg<'_>], depth: usize) -> Result<(), Exceeded> {
    all.iter().try_for_each(|argument| match argument {
        CallArg::Pos(e) | CallArg::Kwarg(_, e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e) => {
            expression(e, depth)
        }
    })
}

fn expression(one: &Expr<'_>, depth: usize) -> Result<(), Exceeded> {
    let depth = level(depth, one.span())?;
    let all = |parts: &[&Expr<'_>]| parts.iter().try_for_each(|e| expression(e, depth));
    match one {
        Expr::Var(_) | Expr::Const(_) => Ok(()),
        Expr::Slice(e) => {
            all(&[&e.expr])?;
            [&e.start, &e.stop, &e.step].into_iter().flatten().try_for_each(|e| expression(e, depth))
        }
        Expr::UnaryOp(e) => all(&[&e.expr]),
        Expr::BinOp(e) => {
            all(&[&e.left, &e.right])?;
            match (e.op, repeated(one)) {
                (BinOpKind::Mul, Some(items)) if items > REPEATED => Err(Exceeded {
                    line: one.span().start_line.into(),
                    reason: format!("expected a list of at most {REPEATED} items, found {items}"),
                }),
                _ => Ok(()),
            }
        }
        Expr::Compare(e) => {
            all(&[&e.expr])?;
            e.ops.iter().try_for_each(|op| expression(&op.expr, depth))
        }
        Expr::IfExpr(e) => {
            all(&[&e.test_expr, &e.true_expr])?;
            e.false_expr.iter().try_for_each(|e| expression(e, depth))
        }
        Expr::Filter(e) => {
            e.expr.iter().try_for_each(|e| expression(e, depth))?;
            arguments(&e.args, depth)
        }
        Expr::Test(e) => {
            all(&[&e.expr])?;
            arguments(&e.args, depth)
        }
        Expr::GetAttr(e) => all(&[&e.expr]),
        Expr::GetItem(e) => all(&[&e.expr, &e.subscript_expr]),
        Expr::Call(e) => {
            all(&[&e.expr])?;
            arguments(&e.args, depth)
        }
        Expr::List(e) => e.items.iter().try_for_each(|e| expression(e, depth)),
        Expr::Tuple(e) => e.items.iter().try_for_each(|e| expression(e, depth)),
        Expr::Map(e) => e.keys.iter().chain(&e.values).try_for_each(|e| expression(e, depth)),
    }
}

/// The length of the list that an expression of list literals, `+`, `*`, `and` and `or` produces at most; `None` for
/// other expressions. Its parts have been checked, so their constants are small.
fn repeated(one: &Expr<'_>) -> Option<u64> {
    match one {
        Expr::List(e) => Some(e.items.len() as u64),
        Expr::BinOp(e) => {
            let count = |e: &Expr<'_>| e.as_const().and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
            match (e.op, repeated(&e.left), repeated(&e.right)) {
                (BinOpKind::Mul, Some(items), None) => Some(items.saturating_mul(count(&e.right))),
                (BinOpKind::Mul, None, Some(items)) => Some(items.saturating_mul(count(&e.left))),
                (BinOpKind::Add, Some(a), Some(b)) => Some(a.saturating_add(b)),
                (BinOpKind::ScAnd | BinOpKind::ScOr, a, b) => a.max(b),
                _ => None,
            }
        }
        _ => None,
    }
}
