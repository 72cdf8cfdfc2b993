//! Faults in a running batch: only the requests at fault end with an error; all others get the tokens that they get without it.

use super::odd::Odd;
use super::scheduling::{limits, prefix_support, prompt, sampling};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::sync::mpsc;
use std::time::Duration;
use zonda_engine::forward::{Backend, BackendError, Limits};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::{
    Completion, Engine, EngineConfig, FinishReason, Parallel, Prompt, Request, SamplingParams, Speculate,
    TextProcessor, TokenId,
};

/// Tokens whose computation fails, each in its own way; the mock generates none of them.
const KINDS: [(TokenId, FaultKind); 5] = [
    (100, FaultKind::Error),
    (101, FaultKind::Panic),
    (102, FaultKind::Nan),
    (103, FaultKind::Infinity),
    (104, FaultKind::Slow(Duration::from_micros(300))),
];

fn engine(options: MockOptions, chunk: usize) -> Engine {
    let config = EngineConfig { prefill_chunk: chunk, max_waiting: 100, ..EngineConfig::default() };
    let open = move || Ok(Box::new(Mock::new(options)) as _);
    Engine::start(open, Some(TextProcessor::mock()), config).expect("a mock opens")
}

fn greedy(prompt: Vec<TokenId>, tokens: usize) -> Request {
    let sampling = SamplingParams::greedy();
    Request { sampling, ignore_eos: true, ..Request::new(Prompt::Tokens(prompt), tokens) }
}

/// A request, and the index of the kind of fault that its prompt has.
#[derive(Clone, Debug)]
struct Ask {
    request: Request,
    fault: Option<usize>,
}

fn ask(longest: usize) -> impl Strategy<Value = Ask> {
    let fault = prop::option::weighted(0.4, 0..KINDS.len());
    (prompt(longest), any::<prop::sample::Index>(), fault, 1usize..20, sampling(), any::<bool>()).prop_map(
        |(mut prompt, at, fault, tokens, sampling, prefix_cache)| {
            if let Some(kind) = fault {
                let at = at.index(prompt.len());
                prompt[at] = KINDS[kind].0;
            }
            let speculate = Some(if tokens % 2 == 0 { Speculate::Ngram } else { Speculate::Off });
            let request = Request { sampling, prefix_cache, speculate, ..greedy(prompt, tokens) };
            Ask { request, fault }
        },
    )
}

prop_compose! {
    fn scenario()(limits in limits(1..7, 4..60))(
        asks in prop::collection::vec(ask(limits.context), 1..16),
        limits in Just(limits),
        chunk in 1usize..20,
        seed in any::<u64>(),
        prefix in prefix_support(),
    ) -> (MockOptions, usize, Vec<Ask>) {
        (MockOptions { seed, limits, prefix, end_every: 0, ..MockOptions::default() }, chunk, asks)
    }
}

fn failed(found: &Completion, kind: FaultKind) -> bool {
    let says = match kind {
        FaultKind::Error => "told to fail",
        FaultKind::Panic => "told to panic",
        FaultKind::Nan => "NaN",
        FaultKind::Infinity => "inf",
        FaultKind::Slow(_) | FaultKind::Hang => return false,
    };
    found.ids.is_empty() && found.error().is_some_and(|error| error.contains(says))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Requests with errors, panics, NaN, infinities and slow steps run among others.
    #[test]
    fn a_fault_ends_only_the_requests_that_have_it((options, chunk, asks) in scenario()) {
        let sound = engine(options.clone(), chunk);
        let expected: Vec<Completion> =
            asks.iter().map(|ask| sound.submit(ask.request.clone()).unwrap().wait().unwrap()).collect();
        let faults = KINDS.map(|(token, kind)| Fault::token(token, kind)).to_vec();
        let faulty = engine(MockOptions { faults, ..options }, chunk);
        let running: Vec<_> = asks.iter().map(|ask| faulty.submit(ask.request.clone()).unwrap()).collect();
        let found: Vec<Completion> = running.into_iter().map(|generation| generation.wait().unwrap()).collect();
        for ((ask, found), expected) in asks.iter().zip(&found).zip(&expected) {
            match ask.fault.map(|kind| KINDS[kind].1) {
                Some(kind) if !matches!(kind, FaultKind::Slow(_)) => {
                    prop_assert!(failed(found, kind), "{kind:?}: {found:?}");
                }
                _ => {
                    prop_assert_eq!(&found.ids, &expected.ids);
                    prop_assert_eq!(&found.outcome.reason, &expected.outcome.reason);
                }
            }
        }
        let occupancy = faulty.occupancy();
        prop_assert_eq!((faulty.in_flight(), occupancy.running, occupancy.waiting), (0, 0, 0));
    }
}

/// An engine whose calls fail if `fails` returns true for the number of sequences in them.
fn odd(mock: MockOptions, mut fails: impl FnMut(usize) -> bool + Send + 'static) -> Engine {
    Odd::start(mock, |odd| {
        odd.forward = Box::new(move |mock, batch, out| match batch.spans.len() {
            several if fails(several) => {
                Err(BackendError::Failed(format!("{several} sequences are too many")))
            }
            _ => mock.forward(batch, out),
        });
    })
}

/// A fault that no single sequence has: the call is repeated one sequence at a time, and nobody notices.
#[test]
fn a_call_that_fails_once_is_repeated() {
    let run = |shaken: bool| {
        let (all_are_there, wait) = mpsc::channel::<()>();
        let mut calls = 0;
        let engine = odd(MockOptions { end_every: 0, ..MockOptions::default() }, move |several| {
            if calls == 0 {
                wait.recv().expect("a signal");
            }
            calls += 1;
            let first = several == 4 && shaken && calls < 1000;
            if first {
                calls = 1000;
            }
            first
        });
        let ask = |i: TokenId| engine.submit(greedy(vec![300 + i; 40], 60)).unwrap();
        let running: Vec<_> = (0..4).map(ask).collect();
        all_are_there.send(()).expect("it waits");
        running.into_iter().map(|generation| generation.wait().unwrap()).collect::<Vec<_>>()
    };
    for (sound, shaken) in run(false).iter().zip(&run(true)) {
        assert_eq!((&shaken.ids, &shaken.outcome.reason), (&sound.ids, &FinishReason::Length));
    }
}

/// Otherwise each attempt would cost two whole prefills and give one token.
#[test]
fn a_backend_that_fails_again_and_again_without_a_culprit_is_given_up() {
    let limits = Limits { slots: 2, batch_tokens: 64, context: 1 << 20, kv_tokens: 2 << 20, kv_page: 16 };
    let engine = odd(MockOptions { limits, end_every: 0, ..MockOptions::default() }, |several| several > 1);
    let endless = |token| engine.submit(greedy(vec![token], usize::MAX)).unwrap();
    for generation in [endless(300), endless(301)] {
        assert_eq!(generation.wait().unwrap().error(), Some("2 sequences are too many"));
    }
    assert_eq!(engine.submit(greedy(vec![300], 5)).unwrap().wait().unwrap().ids.len(), 5);
}

/// How many sequences run at once may be measured when the backend opens.
#[test]
fn a_panic_while_it_is_measured_is_an_error_of_the_start() {
    let config = EngineConfig { parallel: Parallel::Measured(4), ..EngineConfig::default() };
    let faults = vec![Fault::call(3, FaultKind::Panic)];
    let mock = MockOptions { faults, ..MockOptions::default() };
    let error =
        Engine::start(move || Ok(Box::new(Mock::new(mock)) as _), None, config).expect_err("it panics");
    assert_eq!(error.to_string(), "the backend panicked while opening: the mock was told to panic");
}
