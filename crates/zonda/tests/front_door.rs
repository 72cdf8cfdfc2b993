//! Models by name, answers, streams and typed errors, on the mock and, if one is available, on a real model.

use serde_json::json;
use zonda::{
    BackendKind, CacheLocation, Error, Event, FinishReason, Grammar, Message, Model, OpenOptions, Prompt,
    Sharing, Store, Tool, ToolChoice,
};

fn mock() -> Model {
    Model::open("mock").unwrap()
}

#[test]
fn a_chat_is_answered() {
    let model = mock();
    assert_eq!((model.name(), model.backend()), ("mock", Some(BackendKind::Mock)));
    let ask = || model.chat([Message::system("Be brief."), Message::user("Hello")]).max_tokens(8).seed(3);
    let answer = ask().send().unwrap();
    assert_eq!(answer.usage.completion_tokens, answer.tokens.len());
    assert!(answer.usage.prompt_tokens > 0 && answer.timing.ttft().is_some());
    assert!(matches!(answer.finish_reason, FinishReason::Length | FinishReason::Stop));
    assert_eq!((answer.seed, ask().send().unwrap().text), (3, answer.text.clone()));

    let pieces: String = ask().stream().unwrap().text().collect::<zonda::Result<_>>().unwrap();
    assert_eq!(pieces, answer.text);
    assert_eq!(ask().stream().unwrap().wait().unwrap().tokens, answer.tokens);
}

#[test]
fn answers_stop_and_follow_a_format() {
    let model = mock();
    let long = model.generate("wind").max_tokens(30).seed(1).ignore_eos().send().unwrap();
    let word = long.text.split_whitespace().nth(3).unwrap();
    let short = model.generate("wind").max_tokens(30).seed(1).ignore_eos().stop([word]).send().unwrap();
    assert_eq!(short.finish_reason, FinishReason::StopString);
    assert!(long.text.starts_with(&short.text) && !short.text.contains(word));

    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"], "additionalProperties": false});
    let answer = model.generate("A number:").json_schema(schema).seed(2).send().unwrap();
    let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert!((1..=9).contains(&value["n"].as_i64().unwrap()), "{value}");

    let regex = Grammar::Regex("[ab]{3}".to_owned());
    assert_eq!(model.generate("x").grammar(regex).send().unwrap().text.len(), 3);
}

#[test]
fn a_models_files_recommend_its_sampling() {
    let folder = tempfile::tempdir().unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/mistral_full");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("generation_config.json"), r#"{"temperature": 0.0, "top_k": 7}"#)
        .unwrap();
    let model = Model::open(folder.path()).unwrap();
    let recommended = model.engine().sampling();
    assert_eq!((recommended.temperature, recommended.top_k, recommended.top_p), (Some(0.0), Some(7), None));
    let ask = || model.request(Prompt::Tokens(vec![1, 2, 3])).max_tokens(8).ignore_eos();
    let greedy = ask().send().unwrap().tokens;
    assert_eq!(ask().send().unwrap().tokens, greedy, "no seed is needed at temperature 0");
    assert_ne!(
        ask().temperature(50.0).seed(1).send().unwrap().tokens,
        greedy,
        "a setting of the request counts"
    );
}

fn weather() -> Tool {
    let parameters = json!({"type": "object", "properties": {"place": {"enum": ["sea", "hills"]}},
        "required": ["place"], "additionalProperties": false});
    Tool::function("weather", "Tells the weather", parameters)
}

