//! The engine end to end on the mock: what it delivers, how requests end, and what happens on failures.

use super::odd::Odd;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use zonda_engine::forward::{Backend, BackendError, Limits};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::tokenize::Message;
use zonda_engine::{
    Engine, EngineConfig, EngineError, Event, Extras, FinishReason, Prompt, Request, RequestError,
    SamplingParams, TextProcessor, TokenId,
};

fn start(options: MockOptions) -> Engine {
    start_with(options, EngineConfig::default())
}

fn start_with(options: MockOptions, config: EngineConfig) -> Engine {
    Engine::start(move || Ok(Box::new(Mock::new(options)) as _), Some(TextProcessor::mock()), config)
        .expect("a mock opens")
}

fn limits(slots: usize, context: usize) -> Limits {
    Limits { slots, batch_tokens: 64, context, kv_tokens: slots * context, kv_page: 4 }
}

/// A greedy request for exactly `n` tokens.
fn request(prompt: impl Into<Vec<TokenId>>, n: usize) -> Request {
    let mut request = Request::new(Prompt::Tokens(prompt.into()), n);
    request.sampling = SamplingParams::greedy();
    request.ignore_eos = true;
    request
}

fn fault(call: usize, kind: FaultKind) -> MockOptions {
    MockOptions { faults: vec![Fault::call(call, kind)], ..MockOptions::default() }
}

#[test]
fn delivers_tokens_then_one_outcome() {
    let engine = start(MockOptions::default());
    let events: Vec<Event> = engine.submit(request([300, 301, 302], 5)).unwrap().collect();
    assert_eq!(events.len(), 6);
    let mut times = Vec::new();
    for event in &events[..5] {
        let Event::Tokens { ids, text, logprobs, at } = event else { panic!("{event:?}") };
        assert_eq!(ids.len(), 1);
        assert!(text.starts_with(' ') && logprobs.is_empty());
        times.push(*at);
    }
    let Event::Finished(outcome) = &events[5] else { panic!("{:?}", events[5]) };
    assert_eq!(outcome.reason, FinishReason::Length);
    assert_eq!((outcome.usage.prompt_tokens, outcome.usage.cached_tokens), (3, 0));
    assert_eq!(outcome.usage.completion_tokens, 5);
    assert_eq!((outcome.timing.first, outcome.timing.last), (Some(times[0]), Some(times[4])));
    assert!(outcome.timing.t0 <= times[0] && times.is_sorted());
    let (ttft, total) = (outcome.timing.ttft().unwrap(), outcome.timing.total().unwrap());
    assert!(outcome.timing.prefill <= ttft && ttft <= total);
}

#[test]
fn text_chat_and_tokens_are_the_same_prompt() {
    let engine = start(MockOptions::default());
    let ask = |prompt| {
        let mut request = request([], 8);
        request.prompt = prompt;
        engine.submit(request).unwrap().wait().unwrap()
    };
    let text = ask(Prompt::Text("the water house".into()));
    assert_eq!(text.outcome.usage.prompt_tokens, 4, "BOS and three words");
    let tokenizer = &engine.text().unwrap().tokenizer;
    let same = tokenizer.encode("<s>the water house", parse_special()).unwrap();
    assert_eq!(ask(Prompt::Tokens(same)).ids, text.ids);
    assert_eq!(tokenizer.decode(&text.ids, true), text.text);

    let messages = vec![Message::new("user", "how are you")];
    let chat = ask(Prompt::chat(messages));
    let rendered = "<s><|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n";
    let same = tokenizer.encode(rendered, parse_special()).unwrap();
    assert_eq!(ask(Prompt::Tokens(same)).ids, chat.ids);
}

fn parse_special() -> zonda_engine::tokenize::Encode {
    zonda_engine::tokenize::Encode { add_bos: false, parse_special: true }
}

#[test]
fn an_end_token_stops_the_answer_and_is_not_delivered() {
    let engine = start(MockOptions { end_every: 8, ..MockOptions::default() });
    let mut natural = request([300], 500);
    natural.ignore_eos = false;
    let stopped = engine.submit(natural.clone()).unwrap().wait().unwrap();
    assert_eq!(stopped.outcome.reason, FinishReason::Stop);
    let n = stopped.ids.len();
    assert_eq!(stopped.outcome.usage.completion_tokens, n);
    let ends = engine.text().unwrap().tokenizer.end_tokens().to_vec();
    assert!(!stopped.ids.iter().any(|id| ends.contains(id)));

    natural.ignore_eos = true;
    natural.max_tokens = n + 3;
    let on = engine.submit(natural).unwrap().wait().unwrap();
    assert_eq!(on.outcome.reason, FinishReason::Length);
    assert_eq!(on.ids[..n], stopped.ids);
    assert!(ends.contains(&on.ids[n]));
}

