//! Watches a process from outside: memory, threads, descriptors and what the server says of itself; and judges the trend.

use std::time::Duration;

/// One look at the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the load began.
    pub at: Duration,
    /// Resident memory in MiB.
    pub rss: f64,
    pub threads: usize,
    pub descriptors: usize,
}

/// Looks at a process; `None` where the system has no `/proc`.
pub fn look(id: u32, at: Duration) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<usize>().ok()
    };
    let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    Some(Sample { at, rss: field("VmRSS:")? as f64 / 1024.0, threads: field("Threads:")?, descriptors })
}

/// The value of a metric with all its labels added up; 0 if it is not there.
pub fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let own = lines.filter(|rest| rest.starts_with(['{', ' ']));
    own.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The smallest value that is not below this share of all values; 0 without values.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// First and last third of values with their times, out of `whole`; the first tenth, in which caches fill, is left out.
pub fn thirds(values: &[(Duration, f64)], whole: Duration) -> [Vec<f64>; 2] {
    let begin = whole / 10;
    let third = (whole - begin) / 3;
    let within = |from: Duration, to: Duration| {
        values.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, value)| *value).collect()
    };
    [within(begin, begin + third), within(begin + 2 * third, whole)]
}

/// Memory may grow by 5% and 16 MiB from the first to the last third, in the median of each.
pub fn grows(samples: &[Sample], whole: Duration, of: impl Fn(&Sample) -> f64, slack: f64) -> Option<String> {
    let values: Vec<(Duration, f64)> = samples.iter().map(|sample| (sample.at, of(sample))).collect();
    let [first, last] = thirds(&values, whole).map(|third| percentile(&third, 0.5));
    (last > first * 1.05 + slack).then(|| format!("{first:.1} in the first third, {last:.1} in the last"))
}

/// The 99th percentile may double, and grow by 0.1 s besides.
pub fn slows(firsts: &[(Duration, f64)], whole: Duration) -> Option<String> {
    let [first, last] = thirds(firsts, whole).map(|third| percentile(&third, 0.99));
    (last > 2.0 * first + 0.1).then(|| format!("{first:.3} s in the first third, {last:.3} s in the last"))
}

#[test]
fn leaks_and_slowdowns_are_found() {
    let whole = Duration::from_secs(1000);
    let series = |of: fn(f64) -> f64| -> Vec<(Duration, f64)> {
        (0..1000).map(|at| (Duration::from_secs(at), of(at as f64))).collect()
    };
    let samples = |of: fn(f64) -> f64| -> Vec<Sample> {
        let sample = |(at, rss)| Sample { at, rss, threads: 9, descriptors: 20 };
        series(of).into_iter().map(sample).collect()
    };
    assert_eq!(grows(&samples(|_| 300.0), whole, |s| s.rss, 16.0), None);
    assert_eq!(grows(&samples(|at| if at < 90.0 { at } else { 300.0 }), whole, |s| s.rss, 16.0), None);
    assert!(grows(&samples(|at| 300.0 + at / 10.0), whole, |s| s.rss, 16.0).is_some());
    assert_eq!(slows(&series(|at| 0.2 + at % 7.0 / 100.0), whole), None);
    assert!(slows(&series(|at| 0.2 + at * at / 1e6), whole).is_some());
    assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.99), 3.0);
    assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), 2.0);
    let text = "a{model=\"x\"} 2\na{model=\"y\"} 3\nab 9\na_total 7\n";
    assert_eq!((metric(text, "a"), metric(text, "b")), (5.0, 0.0));
}
