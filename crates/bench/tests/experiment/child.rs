//! What the test's child opens: a mock, with the fault that the subject's option names.

use zonda_bench::ChildSpec;
use zonda_engine::forward::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot};
use zonda_engine::load::ModelSpec;
use zonda_engine::{Engine, EngineConfig, Text};

/// Only the long scenario's sequences get this long, in tokens.
const ONLY_LONG: usize = 1000;

/// Opens the engine of a subject.
pub fn open(spec: &ChildSpec) -> Result<Engine, String> {
    // A library that prints to stdout must not disturb the protocol.
    println!("loading {}, no offence meant", spec.subject.label());
    let option = spec.subject.options["child"].as_str();
    let mut mock = MockOptions::default();
    let mut text = Some(Text::mock());
    mock.limits.context = spec.context_needed(text.as_ref());
    let fault = |kind, call| Some(Fault { call, kind });
    match option {
        "load error" => return Err("tensor blk.3 is missing".into()),
        "load abort" => std::process::abort(),
        "load exit" => {
            eprintln!("something went wrong\nthe licence file is upside down\n");
            std::process::exit(3);
        }
        "load hang" => loop {
            std::thread::park();
        },
        // The first calls are the warm-up's prefill.
        "warm-up panic" => mock.fault = fault(FaultKind::Panic, 0),
        "nan" => mock.fault = fault(FaultKind::Nan, 100),
        "hang" => mock.fault = fault(FaultKind::Hang, 100),
        "small" => mock.limits.context = 700,
        "no tokenizer" => text = None,
        _ => {}
    }
    let backend = Faulty { mock: Mock::new(mock), abort: option == "abort in long" };
    Engine::start(move || Ok(Box::new(backend) as _), text, EngineConfig::default())
        .map_err(|e| e.to_string())
}

/// A mock that can take the whole process down with it.
struct Faulty {
    mock: Mock,
    abort: bool,
}

impl Backend for Faulty {
    fn info(&self) -> BackendInfo {
        self.mock.info()
    }
    fn spec(&self) -> &ModelSpec {
        self.mock.spec()
    }
    fn limits(&self) -> Limits {
        self.mock.limits()
    }
    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        if self.abort && batch.spans.iter().any(|s| s.start >= ONLY_LONG) {
            eprintln!("GGML_ASSERT(n_past < n_ctx) failed");
            std::process::abort();
        }
        self.mock.forward(batch, out)
    }
    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.mock.truncate(slot, len)
    }
    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.mock.share_prefix(from, to, len)
    }
}
