//! What goes on in the machine while it measures: time that a hypervisor takes away, heat, other load.

use crate::record::Conditions;
use crate::record::Warning;
use std::fs;
use std::path::Path;
use sysinfo::System;

/// A machine this hot before the first run, in °C, may slow itself down.
const HOT: f64 = 85.0;
/// More stolen time than this, in percent, is warned of.
const STOLEN_PCT: f64 = 1.0;

/// The machine as it was when the watch began.
pub(crate) struct Watch {
    steal: Option<Steal>,
    celsius: Option<f64>,
    throttles: Option<u64>,
}

impl Watch {
    pub fn begin() -> Watch {
        Watch { steal: Steal::now(), celsius: celsius(&zones()), throttles: throttles() }
    }

    /// What may disturb a measurement that begins now.
    pub fn warning(&self) -> Option<Warning> {
        self.celsius.filter(|&c| c >= HOT).map(|celsius| Warning::Hot { celsius })
    }

    /// What went on since, and what of it is worth a warning.
    pub fn end(self) -> (Conditions, Vec<Warning>) {
        let conditions = Conditions {
            steal_pct: self.steal.zip(Steal::now()).and_then(|(a, b)| Steal::pct(a, b)),
            load1_after: cfg!(unix).then(|| System::load_average().one),
            celsius_before: self.celsius,
            celsius_after: celsius(&zones()),
            throttles: self.throttles.zip(throttles()).map(|(a, b)| b.saturating_sub(a)),
        };
        let stolen = conditions.steal_pct.filter(|&pct| pct > STOLEN_PCT);
        let throttled = conditions.throttles.filter(|&times| times > 0);
        let warnings = stolen.map(|pct| Warning::StolenTime { pct }).into_iter();
        (conditions, warnings.chain(throttled.map(|times| Warning::Throttled { times })).collect())
    }
}

/// The thermal zones' temperatures as Linux gives them, in thousandths of a degree.
fn zones() -> Vec<String> {
    let zone = |i: usize| fs::read_to_string(format!("/sys/class/thermal/thermal_zone{i}/temp")).ok();
    (0..64)
        .map_while(|i| Path::new(&format!("/sys/class/thermal/thermal_zone{i}")).exists().then(|| zone(i)))
        .flatten()
        .collect()
}

/// The hottest of some temperatures, in °C. Sensors that are switched off show 0 or less.
fn celsius(zones: &[String]) -> Option<f64> {
    let degrees = zones.iter().filter_map(|t| t.trim().parse::<f64>().ok()).map(|t| t / 1e3);
    degrees.filter(|&c| c > 0.0 && c < 150.0).reduce(f64::max)
}

/// How often the processor's package was throttled since the system started (Intel).
fn throttles() -> Option<u64> {
    let path = "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count";
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Time the hypervisor took away, against all time, since the system started.
#[derive(Clone, Copy, Debug)]
struct Steal {
    stolen: u64,
    all: u64,
}

impl Steal {
    /// The counters now; `None` where the system has none.
    fn now() -> Option<Steal> {
        Steal::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line of Linux's `/proc/stat`: user nice system idle iowait irq softirq steal …
    fn parse(text: &str) -> Option<Steal> {
        let fields: Vec<u64> = text
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map(|f| f.parse().ok())
            .collect::<Option<_>>()?;
        Some(Steal { stolen: *fields.get(7)?, all: fields.iter().sum() })
    }

    /// What was stolen between two readings, in percent.
    fn pct(before: Steal, after: Steal) -> Option<f64> {
        let all = after.all.checked_sub(before.all).filter(|&n| n > 0)?;
        Some(100.0 * after.stolen.saturating_sub(before.stolen) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = Steal::parse("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1").unwrap();
        let after = Steal::parse("cpu  60 0 20 110 0 0 0 10 0 0\n").unwrap();
        assert_eq!(Steal::pct(before, after), Some(10.0));
        assert_eq!(Steal::pct(before, before), None);
        for bad in ["", "cpu  1 2", "intr 5", "cpu  a b c d e f g h"] {
            assert!(Steal::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_hottest_zone_counts() {
        let zones = ["45000\n", "-274000", "0", "71500", "off"].map(str::to_owned);
        assert_eq!(celsius(&zones), Some(71.5));
        assert_eq!(celsius(&[]), None);
    }

    #[test]
    fn a_hot_machine_is_told() {
        let at = |celsius| Watch { steal: None, celsius, throttles: None }.warning();
        assert_eq!(at(Some(90.0)), Some(Warning::Hot { celsius: 90.0 }));
        assert_eq!((at(Some(40.0)), at(None)), (None, None));
    }
}
