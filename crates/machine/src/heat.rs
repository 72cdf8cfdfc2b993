//! Temperature and throttling of the processor. Linux only.

use crate::files;
use std::path::Path;

/// The temperature of the hottest thermal zone, in °C; `None` if unknown.
pub fn celsius() -> Option<f64> {
    hottest(&zones())
}

/// How often the processor package has throttled since the system started (Intel); `None` if unknown.
pub fn throttles() -> Option<u64> {
    files::number("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
}

/// The temperatures of the thermal zones in thousandths of a degree, as in Linux.
fn zones() -> Vec<String> {
    let folder = |i: usize| format!("/sys/class/thermal/thermal_zone{i}");
    let exists = |i: &usize| Path::new(&folder(*i)).exists();
    (0..64).take_while(exists).filter_map(|i| files::line(format!("{}/temp", folder(i)))).collect()
}

/// The highest of some temperatures, in °C. Disabled sensors report 0 or less.
fn hottest(zones: &[String]) -> Option<f64> {
    let degrees = zones.iter().filter_map(|t| t.trim().parse::<f64>().ok()).map(|t| t / 1e3);
    degrees.filter(|&c| c > 0.0 && c < 150.0).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_zone_counts() {
        let zones = ["45000\n", "-274000", "0", "71500", "off"].map(str::to_owned);
        assert_eq!(hottest(&zones), Some(71.5));
        assert_eq!(hottest(&[]), None);
    }
}