#[test]
fn stop_strings_cut_the_text_across_token_boundaries() {
    let engine = start(MockOptions::default());
    let full = engine.submit(request([300], 12)).unwrap().wait().unwrap();
    let words: Vec<&str> = full.text.split(' ').collect();
    // From inside the fourth word to inside the sixth; its first letter alone delays later text.
    let stop = format!("{} {} {}", &words[4][1..], words[5], &words[6][..1]);
    let cut = full.text.find(&stop).unwrap();
    let mut stopping = request([300], 12);
    stopping.stop = vec!["never seen".into(), stop];
    let done = engine.submit(stopping).unwrap().wait().unwrap();
    assert_eq!(done.outcome.reason, FinishReason::StopString);
    assert_eq!(done.text, full.text[..cut]);
    assert_eq!(done.ids, full.ids[..6], "the tokens of the stop string count");

    // Text held back that is not a stop string after all is delivered at the end.
    let mut unfinished = request([300], 12);
    unfinished.stop = vec![format!("{}!", words[12])];
    let done = engine.submit(unfinished).unwrap().wait().unwrap();
    assert_eq!((done.outcome.reason, done.text), (FinishReason::Length, full.text));
}

#[test]
fn a_full_context_is_a_reason_of_its_own() {
    let engine = start(MockOptions { limits: limits(1, 16), ..MockOptions::default() });
    let done = engine.submit(request([300; 10], usize::MAX)).unwrap().wait().unwrap();
    assert_eq!(done.outcome.reason, FinishReason::ContextFull);
    assert_eq!(done.ids.len(), 7, "6 fit after the prompt, and the last one need not be computed");
    let exact = engine.submit(request([300; 16], 1)).unwrap().wait().unwrap();
    assert_eq!(exact.outcome.reason, FinishReason::Length);
}

#[test]
fn invalid_requests_are_refused_with_figures() {
    let engine = start(MockOptions { limits: limits(1, 16), ..MockOptions::default() });
    let message = |change: &dyn Fn(&mut Request)| {
        let mut bad = request([300], 4);
        change(&mut bad);
        engine.submit(bad).expect_err("a bad request").to_string()
    };
    let tokens = |n| Prompt::Tokens(vec![300; n]);
    assert_eq!(
        message(&|r| r.prompt = tokens(17)),
        "the prompt has 17 tokens; at most 16 fit into the context"
    );
    assert_eq!(message(&|r| r.prompt = tokens(0)), "the prompt has no tokens; at least 1 is needed");
    assert_eq!(message(&|r| r.max_tokens = 0), "max_tokens: expected at least 1, found 0");
    assert_eq!(
        message(&|r| r.stop = vec!["a".into(), String::new()]),
        "stop: expected strings of at least 1 character, found an empty one at index 1"
    );
    assert_eq!(message(&|r| r.sampling.top_p = 2.0), "top_p: expected a number from 0 to 1, found 2");
    let vocab = engine.spec().vocab_size;
    assert_eq!(
        message(&|r| r.prompt = Prompt::Tokens(vec![1, 2, vocab as TokenId])),
        format!("prompt token 2 is {vocab}; the vocabulary has {vocab} tokens")
    );
}

#[test]
fn a_model_without_tokenizer_takes_token_ids() {
    let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
    let engine = Engine::start(open, None, EngineConfig::default()).unwrap();
    let done = engine.submit(request([300], 3)).unwrap().wait().unwrap();
    assert_eq!((done.ids.len(), done.text.as_str()), (3, ""));
    let mut text = request([], 3);
    text.prompt = Prompt::Text("hello".into());
    let error = engine.submit(text).expect_err("no tokenizer");
    assert!(matches!(error, EngineError::Request(RequestError::NoTokenizer)), "{error}");
}

