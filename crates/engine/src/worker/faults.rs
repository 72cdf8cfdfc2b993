//! Tests of faults in the worker itself: sampling that panics, consumers that do not read, requests that forbid every token.

use crate::TokenId;
use crate::mock::{Mock, MockOptions};
use crate::request::{Backlog, Prompt, Request};
use crate::sample::SamplingParams;
use crate::stream::{Event, FinishReason};
use crate::worker::{Engine, EngineConfig};
use std::cell::Cell;
use std::sync::mpsc;
use std::time::{Duration, Instant};

thread_local! {
    /// The token whose delivery panics, on this worker's thread.
    static FAULT: Cell<Option<TokenId>> = const { Cell::new(None) };
}

/// Called for each token that a request receives.
pub(super) fn strike(token: TokenId) {
    assert!(FAULT.get() != Some(token), "struck by a test");
}

fn engine(fault: Option<TokenId>) -> Engine {
    let open = move || {
        FAULT.set(fault);
        Ok(Box::new(Mock::new(MockOptions { end_every: 0, ..MockOptions::default() })) as _)
    };
    Engine::start(open, None, EngineConfig::default()).unwrap()
}

/// A request that generates one token again and again.
fn forced(token: TokenId, tokens: usize) -> Request {
    let sampling = SamplingParams { logit_bias: vec![(token, 1e9)], ..SamplingParams::greedy() };
    Request { sampling, ..Request::new(Prompt::Tokens(vec![300, 301]), tokens) }
}

#[test]
fn a_panic_while_sampling_ends_that_request_only() {
    let engine = engine(Some(310));
    let beside = engine.submit(forced(311, 200)).unwrap();
    let struck = engine.submit(forced(310, 5)).unwrap().wait().unwrap();
    assert!(
        matches!(&struck.outcome.reason, FinishReason::Error(why) if why.contains("struck by a test")),
        "{:?}",
        struck.outcome.reason
    );
    let beside = beside.wait().unwrap();
    assert_eq!((beside.ids.len(), beside.outcome.reason), (200, FinishReason::Length));
    let after = engine.submit(forced(312, 3)).unwrap().wait().unwrap();
    assert_eq!(after.ids, [312; 3]);
}

#[test]
fn a_consumer_that_does_not_read_holds_its_own_request_back_and_no_other() {
    let engine = engine(None);
    let backlog = Backlog::new(10);
    let (sender, events) = mpsc::channel();
    let request = Request { backlog: Some(backlog.clone()), ..forced(310, 100) };
    engine.submit_with(request, move |event| sender.send(event).unwrap()).unwrap();
    let began = Instant::now();
    while backlog.waiting() < 10 && began.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    // Meanwhile another request runs to its end.
    assert_eq!(engine.submit(forced(311, 50)).unwrap().wait().unwrap().ids.len(), 50);
    assert_eq!(backlog.waiting(), 10);
    let mut tokens = 0;
    for event in events {
        backlog.take();
        if let Event::Tokens { ids, .. } = event {
            tokens += ids.len();
        }
    }
    assert_eq!((tokens, backlog.waiting()), (100, 0));
}

#[test]
fn what_the_request_forbids_is_its_own_fault() {
    let engine = engine(None);
    let vocab = engine.spec().vocab_size as TokenId;
    let all = (0..vocab).map(|id| (id, f32::NEG_INFINITY)).collect();
    let sampling = SamplingParams { logit_bias: all, ..SamplingParams::default() };
    let request = Request { sampling, ..Request::new(Prompt::Tokens(vec![300]), 5) };
    let done = engine.submit(request).unwrap().wait().unwrap();
    assert!(matches!(done.outcome.reason, FinishReason::Refused(_)), "{:?}", done.outcome.reason);
}