#[test]
fn a_required_tool_is_called() {
    let model = mock();
    let ask = || {
        let request = model.chat([Message::user("How is it at the sea?")]).tools([weather()]).seed(4);
        request.tool_choice(ToolChoice::Required).parallel_tool_calls(false)
    };
    let answer = ask().send().unwrap();
    let [call] = &answer.tool_calls[..] else { panic!("{answer:?}") };
    let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
    assert_eq!((call.name.as_str(), answer.text.as_str()), ("weather", ""));
    assert!(arguments["place"] == "sea" || arguments["place"] == "hills", "{arguments}");

    // The call is part of the conversation, so that the result can follow it.
    let message = answer.message();
    assert_eq!(message.extra["tool_calls"][0]["function"]["arguments"], arguments);
    let result = Message::tool(&call.id, "sunny");
    assert_eq!(result.extra["tool_call_id"], message.extra["tool_calls"][0]["id"]);
    let next = model.chat([Message::user("How is it at the sea?"), message, result]).tools([weather()]);
    assert!(next.tool_choice(ToolChoice::None).max_tokens(4).send().unwrap().tool_calls.is_empty());

    // A stream has the same call and no text of it.
    let mut stream = ask().stream().unwrap();
    let text: String = stream
        .by_ref()
        .filter_map(|event| match event.unwrap() {
            Event::Tokens { text, .. } => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!((text.as_str(), stream.tool_calls()), ("", &answer.tool_calls[..]));
}

#[test]
fn text_that_only_begins_like_a_call_is_delivered() {
    let model = mock();
    let begins = Grammar::Regex("ab<tool_ca".to_owned());
    let request = model.chat([Message::user("x")]).tools([weather()]).with(|r| r.grammar = Some(begins));
    // With a grammar of its own, the answer may be a call or match that grammar: this seed matches it.
    let answers = (0..20).map(|seed| request.clone().seed(seed).send().unwrap());
    let texts: Vec<String> = answers.filter(|a| a.tool_calls.is_empty()).map(|a| a.text).collect();
    assert!(!texts.is_empty() && texts.iter().all(|text| text == "ab<tool_ca"), "{texts:?}");
}

#[test]
fn malformed_tools_are_refused() {
    let model = mock();
    let chat = || model.chat([Message::user("x")]).max_tokens(1);
    let refused = |request: zonda::Generate<'_>| match request.send().unwrap_err() {
        Error::Tools(error) => error.param,
        error => panic!("{error:?}"),
    };
    assert_eq!(refused(chat().tools([weather(), weather()])), "tools[1].function.name");
    assert_eq!(refused(chat().tools([json!({"type": "browser"})])), "tools[0]");
    assert_eq!(refused(chat().tool_choice(ToolChoice::Required)), "tool_choice");
    assert_eq!(
        refused(chat().tools([weather()]).tool_choice(ToolChoice::Function("x".into()))),
        "tool_choice"
    );
    assert_eq!(refused(model.generate("x").tools([weather()])), "tools");
    let lark = Grammar::Lark("start: \"a\"".into());
    assert_eq!(refused(chat().tools([weather()]).grammar(lark)), "response_format");
}

#[test]
fn a_dropped_stream_is_cancelled() {
    let options = OpenOptions { mock_step: Some(20), ..OpenOptions::default() };
    let model = Model::open_with("mock", options).unwrap();
    let mut stream = model.generate("wind").ignore_eos().stream().unwrap();
    assert!(matches!(stream.next(), Some(Ok(Event::Tokens { .. }))));
    stream.cancel();
    let last = stream.by_ref().last().unwrap().unwrap();
    assert!(matches!(last, Event::Finished(outcome) if outcome.reason == FinishReason::Cancelled));

    let stream = model.generate("wind").ignore_eos().stream().unwrap();
    drop(stream);
    while model.engine().in_flight() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn text_and_tokens_round_trip() {
    let model = mock();
    let ids = model.tokenize(" warm wind").unwrap();
    assert_eq!(model.detokenize(&ids).unwrap(), " warm wind");
}

#[test]
fn several_requests_share_a_model() {
    let sharing = Sharing { parallel: Some(3), queue: 10, ..Sharing::default() };
    let model = Model::builder("mock").sharing(sharing).context(512).open().unwrap();
    assert_eq!((model.engine().max_running(), model.limits().context), (3, 512));
    let streams: Vec<_> =
        (0..8).map(|seed| model.generate("wind").max_tokens(5).seed(seed).stream().unwrap()).collect();
    for stream in streams {
        assert!(stream.wait().unwrap().usage.completion_tokens <= 5);
    }
}

#[test]
fn errors_are_typed_and_give_advice() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path()).offline(true);
    let open = |name: &str| Model::builder(name).store(store.clone()).open().unwrap_err();
    let missing = open("no/such/file.gguf");
    assert!(matches!(missing, Error::NoSuchModel(_)) && missing.advice().is_some(), "{missing}");
    let offline = open("smollm2-135m");
    assert!(
        matches!(offline, Error::Offline(_)) && offline.to_string().contains("ZONDA_OFFLINE"),
        "{offline}"
    );

    let wrong = Model::builder("mock").backend(BackendKind::Native).open().unwrap_err();
    assert!(matches!(wrong, Error::Unavailable(_)), "{wrong}");
    let refused = Model::open_with("mock", OpenOptions { threads: Some(2), ..OpenOptions::default() });
    assert!(refused.unwrap_err().to_string().contains("--threads"));
    let draft = OpenOptions { draft: Some("/no/draft.gguf".into()), ..OpenOptions::default() };
    let file = home.path().join("broken.gguf");
    std::fs::write(&file, "GGUF").unwrap();
    assert!(matches!(Model::open(&file).unwrap_err(), Error::Load(_) | Error::Unavailable(_)));
    assert!(Model::open_with("mock", draft).is_ok(), "the mock drafts for itself");

    let model = mock();
    let request = model.generate("x").temperature(-1.0).send().unwrap_err();
    assert!(matches!(request, Error::Engine(_)) && request.sentence().contains("temperature"), "{request}");
}