#[test]
fn a_failing_call_ends_its_requests_and_the_worker_continues() {
    for (kind, said) in [
        (FaultKind::Error, "the mock was told to fail"),
        (FaultKind::Panic, "the backend panicked while computing: the mock was told to panic"),
        (FaultKind::Nan, "logits contain NaN at token 0 (position 5)"),
        (FaultKind::Infinity, "logits contain inf at token 0 (position 5)"),
    ] {
        let expected = start(MockOptions::default()).submit(request([300; 3], 9)).unwrap().wait().unwrap();
        let engine = start(fault(2, kind));
        let failed = engine.submit(request([300; 3], 9)).unwrap().wait().unwrap();
        assert_eq!(failed.error(), Some(said));
        assert_eq!(failed.ids, expected.ids[..2]);
        let next = engine.submit(request([300; 3], 9)).unwrap().wait().unwrap();
        assert_eq!((next.ids, next.outcome.reason), (expected.ids, FinishReason::Length));
        assert_eq!(next.outcome.usage.cached_tokens, 0, "nothing of a failed sequence is reused");
    }
}

/// Room for one sequence without an end.
fn one_slot() -> MockOptions {
    MockOptions { limits: limits(1, 1 << 20), ..MockOptions::default() }
}

#[test]
fn a_backend_that_cannot_empty_a_slot_stops_the_engine() {
    let engine = Odd::start(one_slot(), |odd| odd.truncate = |_, _, _| panic!("stuck"));
    let uncached = || Request { prefix_cache: false, ..request([300], usize::MAX) };
    let mut first = engine.submit(uncached()).unwrap();
    let waiting = engine.submit(uncached()).unwrap();
    first.recv().expect("the request has a slot");
    first.cancel();
    assert_eq!(first.wait().unwrap().outcome.reason, FinishReason::Cancelled);
    let failed = waiting.wait().unwrap();
    assert_eq!(failed.error(), Some("the backend panicked while truncating: stuck"));
    let (sender, events) = mpsc::channel();
    let refused = loop {
        // Before it stops, the worker may accept one more request and end it with an error.
        let sender = sender.clone();
        if let Err(error) = engine.submit_with(uncached(), move |event| sender.send(event).unwrap()) {
            break error;
        }
        assert!(matches!(events.recv(), Ok(Event::Finished(o)) if o.reason.as_str() == "error"));
    };
    assert!(matches!(refused, EngineError::Stopped), "{refused}");
    drop(sender);
    assert!(events.recv().is_err(), "a refused request gets no events");
}

#[test]
fn logits_of_the_wrong_shape_are_an_error() {
    let engine = Odd::start(one_slot(), |odd| {
        odd.forward = Box::new(|mock, batch, out| {
            mock.forward(batch, out)?;
            out.reset(batch.rows(), 7);
            Ok(())
        });
    });
    let failed = engine.submit(request([300], 4)).unwrap().wait().unwrap();
    let said = format!("the backend returned [1, 7] logits; expected [1, {}]", engine.spec().vocab_size);
    assert_eq!(failed.error(), Some(said.as_str()));
}

#[test]
fn a_sink_may_hold_the_last_reference_to_the_engine() {
    let engine = Arc::new(start(MockOptions { limits: limits(1, 1 << 20), ..MockOptions::default() }));
    let (sender, ended) = mpsc::channel();
    let mut held = Some(engine.clone());
    let sink = move |event| {
        // After the other reference is dropped, this one drops the engine on its own worker's thread.
        held.take_if(|engine| Arc::strong_count(engine) == 1);
        if let Event::Finished(outcome) = event {
            sender.send(outcome.reason).unwrap();
        }
    };
    engine.submit_with(request([300], usize::MAX), sink).unwrap();
    drop(engine);
    assert_eq!(ended.recv(), Ok(FinishReason::Cancelled));
}

#[test]
fn a_backend_that_does_not_open_gives_the_reason() {
    let start = |open: fn() -> Result<Box<dyn Backend>, BackendError>| {
        Engine::start(open, None, EngineConfig::default()).expect_err("does not open").to_string()
    };
    assert_eq!(start(|| Err(BackendError::Unsupported("no such device".into()))), "no such device");
    assert_eq!(start(|| panic!("out of luck")), "the backend panicked while opening: out of luck");
    let none = start(|| {
        let limits = Limits { slots: 0, ..MockOptions::default().limits };
        Ok(Box::new(Mock::new(MockOptions { limits, ..MockOptions::default() })))
    });
    assert!(none.starts_with("the backend's limits allow nothing to run"), "{none}");
}

