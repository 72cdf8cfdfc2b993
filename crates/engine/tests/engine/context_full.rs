//! A full context, with shifts and without: what the engine delivers, counts and refuses, and that after a shift the answer
//! continues the shortened text.

use std::sync::Arc;
use zonda_engine::forward::{Backend, Limits};
use zonda_engine::mock::{Mock, MockOptions, PrefixSupport};
use zonda_engine::prompt_cache::CacheLocation;
use zonda_engine::schedule::cut;
use zonda_engine::tokenize::{ChatTemplate, Message, Tokenizer};
use zonda_engine::{
    Completion, DraftModel, Engine, EngineConfig, Event, Extras, FinishReason, Grammar, Keep, Prompt,
    PromptCacheConfig, Request, SamplingParams, Speculate, TextProcessor, TokenId,
};

const CONTEXT: usize = 64;

fn options() -> MockOptions {
    let limits = Limits { slots: 3, batch_tokens: 32, context: CONTEXT, kv_tokens: 2 * CONTEXT, kv_page: 4 };
    MockOptions { limits, end_every: 0, ..MockOptions::default() }
}

fn start(options: MockOptions, extras: Extras) -> Engine {
    let open = move || Ok(Box::new(Mock::new(options)) as _);
    // Whether drafts pay depends on the machine, so the test forces them.
    let config = EngineConfig { draft_min: 3, prefill_chunk: 8, ..EngineConfig::default() };
    Engine::start_with(open, Some(TextProcessor::mock()), config, extras).expect("a mock opens")
}

fn engine() -> Engine {
    start(options(), Extras::default())
}

fn prompt(tokens: usize) -> Vec<TokenId> {
    (0..tokens as TokenId).map(|i| 260 + i * 7 % 400).collect()
}

/// A greedy request that may be shifted.
fn request(prompt: Vec<TokenId>, tokens: usize, keep: Keep) -> Request {
    let mut request = Request::new(Prompt::Tokens(prompt), tokens);
    request.sampling = SamplingParams::greedy();
    request.ignore_eos = true;
    request.context_shift = Some(keep);
    request
}

fn run(engine: &Engine, request: Request) -> Completion {
    engine.submit(request).expect("the request is accepted").wait().expect("an end")
}

#[test]
fn an_answer_continues_the_shortened_text() {
    let engine = engine();
    let (keep, tokens) = (10, 200);
    let shifted = run(&engine, request(prompt(20), tokens, Keep::Tokens(keep)));
    assert_eq!(shifted.outcome.reason, FinishReason::Length);
    let usage = shifted.outcome.usage;
    let half = (CONTEXT - keep) / 2;
    let shifts = (20 + tokens - CONTEXT - 1).div_ceil(half);
    assert_eq!((usage.context_shifts, usage.dropped_tokens), (shifts, shifts * half));
    assert_eq!((usage.prompt_tokens, usage.truncated_tokens, usage.completion_tokens), (20, 0, tokens));
    // Generates piece by piece, each from a prompt of its own without the dropped tokens.
    let (mut text, mut pieces) = (prompt(20), Vec::<TokenId>::new());
    while pieces.len() < tokens {
        let ends = Request { context_shift: None, ..request(text.clone(), usize::MAX, Keep::Prompt) };
        let piece = run(&engine, Request { prefix_cache: false, ..ends });
        assert_eq!(piece.outcome.reason, FinishReason::ContextFull);
        pieces.extend(&piece.ids);
        text.extend(&piece.ids);
        text.drain(keep..keep + half);
    }
    assert_eq!(shifted.ids, pieces[..tokens]);
}

