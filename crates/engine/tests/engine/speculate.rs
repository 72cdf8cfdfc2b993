//! Speculation changes the speed only: the tokens are the same, greedy and sampled, with good and bad drafts, and 100,000
//! draws follow the model's own distribution.

use super::odd::Odd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use zonda_engine::forward::{Backend, Limits, Want};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions, PrefixSupport};
use zonda_engine::tokenize::Tokenizer;
use zonda_engine::worker::{TokenizerMismatch, same_tokens};
use zonda_engine::{
    Completion, DraftModel, Engine, EngineConfig, EngineError, Extras, FinishReason, Grammar, Prompt,
    Request, RequestError, SamplingParams, Speculate, TextProcessor, TokenId,
};

fn drafted(draft: DraftModel) -> Extras {
    Extras { draft: Some(draft), ..Extras::default() }
}

/// States of a [`markov`] model.
const STATES: usize = 6;

/// A model whose next token depends only on the last one: the mock, which checks the trait's rules, with other logits.
/// Forward calls are counted.
fn markov(seed: u32, calls: &Arc<AtomicUsize>) -> Odd {
    let limits = Limits { slots: 8, batch_tokens: 256, context: 4096, kv_tokens: 8 * 4096, kv_page: 16 };
    let (rows, calls) = (rows(seed), calls.clone());
    let mut model = Odd::new(MockOptions { limits, ..MockOptions::default() });
    model.forward = Box::new(move |mock, batch, out| {
        calls.fetch_add(1, Ordering::Relaxed);
        mock.forward(batch, out)?;
        let wanted = batch.spans.iter().flat_map(|span| match span.want {
            Want::None => &[][..],
            Want::Last => &span.tokens[span.tokens.len() - 1..],
            Want::All => span.tokens,
        });
        for (row, &token) in wanted.enumerate() {
            let row = out.row_mut(row);
            row.fill(-1e4);
            row[..STATES].copy_from_slice(&rows[token as usize % STATES]);
        }
        Ok(())
    });
    model
}

/// Logits by last token; the seed decides which tokens are likely.
fn rows(seed: u32) -> [[f32; STATES]; STATES] {
    let logit = |from: usize, to: usize| {
        let x = (seed as usize * 131 + from * 37 + to * 101 + from * to * 17) % 23;
        x as f32 / 23.0 * 4.0
    };
    std::array::from_fn(|from| std::array::from_fn(|to| logit(from, to)))
}

/// A step of the mock costs next to nothing, so no draft would pay; this forces drafts.
fn always() -> EngineConfig {
    EngineConfig { draft_min: 6, ..EngineConfig::default() }
}

/// An engine on a chain, with another chain as its draft model if `draft` is given.
fn chain(seed: u32, speculate: Speculate, draft: Option<u32>) -> (Engine, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let config = EngineConfig { speculate, draft_max: 6, ..always() };
    let other = Arc::new(AtomicUsize::new(0));
    let open_draft = move |seed| move || Ok(Box::new(markov(seed, &other)) as Box<dyn Backend>);
    let draft = draft.map(|seed| DraftModel { open: Box::new(open_draft(seed)), text: None });
    let own = calls.clone();
    let engine = Engine::start_with(
        move || Ok(Box::new(markov(seed, &own)) as _),
        None,
        config,
        Extras { draft, ..Extras::default() },
    );
    (engine.unwrap(), calls)
}

/// Temperature 1 and no filters: draws follow the model's distribution.
fn plain(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(seed),
        ..SamplingParams::default()
    }
}

fn generate(engine: &Engine, sampling: &SamplingParams, prompt: &[TokenId], tokens: usize) -> Completion {
    let mut request = Request::new(Prompt::Tokens(prompt.to_vec()), tokens);
    request.sampling = sampling.clone();
    request.ignore_eos = true;
    let completion = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!(completion.outcome.reason, FinishReason::Length);
    completion
}

/// Over all transitions of 100 answers of 1000 tokens, each with its own seed: chi-square against the probabilities of
/// `model`, and the numbers of drafted and accepted tokens. Given the last token, each draw is independent of the others.
fn chi_square(engine: &Engine, model: u32) -> (f64, usize, usize) {
    let (mut counts, mut drafted, mut accepted) = ([[0u32; STATES]; STATES], 0, 0);
    for seed in 0..100 {
        let completion = generate(engine, &plain(seed), &[0], 1000);
        let usage = completion.outcome.usage;
        (drafted, accepted) = (drafted + usage.drafted_tokens, accepted + usage.accepted_tokens);
        let mut last = 0;
        for &token in &completion.ids {
            counts[last][token as usize] += 1;
            last = token as usize;
        }
    }
    let mut chi = 0.0;
    for (counts, logits) in counts.iter().zip(rows(model)) {
        let weights = logits.map(|x| f64::from(x).exp());
        let all = f64::from(counts.iter().sum::<u32>());
        for (&count, weight) in counts.iter().zip(weights) {
            let expected = all * weight / weights.iter().sum::<f64>();
            chi += (f64::from(count) - expected).powi(2) / expected;
        }
    }
    (chi, drafted, accepted)
}

