//! Shared by all reports: subjects with their cells, groups of the ranking, good runs, load times.

use crate::analyse::stats::median;
use crate::record::results::Record;
use crate::record::row::{Row, Status};
use crate::record::statistic::Stats;
use crate::record::summary::{Cell, Rank};

/// A subject of the record: a backend with a model.
pub struct SubjectFigures<'a> {
    /// Index into [`crate::record::BenchConfig::subjects`].
    pub index: usize,
    /// `native · smollm2-135m (gguf, q4_1)`.
    pub name: String,
    /// Its cells, in the plan's order.
    pub cells: Vec<&'a Cell>,
    /// Whether it is the mock.
    pub synthetic: bool,
}

impl SubjectFigures<'_> {
    /// The average of a figure's medians over the finished scenarios (the Avg row of the baseline report).
    pub fn average(&self, pick: impl Fn(&Cell) -> Option<&Stats>) -> Option<f64> {
        let medians: Vec<f64> = self.cells.iter().filter_map(|c| Some(pick(c)?.median)).collect();
        (!medians.is_empty()).then(|| medians.iter().sum::<f64>() / medians.len() as f64)
    }

    /// Peak resident memory over all good runs, in MiB.
    pub fn peak_mb(&self) -> Option<f64> {
        self.cells.iter().filter_map(|c| c.peak_rss_mb.as_ref()).map(|s| s.max).reduce(f64::max)
    }

    /// True if it has a good run.
    pub fn measured(&self) -> bool {
        self.cells.iter().any(|c| c.runs > 0)
    }
}

/// The subjects of a record in the plan's order.
pub fn subjects(record: &Record) -> Vec<SubjectFigures<'_>> {
    let all = record.config.subjects.iter().enumerate();
    all.map(|(index, s)| {
        let cells: Vec<&Cell> = record.summary.iter().filter(|c| c.subject == index).collect();
        let name = s.key(cells.iter().find_map(|c| c.key.quant.clone())).to_string();
        SubjectFigures { index, name, cells, synthetic: s.synthetic }
    })
    .collect()
}

/// The name of a subject in the ranking.
pub fn rank_name(r: &Rank) -> String {
    r.key.to_string()
}

/// The ranking in one group per shape, fastest first.
pub fn groups(record: &Record) -> Vec<Vec<&Rank>> {
    let mut groups: Vec<Vec<&Rank>> = Vec::new();
    for rank in &record.ranking {
        match groups.last_mut().filter(|g| g[0].shape == rank.shape) {
            Some(group) => group.push(rank),
            None => groups.push(vec![rank]),
        }
    }
    groups
}

/// Good runs of real backends.
pub fn good(record: &Record) -> impl Iterator<Item = &Row> {
    record.rows.iter().filter(|r| r.status == Status::Ok && !r.synthetic)
}

/// The median load time of a subject's processes, in ms.
pub fn load_ms(record: &Record, subject: usize) -> Option<f64> {
    let loads = record.processes.iter().filter(|p| p.subject == subject);
    median(&loads.filter_map(|p| Some(p.load.as_ref()?.load_ms)).collect::<Vec<_>>())
}

/// `1 run`, `3 runs`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