#[test]
fn cancelling_frees_the_only_slot() {
    let engine = start(MockOptions { limits: limits(1, 1 << 20), ..MockOptions::default() });
    let mut endless = engine.submit(request([300], usize::MAX)).unwrap();
    let waiting = engine.submit(request([301], 4)).unwrap();
    assert!(matches!(endless.recv(), Some(Event::Tokens { .. })));
    endless.cancel();
    let outcome = endless.wait().unwrap().outcome;
    assert_eq!(outcome.reason, FinishReason::Cancelled);
    assert_eq!(waiting.wait().unwrap().outcome.reason, FinishReason::Length);

    // Dropping the handle also cancels a waiting request.
    let endless = engine.submit(request([300], usize::MAX)).unwrap();
    drop(engine.submit(request([301], usize::MAX)).unwrap());
    let last = engine.submit(request([302], 4)).unwrap();
    drop(endless);
    assert_eq!(last.wait().unwrap().outcome.reason, FinishReason::Length);
    assert_eq!(engine.in_flight(), 0);
}

#[test]
fn the_queue_is_bounded() {
    let options = MockOptions { limits: limits(1, 1 << 20), ..MockOptions::default() };
    let engine = start_with(options, EngineConfig { max_waiting: 2, ..EngineConfig::default() });
    let held: Vec<_> = (0..3).map(|_| engine.submit(request([300], usize::MAX)).unwrap()).collect();
    let error = engine.submit(request([300], 1)).expect_err("the queue is full");
    assert_eq!(error.to_string(), "the queue is full: 1 requests can run and 2 wait; try again later");
    held[0].cancel();
    held.into_iter().next().unwrap().wait().unwrap();
    engine.submit(request([300], 1)).unwrap().wait().unwrap();
}

#[test]
fn dropping_the_engine_cancels_running_and_waiting_requests() {
    let engine = start(MockOptions { limits: limits(1, 1 << 20), ..MockOptions::default() });
    let mut running = engine.submit(request([300], usize::MAX)).unwrap();
    let waiting = engine.submit(request([300], usize::MAX)).unwrap();
    running.recv();
    drop(engine);
    assert_eq!(running.wait().unwrap().outcome.reason, FinishReason::Cancelled);
    assert_eq!(waiting.wait().unwrap().outcome.reason, FinishReason::Cancelled);
}

#[test]
fn a_sink_gets_the_events_and_its_panic_affects_no_other() {
    let engine = start(MockOptions { limits: limits(2, 1 << 20), ..MockOptions::default() });
    let neighbour = engine.submit(request([301], 200)).unwrap();
    engine.submit_with(request([300], usize::MAX), |_| panic!("a bad consumer")).unwrap();
    let (sender, events) = mpsc::channel();
    engine.submit_with(request([300], 3), move |event| sender.send(event).unwrap()).unwrap();
    assert_eq!(events.iter().count(), 4);
    assert_eq!(neighbour.wait().unwrap().ids.len(), 200);
}

#[test]
fn the_prefix_cache_saves_work_and_changes_nothing() {
    let engine = start(MockOptions::default());
    let ask = |prompt: &[TokenId], prefix_cache| {
        let mut request = request(prompt, 6);
        request.prefix_cache = prefix_cache;
        let done = engine.submit(request).unwrap().wait().unwrap();
        (done.ids, done.outcome.usage.cached_tokens)
    };
    let prompt: Vec<TokenId> = (300..340).collect();
    let (first, cached) = ask(&prompt, false);
    assert_eq!(cached, 0);
    assert_eq!(ask(&prompt, true), (first.clone(), 0), "a request without the cache leaves nothing in it");
    assert_eq!(ask(&prompt, true), (first.clone(), 39), "one token is computed for its logits");
    assert_eq!(ask(&prompt, false), (first.clone(), 0), "a request without the cache reuses nothing");
    let followed = [&prompt[..], &first, &[300, 301]].concat();
    let (_, cached) = ask(&followed, true);
    assert_eq!(cached, 45, "all computed tokens of the first turn");
    let (alone, _) = ask(&followed, false);
    assert_eq!(ask(&followed, true).0, alone);
}

#[test]
fn each_token_has_its_logprobs() {
    let engine = start(MockOptions::default());
    let mut wanted = request([300], 5);
    wanted.sampling.logprobs = Some(3);
    let done = engine.submit(wanted).unwrap().wait().unwrap();
    assert_eq!(done.logprobs.len(), 5);
    for (id, logprobs) in done.ids.iter().zip(&done.logprobs) {
        assert_eq!((logprobs.chosen, logprobs.chosen.id), (logprobs.top[0], *id), "greedy takes the best");
        assert!(logprobs.top.is_sorted_by(|a, b| a.logprob >= b.logprob) && logprobs.top[0].logprob <= 0.0);
    }
}