#[test]
fn every_configuration_gives_the_same_tokens() {
    let sampled = SamplingParams {
        seed: Some(3),
        repeat_penalty: 1.2,
        repeat_last_n: 500,
        ..SamplingParams::default()
    };
    for sampling in [SamplingParams::greedy(), sampled] {
        let ask = |speculate, prefix_cache| Request {
            sampling: sampling.clone(),
            speculate: Some(speculate),
            prefix_cache,
            ..request(prompt(20), 300, Keep::Tokens(4))
        };
        let plain = run(&engine(), ask(Speculate::Off, false));
        for prefix in [PrefixSupport::Pages, PrefixSupport::TruncateOnly, PrefixSupport::Never] {
            let engine = start(MockOptions { prefix, ..options() }, Extras::default());
            assert_eq!(run(&engine, ask(Speculate::Off, true)).ids, plain.ids, "{prefix:?}");
        }
        let draft = || {
            // The draft model has a smaller context than the model: it drafts while it has room.
            let limits = Limits { context: CONTEXT - 9, ..options().limits };
            let open =
                move || Ok(Box::new(Mock::new(MockOptions { limits, ..options() })) as Box<dyn Backend>);
            DraftModel { open: Box::new(open), text: Some(TextProcessor::mock()) }
        };
        let engine = start(options(), Extras { draft: Some(draft()), ..Extras::default() });
        let all = [Speculate::Off, Speculate::Ngram, Speculate::Draft];
        let running: Vec<_> = all.map(|how| engine.submit(ask(how, true)).unwrap()).into_iter().collect();
        let done: Vec<Completion> = running.into_iter().map(|g| g.wait().unwrap()).collect();
        for (how, done) in all.iter().zip(&done) {
            assert_eq!(done.ids, plain.ids, "{how:?}");
            assert_eq!(done.outcome.usage.context_shifts, plain.outcome.usage.context_shifts);
        }
        // It drafts what the model generates, also after a shift.
        let usage = done[2].outcome.usage;
        assert!(usage.accepted_tokens > 100 && usage.accepted_tokens == usage.drafted_tokens, "{usage:?}");
    }
}

/// Random draws depend on the position in the whole text, so they don't repeat when positions in the context do.
#[test]
fn penalties_cover_the_whole_text() {
    let engine = engine();
    // Each word occurs once, even after its part of the text was dropped: there are more than 300.
    let once =
        SamplingParams { presence_penalty: 100.0, repeat_last_n: usize::MAX, ..SamplingParams::greedy() };
    let done = run(&engine, Request { sampling: once, ..request(prompt(1), 150, Keep::Tokens(0)) });
    let mut distinct = done.ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), done.outcome.usage.context_shifts), (150, 3));
}

#[test]
fn without_shifts_a_full_context_ends_the_request() {
    let ends = Request { context_shift: None, ..request(prompt(20), usize::MAX, Keep::Prompt) };
    let done = run(&engine(), ends);
    let usage = done.outcome.usage;
    assert_eq!((done.outcome.reason, done.ids.len()), (FinishReason::ContextFull, CONTEXT - 20 + 1));
    assert_eq!((usage.context_shifts, usage.dropped_tokens, usage.truncated_tokens), (0, 0, 0));
}

#[test]
fn a_prompt_that_does_not_fit_is_cut_if_shifts_are_on() {
    let engine = engine();
    let long = prompt(150);
    let refused = Request { context_shift: None, ..request(long.clone(), 20, Keep::Prompt) };
    let error = engine.submit(refused).unwrap_err().to_string();
    assert_eq!(error, "the prompt has 150 tokens; at most 64 fit into the context");

    let mut short = long.clone();
    let gone = cut(&mut short, 6, CONTEXT);
    assert_eq!((gone, &short[..6], short.last()), (87, &long[..6], long.last()));
    let mut generation = engine.submit(request(long, 20, Keep::Tokens(6))).unwrap();
    assert_eq!(generation.recv(), Some(Event::Dropped { tokens: gone, of_prompt: true }));
    let done = generation.wait().unwrap();
    let usage = done.outcome.usage;
    assert_eq!((usage.prompt_tokens, usage.truncated_tokens), (150 - gone, gone));
    assert_eq!(done.ids, run(&engine, request(short, 20, Keep::Tokens(6))).ids);
}

#[test]
fn the_kept_prefix_must_leave_room() {
    let engine = engine();
    let refused = |keep, prompt| engine.submit(request(prompt, 9, keep)).unwrap_err().to_string();
    let says = "63 tokens are to be kept when the context of 64 is full; expected at most 62";
    assert_eq!(refused(Keep::Tokens(63), prompt(63)), says);
    assert_eq!(refused(Keep::Prompt, prompt(63)), says);
    // The longest possible prefix: each new token drops one.
    let done = run(&engine, request(prompt(62), 30, Keep::Prompt));
    assert_eq!((done.ids.len(), done.outcome.usage.context_shifts), (30, 27));
    assert_eq!(Keep::from_count(-2), None);
}

