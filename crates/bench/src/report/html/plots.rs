//! The report's plots: distributions of gaps, time lines, roofline.

use super::elements::{colour, legend};
use super::svg::{Axis, Plot, WIDTH};
use crate::analyse::stats::quantile;
use crate::record::figure;
use crate::record::peaks::{Peaks, Rate};
use crate::record::process::LoadReport;
use crate::record::results::Record;
use crate::record::row::{Row, Status};
use crate::record::timeline::Delivery;
use crate::report::figures::SubjectFigures;

/// Maximum points of a drawn time line.
const POINTS: usize = 160;
/// Maximum characters of a name in a plot.
const NAME: usize = 46;
/// Minimum distance of two labels, from base line to base line.
const LINE: f64 = 14.0;
/// Share of the roofline's width reserved for the names of the roofs.
const FREE: f64 = 0.18;
/// Number of bins of a distribution over the whole axis.
const BINS: usize = 96;

fn good_rows(record: &Record, subject: usize) -> impl Iterator<Item = &Row> {
    record.rows.iter().filter(move |r| r.subject == subject && r.status == Status::Ok)
}

/// Gaps between deliveries of all good runs, one ridge per subject on a common logarithmic axis; `None` without any.
pub fn gaps(record: &Record, subjects: &[SubjectFigures<'_>]) -> Option<String> {
    let rows: Vec<(&SubjectFigures<'_>, Vec<f64>)> = subjects
        .iter()
        .filter(|s| !s.synthetic || subjects.iter().all(|s| s.synthetic))
        .map(|s| {
            let lines = good_rows(record, s.index).filter_map(|r| r.timeline.as_ref());
            let mut gaps: Vec<f64> = lines.flat_map(|t| t.gaps_ms()).filter(|g| *g > 0.0).collect();
            gaps.sort_by(f64::total_cmp);
            (s, gaps)
        })
        .filter(|(_, gaps)| gaps.len() > 1)
        .collect();
    // The bulk of the gaps decides the axis; a single hiccup of a second would squeeze it.
    let low = rows.iter().map(|(_, g)| quantile(g, 0.002)).reduce(f64::min)?;
    let high = rows.iter().map(|(_, g)| quantile(g, 0.998)).reduce(f64::max)?;
    const ROW: f64 = 52.0;
    let height = 60.0 + ROW * rows.len() as f64;
    let axis = Axis::log(low, high);
    let mut plot = Plot::new(height, axis, Axis::none(), "ms between tokens (log scale)", "");
    let step = (axis.high / axis.low).ln() / BINS as f64;
    for (i, (s, gaps)) in rows.iter().enumerate() {
        let base = 22.0 + ROW * (i + 1) as f64;
        let mut bins = [0.0f64; BINS];
        for gap in gaps.iter() {
            let at = ((gap / axis.low).ln() / step).floor().clamp(0.0, BINS as f64 - 1.0);
            bins[at as usize] += 1.0;
        }
        let most = bins.iter().copied().fold(1.0, f64::max);
        let (from, to) = (
            bins.iter().position(|b| *b > 0.0).unwrap_or(0),
            bins.iter().rposition(|b| *b > 0.0).unwrap_or(0),
        );
        let at = |bin: f64| axis.low * (step * bin).exp();
        let mut shape = vec![(at(from as f64 - 0.5), 0.0)];
        shape.extend((from..=to).map(|b| (at(b as f64 + 0.5), 30.0 * bins[b] / most)));
        shape.push((at(to as f64 + 1.5), 0.0));
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| quantile(gaps, q));
        let said = format!(
            "{}: p50 {} ms, p90 {} ms, p99 {} ms, {} gaps",
            s.name,
            figure(p50),
            figure(p90),
            figure(p99),
            gaps.len()
        );
        plot.ridge(&shape, base, &colour(s.index), &said);
        for (q, name) in [(p50, "p50"), (p90, "p90"), (p99, "p99")] {
            plot.mark(q, base, 8.0, &format!("{name} {} ms", figure(q)));
        }
        plot.text(2.0, base - 36.0, "start", "strong label", &shortened(&s.name));
        let figures = format!("p50 {} · p99 {}", figure(p50), figure(p99));
        plot.text(WIDTH - 2.0, base - 36.0, "end", "label", &figures);
    }
    Some(plot.finish("Distribution of the gaps between tokens, per backend"))
}

/// A shortened name that leaves room for figures; the tooltip has the full name.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME {
        name.to_owned()
    } else {
        name.chars().take(NAME - 1).chain(['…']).collect()
    }
}