#[test]
fn over_100_000_draws_follow_the_models_distribution() {
    // 6 states with 5 degrees of freedom each make 30; chance exceeds 59.7 once in a thousand.
    const BOUND: f64 = 59.7;
    let (plain, ..) = chi_square(&chain(1, Speculate::Off, None).0, 1);
    assert!(plain < BOUND, "{plain}");
    for (how, draft) in [(Speculate::Ngram, None), (Speculate::Draft, Some(2)), (Speculate::Draft, Some(1))] {
        let (chi, drafted, accepted) = chi_square(&chain(1, how, draft).0, 1);
        assert!(chi < BOUND, "{how:?}, {draft:?}: chi-square {chi}");
        assert!(drafted > 1000 && accepted > drafted / 20, "{how:?}, {draft:?}: {accepted} of {drafted}");
    }
    // The test can fail: the draft model's own distribution is far from the model's.
    let (other, ..) = chi_square(&chain(2, Speculate::Off, None).0, 1);
    assert!(other > 100.0 * BOUND, "{other}");
}

#[test]
fn speculation_changes_no_token_greedy_or_sampled() {
    let (off, off_calls) = chain(3, Speculate::Off, None);
    let penal = SamplingParams { repeat_penalty: 1.3, presence_penalty: 0.2, ..plain(7) };
    for how in [(Speculate::Ngram, None), (Speculate::Draft, Some(3)), (Speculate::Draft, Some(4))] {
        let (on, calls) = chain(3, how.0, how.1);
        for (i, sampling) in [SamplingParams::greedy(), plain(5), plain(6), penal.clone()].iter().enumerate()
        {
            let before = (off_calls.load(Ordering::Relaxed), calls.load(Ordering::Relaxed));
            let (a, b) =
                (generate(&off, sampling, &[1, 2, 3], 400), generate(&on, sampling, &[1, 2, 3], 400));
            assert_eq!(a.ids, b.ids, "{how:?}, {sampling:?}");
            let usage = b.outcome.usage;
            assert_eq!((a.outcome.usage.drafted_tokens, usage.completion_tokens), (0, 400));
            // Every accepted token saves a step of the 400.
            let steps = |now: &Arc<AtomicUsize>, before| now.load(Ordering::Relaxed) - before;
            assert_eq!(steps(&calls, before.1), steps(&off_calls, before.0) - usage.accepted_tokens);
            if i == 0 {
                assert!(usage.accepted_tokens > 200 || how.1 == Some(4), "{how:?}: {usage:?}");
            }
        }
    }
}

static MOCK: LazyLock<TextProcessor> = LazyLock::new(TextProcessor::mock);

/// An engine on the mock whose draft model is the mock with the same or another seed.
fn mock(options: MockOptions, draft: MockOptions, config: EngineConfig) -> Engine {
    let open = Box::new(move || Ok(Box::new(Mock::new(draft)) as Box<dyn Backend>));
    let draft = DraftModel { open, text: Some(MOCK.clone()) };
    let open = move || Ok(Box::new(Mock::new(options)) as _);
    Engine::start_with(open, Some(MOCK.clone()), config, drafted(draft)).unwrap()
}

fn text_request(speculate: Speculate, tokens: usize) -> Request {
    let mut request = Request::new(Prompt::Text("What is warm and fast?".into()), tokens);
    request.sampling = SamplingParams { seed: Some(9), ..SamplingParams::default() };
    request.speculate = Some(speculate);
    request
}

#[test]
fn requests_with_and_without_drafts_run_together() {
    let options = MockOptions { end_every: 0, ..MockOptions::default() };
    let engine = mock(options.clone(), options, always());
    let all = [Speculate::Off, Speculate::Ngram, Speculate::Draft];
    let running: Vec<_> = all.map(|how| engine.submit(text_request(how, 100)).unwrap()).into_iter().collect();
    let done: Vec<Completion> = running.into_iter().map(|g| g.wait().unwrap()).collect();
    assert!(done.iter().all(|c| c.ids == done[0].ids && c.text == done[0].text), "{done:?}");
    let usage = |i: usize| done[i].outcome.usage;
    assert_eq!((usage(0).drafted_tokens, usage(1).accepted_tokens), (0, 0));
    // The draft model is the model itself and samples alike, so drafts are always right.
    assert!(
        usage(2).drafted_tokens > 30 && usage(2).accepted_tokens == usage(2).drafted_tokens,
        "{:?}",
        usage(2)
    );
}