#[test]
fn by_default_bos_and_the_system_message_are_kept() {
    let text = TextProcessor::mock();
    let engine = engine();
    let messages =
        |system: &str| vec![Message::new("system", system), Message::new("user", "the wind ".repeat(60))];
    let ask = |system: &str, keep| {
        let mut request = request(Vec::new(), 1, keep);
        request.prompt = Prompt::chat(messages(system));
        run(&engine, request).outcome.usage.truncated_tokens
    };
    let tokens = text.encode_chat(&messages("you are the sea"), &Default::default()).unwrap();
    let system = [Message::new("system", "you are the sea")];
    let options =
        zonda_engine::tokenize::RenderOptions { add_generation_prompt: false, ..Default::default() };
    let front = text.encode_chat(&system, &options).unwrap().len();
    let gone = |keep: usize| cut(&mut tokens.clone(), keep, CONTEXT);
    assert_ne!(gone(front), gone(1), "the two would differ");
    assert_eq!(ask("you are the sea", Keep::System), gone(front));
    assert_eq!(ask("you are the sea", Keep::Tokens(front - 1)), gone(front), "BOS is kept in addition");
    assert_eq!(ask("you are the sea", Keep::Tokens(0)), gone(1));
    // A prefix of more than half of the context is too long.
    let large = "the sea ".repeat(20);
    let tokens = text.encode_chat(&messages(&large), &Default::default()).unwrap();
    assert_eq!(ask(&large, Keep::System), cut(&mut tokens.clone(), 1, CONTEXT));
    // If the template can't render the system message alone, only BOS is kept.
    let strict = "{{ bos_token }}{% if messages|length < 2 %}{{ raise_exception('no') }}{% endif %}\
                  {% for m in messages %}{{ m.content }}{% endfor %}";
    let template = Arc::new(ChatTemplate::new(strict, &Tokenizer::mock()).unwrap());
    let text = TextProcessor { template: Some(template), ..text };
    let tokens = text.encode_chat(&messages("you"), &Default::default()).unwrap();
    let open = || Ok(Box::new(Mock::new(self::options())) as _);
    let engine = Engine::start(open, Some(text), EngineConfig::default()).unwrap();
    let mut request = request(Vec::new(), 1, Keep::System);
    request.prompt = Prompt::chat(messages("you"));
    let done = run(&engine, request);
    assert_eq!(done.outcome.usage.truncated_tokens, cut(&mut tokens.clone(), 1, CONTEXT));
}

#[test]
fn grammars_and_stop_strings_work_across_shifts() {
    let engine = engine();
    let grammar = Some(Grammar::Regex("( [a-z]+){120}".into()));
    let done =
        run(&engine, Request { grammar, ignore_eos: false, ..request(prompt(20), 999, Keep::Tokens(0)) });
    assert_eq!((done.outcome.reason, done.text.split_whitespace().count()), (FinishReason::Stop, 120));
    let full = run(&engine, request(prompt(20), 100, Keep::Tokens(0)));
    let words: Vec<&str> = full.text.split(' ').collect();
    // The stop string spans the shift after the 45th token.
    let stop = format!(" {} {}", words[45], words[46]);
    let cut = full.text.find(&stop).unwrap();
    let done = run(&engine, Request { stop: vec![stop], ..request(prompt(20), 100, Keep::Tokens(0)) });
    assert_eq!((done.outcome.reason, done.text.as_str()), (FinishReason::StopString, &full.text[..cut]));
}

/// The prompt is stored before a shift drops part of it, and the remainder is not stored again.
#[test]
fn a_prompt_on_disk_is_stored_whole() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { slots: 1, batch_tokens: 64, context: 256, kv_tokens: 256, kv_page: 4 };
    let ask = |path: &str| {
        let prompts =
            PromptCacheConfig { location: CacheLocation::File(folder.path().join(path)), model: "m".into() };
        let engine = start(
            MockOptions { limits, ..options() },
            Extras { prompts: Some(prompts), ..Extras::default() },
        );
        run(&engine, request(prompt(200), 400, Keep::Tokens(80)))
    };
    let first = ask("p.kv");
    assert!(first.outcome.usage.context_shifts > 1 && first.outcome.usage.cached_tokens == 0);
    let second = ask("p.kv");
    assert_eq!((second.outcome.usage.cached_tokens, &second.ids), (199, &first.ids));
}