#[test]
fn a_seed_reproduces_an_answer_and_is_reported() {
    let engine = start(MockOptions::default());
    let ask = |seed| {
        let mut random = request([300], 20);
        random.sampling = SamplingParams { seed, temperature: 1.5, ..SamplingParams::default() };
        engine.submit(random).unwrap().wait().unwrap()
    };
    let first = ask(None);
    assert_eq!(ask(Some(first.outcome.seed)).ids, first.ids);
    assert_ne!(ask(Some(first.outcome.seed ^ 1)).ids, first.ids);
}

#[test]
fn concurrent_requests_get_the_tokens_they_get_alone() {
    let limits = Limits { slots: 5, batch_tokens: 24, context: 128, kv_tokens: 300, kv_page: 8 };
    let engine = start_with(
        MockOptions { limits, ..MockOptions::default() },
        EngineConfig { prefill_chunk: 7, max_waiting: 100, ..EngineConfig::default() },
    );
    let ask = |i: u32| {
        let mut random = request((0..i * 2 + 1).map(|t| 300 + t % (i + 1)).collect::<Vec<_>>(), 40);
        random.sampling = SamplingParams { seed: Some(u64::from(i)), ..SamplingParams::default() };
        random.prefix_cache = i >= 13;
        random
    };
    let alone: Vec<_> = (0..40).map(|i| engine.submit(ask(i)).unwrap().wait().unwrap().ids).collect();
    let generations: Vec<_> = (0..40).map(|i| engine.submit(ask(i)).unwrap()).collect();
    let together: Vec<_> = generations.into_iter().map(|g| g.wait().unwrap().ids).collect();
    assert_eq!(together, alone);
}

#[test]
fn prefill_time_excludes_decoding() {
    // The mock is slow only in the first call, so prefill takes at least that time, and less than the whole.
    let delay = Duration::from_millis(1);
    let engine = start(MockOptions { ttft: delay, ..MockOptions::default() });
    let timing = engine.submit(request([300; 100], 50)).unwrap().wait().unwrap().outcome.timing;
    assert!(timing.prefill >= delay && timing.prefill <= timing.ttft().unwrap());
    let engine = start(MockOptions { per_token: delay, ..MockOptions::default() });
    let timing = engine.submit(request([300; 100], 5)).unwrap().wait().unwrap().outcome.timing;
    assert!(timing.total().unwrap() - timing.ttft().unwrap() >= 4 * delay);
}

#[test]
fn try_recv_and_recv_timeout_do_not_block_forever() {
    let engine = start(fault(1, FaultKind::Hang));
    let mut generation = engine.submit(request([300], 9)).unwrap();
    assert!(generation.recv().is_some());
    assert!(generation.recv_timeout(Duration::from_millis(1)).is_none());
    assert!(generation.try_recv().is_none() && !generation.ended());
    // The worker hangs in the backend forever, so it is leaked.
    std::mem::forget(engine);
}

/// As a second process with the same cache: the prompt is not computed again, and the answer is the same.
#[test]
fn a_stored_prompt_saves_work_in_another_engine_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.kv");
    let cache = || {
        let location = zonda_engine::prompt_cache::CacheLocation::File(path.clone());
        Some(zonda_engine::PromptCacheConfig { location, model: "m".into() })
    };
    let prompt: Vec<TokenId> = (0..300).map(|i| 260 + i % 97).collect();
    let answer = |options: MockOptions, prompt: &[TokenId]| {
        let open = move || Ok(Box::new(Mock::new(options)) as _);
        let engine = Engine::start_with(
            open,
            None,
            EngineConfig::default(),
            Extras { prompts: cache(), ..Extras::default() },
        )
        .unwrap();
        let done = engine.submit(request(prompt, 8)).unwrap().wait();
        let done = done.expect("an answer");
        (done.ids, done.outcome.usage.cached_tokens)
    };
    let (first, cached) = answer(MockOptions::default(), &prompt);
    assert_eq!(cached, 0);
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(answer(MockOptions::default(), &prompt), (first.clone(), 299), "one token must be computed");
    assert!(std::fs::metadata(&path).unwrap().modified().unwrap() >= written);
    // A prompt that continues the stored one reuses all of it.
    let longer: Vec<TokenId> = prompt.iter().chain(&[700, 701]).copied().collect();
    assert_eq!(answer(MockOptions::default(), &longer).1, 300);
    // Without room for it, or with other weights, the prompt is computed.
    let limits = limits(1, 400);
    assert_eq!(answer(MockOptions { limits, ..MockOptions::default() }, &prompt), (first.clone(), 299));
    std::fs::write(&path, b"ZONDAKV1 and then nonsense").unwrap();
    assert_eq!(answer(MockOptions::default(), &prompt), (first, 0));
}