#[test]
fn grammars_stop_strings_and_logprobs_are_unchanged() {
    let options = MockOptions { end_every: 0, ..MockOptions::default() };
    let engine = mock(options.clone(), options, always());
    let run = |how: Speculate, change: &dyn Fn(&mut Request)| {
        let mut request = text_request(how, 60);
        change(&mut request);
        let mut c = engine.submit(request).unwrap().wait().unwrap();
        c.outcome.usage = Default::default();
        (c.ids, c.text, c.logprobs, c.outcome.reason)
    };
    let same = |change: &dyn Fn(&mut Request)| {
        let off = run(Speculate::Off, change);
        for how in [Speculate::Ngram, Speculate::Draft] {
            assert_eq!(off, run(how, change), "{how:?}");
        }
        off
    };
    let (ids, _, logprobs, _) = same(&|request| request.sampling.logprobs = Some(2));
    assert_eq!((ids.len(), logprobs.len()), (60, 60));
    let text = run(Speculate::Off, &|_| ()).1;
    let word = text.split_whitespace().nth(20).unwrap().to_owned();
    let (.., reason) = same(&move |request| request.stop = vec![word.clone()]);
    assert_eq!(reason, FinishReason::StopString);
    same(&|request| request.grammar = Some(Grammar::Regex("[a-z ]{5,40}".into())));
}

#[test]
fn drafts_do_not_exceed_the_context() {
    let limits = Limits { slots: 2, batch_tokens: 64, context: 64, kv_tokens: 64, kv_page: 16 };
    let options = MockOptions { end_every: 0, limits, ..MockOptions::default() };
    let engine = mock(options.clone(), options, always());
    let run = |how| engine.submit(text_request(how, usize::MAX)).unwrap().wait().unwrap();
    let (off, on) = (run(Speculate::Off), run(Speculate::Draft));
    assert_eq!((off.ids, off.outcome.reason), (on.ids, on.outcome.reason.clone()));
    assert_eq!(on.outcome.reason, FinishReason::ContextFull);
    assert!(on.outcome.usage.accepted_tokens > 10);
}

#[test]
fn a_backend_that_cannot_truncate_decodes_normally() {
    let options = MockOptions { end_every: 0, prefix: PrefixSupport::Never, ..MockOptions::default() };
    let config = EngineConfig { speculate: Speculate::Ngram, ..always() };
    let engine = mock(options.clone(), options, config);
    let run = |how| engine.submit(text_request(how, 50)).unwrap().wait().unwrap();
    assert_eq!(run(Speculate::Off).ids, run(Speculate::Draft).ids);
}

#[test]
fn a_failing_draft_model_costs_only_speed() {
    let options = MockOptions { end_every: 0, ..MockOptions::default() };
    for kind in [FaultKind::Error, FaultKind::Panic] {
        let broken = MockOptions { faults: vec![Fault::call(40, kind)], ..options.clone() };
        let engine = mock(options.clone(), broken, always());
        let run = |how| engine.submit(text_request(how, 200)).unwrap().wait().unwrap();
        let (off, on) = (run(Speculate::Off), run(Speculate::Draft));
        assert_eq!(off.ids, on.ids);
        assert!(on.outcome.usage.drafted_tokens < 190, "{:?}", on.outcome.usage);
    }
}

#[test]
fn impossible_combinations_are_refused_by_name() {
    let open = || Ok(Box::new(Mock::new(MockOptions::default())) as Box<dyn Backend>);
    let engine = Engine::start(open, Some(TextProcessor::mock()), EngineConfig::default()).unwrap();
    let refused = engine.submit(text_request(Speculate::Draft, 5)).unwrap_err();
    assert!(matches!(refused, EngineError::Request(RequestError::NoDraftModel)), "{refused}");
    let config = EngineConfig { speculate: Speculate::Draft, ..EngineConfig::default() };
    assert!(matches!(Engine::start(open, None, config), Err(EngineError::NoDraftModel)));
    let draft = DraftModel { open: Box::new(open), text: None };
    let error = Engine::start_with(open, Some(TextProcessor::mock()), config, drafted(draft)).unwrap_err();
    assert!(matches!(error, EngineError::DraftMismatch(TokenizerMismatch::OneHasNone { .. })), "{error}");
    let mock = Tokenizer::mock();
    assert_eq!(same_tokens(Some(&mock), Some(&mock)), Ok(()));
}
