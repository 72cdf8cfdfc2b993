//! [`Odd`]: a mock with one of its calls replaced.

use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot};
use zonda_engine::load::ModelSpec;
use zonda_engine::mock::{Mock, MockOptions};
use zonda_engine::{Engine, EngineConfig};

type Forward = dyn FnMut(&mut Mock, &Batch<'_>, &mut Logits) -> Result<(), BackendError>;

/// A mock whose calls can be replaced.
pub struct Odd {
    mock: Mock,
    pub truncate: fn(&mut Mock, Slot, usize) -> Result<usize, BackendError>,
    pub forward: Box<Forward>,
}

impl Odd {
    /// A mock of which nothing is replaced yet.
    pub fn new(options: MockOptions) -> Odd {
        Odd { mock: Mock::new(options), truncate: Mock::truncate, forward: Box::new(Mock::forward) }
    }

    /// An engine on a mock that `change` made odd.
    pub fn start(options: MockOptions, change: impl FnOnce(&mut Odd) + Send + 'static) -> Engine {
        let open = move || {
            let mut odd = Odd::new(options);
            change(&mut odd);
            Ok(Box::new(odd) as _)
        };
        Engine::start(open, None, EngineConfig::default()).expect("it opens")
    }
}

impl Backend for Odd {
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
        (self.forward)(&mut self.mock, batch, out)
    }
    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        (self.truncate)(&mut self.mock, slot, len)
    }
    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.mock.share_prefix(from, to, len)
    }
}
