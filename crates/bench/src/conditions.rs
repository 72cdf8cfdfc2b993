//! Conditions on the machine during the measurement: time stolen by a hypervisor, heat, other load.

use crate::record::Conditions;
use crate::record::Warning;
use zonda_machine::heat;
use zonda_machine::load::{self, Steal};

/// A machine this hot before the first run, in °C, may throttle.
const HOT: f64 = 85.0;
/// More stolen time than this, in percent, causes a warning.
const STOLEN_PCT: f64 = 1.0;

/// The state of the machine when watching began.
pub(crate) struct Watch {
    steal: Option<Steal>,
    celsius: Option<f64>,
    throttles: Option<u64>,
}

impl Watch {
    pub fn begin() -> Watch {
        Watch { steal: Steal::now(), celsius: heat::celsius(), throttles: heat::throttles() }
    }

    /// Warnings about possible disturbances of a measurement that begins now.
    pub fn warning(&self) -> Option<Warning> {
        self.celsius.filter(|&c| c >= HOT).map(|celsius| Warning::Hot { celsius })
    }

    /// The conditions since then, and the resulting warnings.
    pub fn end(self) -> (Conditions, Vec<Warning>) {
        let conditions = Conditions {
            steal_pct: self.steal.zip(Steal::now()).and_then(|(a, b)| Steal::pct(a, b)),
            load1_after: load::load1(),
            celsius_before: self.celsius,
            celsius_after: heat::celsius(),
            throttles: self.throttles.zip(heat::throttles()).map(|(a, b)| b.saturating_sub(a)),
        };
        let stolen = conditions.steal_pct.filter(|&pct| pct > STOLEN_PCT);
        let throttled = conditions.throttles.filter(|&times| times > 0);
        let warnings = stolen.map(|pct| Warning::StolenTime { pct }).into_iter();
        (conditions, warnings.chain(throttled.map(|times| Warning::Throttled { times })).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_machine_is_reported() {
        let at = |celsius| Watch { steal: None, celsius, throttles: None }.warning();
        assert_eq!(at(Some(90.0)), Some(Warning::Hot { celsius: 90.0 }));
        assert_eq!((at(Some(40.0)), at(None)), (None, None));
    }
}