#[test]
fn prompts_are_kept_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let place = CacheLocation::File(home.path().join("prompt.kv"));
    let ask = || {
        let model = Model::builder("mock").prompt_cache(place.clone()).open().unwrap();
        model.generate("a long prompt about a warm wind ".repeat(20)).max_tokens(4).seed(1).send().unwrap()
    };
    let (first, second) = (ask(), ask());
    assert_eq!(first.tokens, second.tokens);
    assert!(second.usage.cached_tokens > first.usage.cached_tokens);
}

#[cfg(feature = "async")]
mod asynchronous {
    use super::*;
    use futures_core::Stream as _;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Runs a stream to its end on this thread, which sleeps between events.
    fn collect(stream: zonda::AsyncStream) -> Vec<zonda::Result<Event>> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut stream = pin!(stream);
        let mut events = Vec::new();
        loop {
            match stream.as_mut().poll_next(&mut context) {
                Poll::Ready(Some(event)) => events.push(event),
                Poll::Ready(None) => return events,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn an_async_stream_gives_the_same_events() {
        let options = OpenOptions { mock_step: Some(2), ..OpenOptions::default() };
        let model = Model::open_with("mock", options).unwrap();
        let ask = || model.generate("wind").max_tokens(10).seed(5).ignore_eos();
        let mut text = String::new();
        let mut finished = 0;
        for event in collect(ask().stream_async().unwrap()) {
            match event.unwrap() {
                Event::Tokens { text: piece, .. } => text.push_str(&piece),
                Event::Finished(outcome) => {
                    assert_eq!(outcome.reason, FinishReason::Length);
                    finished += 1;
                }
                _ => {}
            }
        }
        assert_eq!((text, finished), (ask().send().unwrap().text, 1));
    }

    #[test]
    fn a_dropped_async_stream_is_cancelled() {
        let options = OpenOptions { mock_step: Some(20), ..OpenOptions::default() };
        let model = Model::open_with("mock", options).unwrap();
        drop(model.generate("wind").ignore_eos().stream_async().unwrap());
        while model.engine().in_flight() > 0 {
            std::thread::yield_now();
        }
    }
}

/// Needs SmolLM2 in `$ZONDA_TEST_MODELS`.
#[cfg(feature = "native")]
#[test]
fn a_real_model_answers() {
    let Some(folder) = std::env::var_os("ZONDA_TEST_MODELS") else { return };
    let file = std::path::Path::new(&folder).join("smollm2-135m-instruct-q4_1.gguf");
    let model = Model::builder(&file).context(512).open().unwrap();
    assert_eq!((model.name(), model.info().name.as_str()), ("smollm2-135m-instruct-q4_1", "native"));
    let ask = [Message::user("What is the capital of France? Answer with one word.")];
    let answer = model.chat(ask).max_tokens(12).temperature(0.0).send().unwrap();
    assert!(answer.text.contains("Paris"), "{:?}", answer.text);
}
