//! Energy used by the processor packages: RAPL, through Linux's powercap. Each package has a counter of microjoules
//! that wraps at its maximum. Since 2020 only root may read it (CVE-2020-8694).

use crate::files;
use std::fs;
use std::path::{Path, PathBuf};

/// A package's counter and the value at which it wraps, in microjoules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    value: u64,
    range: u64,
}

/// The current counters of the packages; `None` if there are none or they may not be read.
pub fn counters() -> Option<Vec<Counter>> {
    read(Path::new("/sys/class/powercap"))
}

fn read(dir: &Path) -> Option<Vec<Counter>> {
    let mut folders: Vec<_> = fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    folders.sort();
    let package =
        |folder: &&PathBuf| files::line(folder.join("name")).is_some_and(|name| name.starts_with("package-"));
    let counters: Option<Vec<_>> = folders
        .iter()
        .filter(package)
        .map(|f| {
            let range = files::number(f.join("max_energy_range_uj"))?;
            Some(Counter { value: files::number(f.join("energy_uj"))?, range })
        })
        .collect();
    counters.filter(|c| !c.is_empty())
}

/// The energy used between two readings, in joules; `None` if they have different counters.
pub fn joules(then: &[Counter], now: &[Counter]) -> Option<f64> {
    let one = |(then, now): (&Counter, &Counter)| {
        let again = if now.value < then.value { now.range } else { 0 };
        (now.value + again).checked_sub(then.value)
    };
    let sum: Option<u64> = then.iter().zip(now).map(one).sum();
    sum.filter(|_| then.len() == now.len()).map(|microjoules| microjoules as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_of_counters_that_wrap() {
        let dir = tempfile::tempdir().unwrap();
        let domain = |folder: &str, name: &str, value: &str| {
            let folder = dir.path().join(folder);
            fs::create_dir(&folder).unwrap();
            for (file, text) in [("name", name), ("energy_uj", value), ("max_energy_range_uj", "1000000\n")] {
                fs::write(folder.join(file), text).unwrap();
            }
        };
        domain("intel-rapl:0", "package-0\n", "900000\n");
        domain("intel-rapl:0:0", "core\n", "5\n");
        domain("intel-rapl:1", "package-1\n", "7\n");
        let then = read(dir.path()).unwrap();
        assert_eq!(then.len(), 2, "a core's energy is part of its package's");
        let now = [Counter { value: 400_000, ..then[0] }, Counter { value: 1_000_007, ..then[1] }];
        assert_eq!(joules(&then, &now), Some(0.5 + 1.0));
        assert_eq!(joules(&then, &now[..1]), None);
        assert_eq!(read(&dir.path().join("none")), None);
    }
}
