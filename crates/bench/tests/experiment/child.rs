//! The host of the test's child: a mock with the fault that the subject's option names.

use zonda_bench::host::{OnLogits, Reader};
use zonda_bench::record::{Peaks, Rate};
use zonda_bench::{ChildSpec, Host, Opened, Subject};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot, Span, Want};
use zonda_engine::load::ModelSpec;
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::{Engine, EngineConfig, TextProcessor, TokenId};

/// Only sequences of the long scenario reach this length, in tokens.
const ONLY_LONG: usize = 1000;

/// The test's child.
pub struct TestHost;

impl Host for TestHost {
    fn open(&self, spec: &ChildSpec) -> Result<Opened, String> {
        open(spec).map(Opened::from)
    }

    fn text(&self, _: &Subject) -> Result<(Option<TextProcessor>, usize), String> {
        let mock = Mock::new(MockOptions::default());
        Ok((Some(TextProcessor::mock()), mock.spec().vocab_size))
    }

    fn backend(&self, subject: &Subject, _: usize) -> Result<Box<dyn Backend>, String> {
        let mut mock = MockOptions::default();
        match subject.options["child"].as_str() {
            // Another seed is another function.
            "wrong" => mock.seed = 7,
            "abort in gate" => std::process::abort(),
            "nan in gate" => mock.faults = vec![Fault::call(3, FaultKind::Nan)],
            _ => {}
        }
        Ok(Box::new(Mock::new(mock)))
    }

    fn reference(
        &self,
        subject: &Subject,
        sequences: &[Vec<TokenId>],
        look: &mut OnLogits<'_>,
    ) -> Result<String, String> {
        if subject.model == "without reference" {
            return Err("no room for the reference logits".into());
        }
        let mut mock = Mock::new(MockOptions::default());
        let mut logits = Logits::new();
        for tokens in sequences {
            mock.truncate(0, 0).map_err(|e| e.to_string())?;
            let spans = vec![Span { slot: 0, start: 0, tokens, want: Want::All }];
            mock.forward(&Batch { spans }, &mut logits).map_err(|e| e.to_string())?;
            (0..logits.rows()).try_for_each(|row| look(logits.row(row)))?;
        }
        Ok("the mock's own logits".into())
    }

    fn peaks(&self, _: &Subject, _: bool) -> Result<Peaks, String> {
        let rate = Rate { one_core: 1e9, all_threads: 2e9 };
        Ok(Peaks {
            threads: 2,
            instruction_set: "made up".into(),
            read_bytes_per_s: rate,
            read_large_bytes_per_s: None,
            int8_ops_per_s: rate,
            bf16_ops_per_s: None,
            f32_ops_per_s: rate,
        })
    }

    fn reader(&self, subject: &Subject) -> Result<Reader, String> {
        let mut reading = 1e9;
        match subject.model.as_str() {
            "without memory" => Err("no room to read".into()),
            _ => Ok(Box::new(move || {
                reading += 1e9;
                reading
            })),
        }
    }
}

/// Opens the engine of a subject.
fn open(spec: &ChildSpec) -> Result<Engine, String> {
    // A library that prints to stdout must not disturb the protocol.
    println!("loading {}, no offence meant", spec.subject.label());
    let option = spec.subject.options["child"].as_str();
    let mut mock = MockOptions::default();
    let mut text = Some(TextProcessor::mock());
    mock.limits.context = spec.context_needed(text.as_ref());
    let fault = |kind, call| vec![Fault::call(call, kind)];
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
        // The first calls are the prefill of the warm-up.
        "warm-up panic" => mock.faults = fault(FaultKind::Panic, 0),
        "nan" => mock.faults = fault(FaultKind::Nan, 100),
        "hang" => mock.faults = fault(FaultKind::Hang, 100),
        "small" => mock.limits.context = 700,
        "no tokenizer" => text = None,
        _ => {}
    }
    let backend = Faulty { mock: Mock::new(mock), abort: option == "abort in long" };
    Engine::start(move || Ok(Box::new(backend) as _), text, EngineConfig::default())
        .map_err(|e| e.to_string())
}

/// A mock that can crash the whole process.
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