/// Tokens over time of every run of a scenario, one line per run; `None` without any.
pub fn time_lines(record: &Record, subjects: &[SubjectFigures<'_>], scenario: &str) -> Option<String> {
    let rows: Vec<(&Row, &[Delivery])> = record
        .rows
        .iter()
        .filter(|r| r.scenario == scenario && !r.synthetic && r.status == Status::Ok)
        .filter_map(|r| Some((r, r.timeline.as_ref()?.deliveries())))
        .filter(|(_, line)| line.len() > 1)
        .collect();
    let end = rows.iter().filter_map(|(_, line)| line.last()).map(|d| d.0 as f64 / 1e9).reduce(f64::max)?;
    let start =
        rows.iter().filter_map(|(_, line)| line.first()).map(|d| d.0 as f64 / 1e9).reduce(f64::min)?;
    let tokens = |line: &[Delivery]| line.iter().map(|d| f64::from(d.1)).sum::<f64>();
    let most = rows.iter().map(|(_, line)| tokens(line)).reduce(f64::max)?;
    // If backends are far apart, the lines of the fast ones would coincide on a linear axis.
    let firsts_last =
        rows.iter().filter_map(|(_, line)| line.last()).map(|d| d.0 as f64 / 1e9).reduce(f64::min)?;
    let log = end > 8.0 * firsts_last;
    let x = if log { Axis::log(start, end) } else { Axis::linear(end) };
    let label = if log { "seconds since the prompt (log scale)" } else { "seconds since the prompt" };
    let mut plot = Plot::new(230.0, x, Axis::linear(most), label, "tokens");
    for (row, line) in rows {
        let mut sum = 0.0;
        let all: Vec<(f64, f64)> = line
            .iter()
            .map(|d| {
                sum += f64::from(d.1);
                (d.0 as f64 / 1e9, sum)
            })
            .collect();
        let every = all.len().div_ceil(POINTS);
        let last = all.len() - 1;
        let points = all.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| *p);
        let name = subjects.iter().find(|s| s.index == row.subject).map_or("", |s| s.name.as_str());
        let style = format!("fill:none;stroke:{};stroke-width:1.6;stroke-opacity:.8", colour(row.subject));
        plot.line(points, "", &style, &format!("{name}, run {}", row.run));
    }
    Some(plot.finish(&format!("Tokens over time, {scenario}")))
}

/// The place of a result on the roofline: operations per byte, operations per second, prefill or decode.
struct Placed {
    subject: usize,
    intensity: f64,
    ops_per_s: f64,
    decode: bool,
    title: String,
}

/// All results on the machine's roofline; `None` without peaks or costs.
pub fn roofline(record: &Record, subjects: &[SubjectFigures<'_>]) -> Option<String> {
    let peaks = record.roofline.best()?;
    let placed: Vec<Placed> =
        subjects.iter().filter(|s| !s.synthetic).flat_map(|s| place(record, s)).collect();
    let low = placed.iter().map(|p| p.intensity).reduce(f64::min)?;
    let high = placed.iter().map(|p| p.intensity).reduce(f64::max)?;
    let roofs = roofs(&peaks);
    let bandwidth = peaks.read_bytes_per_s.all_threads;
    let top = roofs.iter().map(|r| r.1).fold(0.0, f64::max);
    let least_roof = roofs.iter().map(|r| r.1).fold(f64::INFINITY, f64::min);
    let x = Axis::log((low / 2.0).min(1.0), high.max(4.0 * top / bandwidth));
    // No point overlaps the names.
    let x = Axis { high: x.high * (x.high / x.low).powf(FREE / (1.0 - FREE)), ..x };
    let slowest = placed.iter().map(|p| p.ops_per_s).fold(f64::INFINITY, f64::min);
    let y = Axis::log(slowest.min(bandwidth * x.low), top * 1.6);
    let mut plot =
        Plot::new(320.0, x, y, "operations per byte of weights, keys and values read", "operations/s");
    for (name, peak) in &roofs {
        let corner = peak / bandwidth;
        let points = [(corner.max(x.low), *peak), (x.high, *peak)];
        plot.line(points.into_iter(), "roof", "", &format!("{name}: {} Tops/s", figure(peak / 1e12)));
    }
    for ((name, peak), at) in roofs.iter().zip(spread(roofs.iter().map(|r| plot.at_y(r.1) - 5.0))) {
        plot.text(WIDTH - 12.0, at, "end", "label", &format!("{name} {} T", figure(peak / 1e12)));
    }
    let slope = [(x.low, bandwidth * x.low), (top / bandwidth, top)];
    let said = format!("memory {} GB/s", figure(bandwidth / 1e9));
    plot.line(slope.into_iter(), "roof", "", &said);
    let corner = least_roof / bandwidth;
    let middle = (0.5 * corner).max(x.low);
    let (at_x, at_y) = (plot.at_x(middle), plot.at_y(bandwidth * middle));
    for p in &placed {
        plot.point(p.intensity, p.ops_per_s, p.decode, &colour(p.subject), &p.title);
    }
    // Left of the slope if there is room, otherwise right of it.
    match at_x > WIDTH / 3.0 {
        true => plot.text(at_x, at_y - 10.0, "end", "label", &said),
        false => plot.text(at_x + 10.0, at_y + 10.0, "start", "label", &said),
    }
    let svg = plot.finish("Roofline: operations a second against operations a byte");
    Some(format!("{}{svg}", legend(subjects.iter().filter(|s| placed.iter().any(|p| p.subject == s.index)))))
}

/// The arithmetic peaks, highest first.
fn roofs(peaks: &Peaks) -> Vec<(&'static str, f64)> {
    let bf16 = peaks.bf16_ops_per_s.map(|r: Rate| ("bf16", r.all_threads));
    let fixed = [("int8", peaks.int8_ops_per_s.all_threads), ("f32", peaks.f32_ops_per_s.all_threads)];
    let mut roofs: Vec<_> = fixed.into_iter().chain(bf16).collect();
    roofs.sort_by(|a, b| b.1.total_cmp(&a.1));
    roofs
}

/// Heights of labels from the top, moved down until no two overlap.
fn spread(heights: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut last = f64::NEG_INFINITY;
    let moved = heights.map(|height| {
        last = height.max(last + LINE);
        last
    });
    moved.collect()
}

fn place(record: &Record, s: &SubjectFigures<'_>) -> Vec<Placed> {
    let loads = record.processes.iter().filter(|p| p.subject == s.index);
    let load: Option<&LoadReport> = loads.filter_map(|p| p.load.as_ref()).find(|l| l.backend.device == "cpu");
    let Some(cost) = load.and_then(|l| l.cost) else { return Vec::new() };
    let mut placed = Vec::new();
    for c in &s.cells {
        if let (Some(tps), Some(p), Some(n)) = (&c.decode_tps, c.prompt_tokens, c.generated) {
            let bytes = cost.decode_bytes_at(p as f64 + n as f64 / 2.0);
            let ops = 2.0 * cost.decode_parameters as f64;
            placed.push(Placed {
                subject: s.index,
                intensity: ops / bytes,
                ops_per_s: ops * tps.median,
                decode: true,
                title: format!("{}, decode of {}: {} tokens/s", s.name, c.scenario, figure(tps.median)),
            });
        }
        if let (Some(tps), Some(p)) = (&c.prefill_tps, c.prompt_tokens) {
            // The weights of the layers are read once for the whole prompt.
            let share = cost.prefill_parameters as f64 / cost.decode_parameters.max(1) as f64;
            let bytes = cost.decode_bytes as f64 * share + cost.kv_bytes as f64 * p as f64;
            placed.push(Placed {
                subject: s.index,
                intensity: cost.prefill_ops() * p as f64 / bytes,
                ops_per_s: cost.prefill_ops() * tps.median,
                decode: false,
                title: format!("{}, prefill of {}: {} tokens/s", s.name, c.scenario, figure(tps.median)),
            });
        }
    }
    placed.retain(|p| p.intensity.is_finite() && p.intensity > 0.0 && p.ops_per_s > 0.0);
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_distance() {
        assert_eq!(spread([10.0, 12.0, 60.0, 61.0].into_iter()), [10.0, 24.0, 60.0, 74.0]);
        assert_eq!(spread(std::iter::empty()), Vec::<f64>::new());
        let long = "x".repeat(100);
        assert_eq!((shortened(&long).chars().count(), shortened("native").as_str()), (NAME, "native"));
    }
}
