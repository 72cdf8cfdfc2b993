//! Draws axes, marks and paths as SVG. Colours are the page's CSS variables, so that dark mode and print apply to plots too.

use super::elements::escape;
use crate::record::figure;
use std::fmt::Write;

/// Width of every plot in plot units; the page scales it to the card.
pub const WIDTH: f64 = 480.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 42.0;

/// An axis: its range, and whether it is logarithmic.
#[derive(Clone, Copy)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
}

impl Axis {
    /// From 0 to a little above `high`.
    pub fn linear(high: f64) -> Axis {
        Axis { low: 0.0, high: if high > 0.0 { high * 1.03 } else { 1.0 }, log: false }
    }

    /// Logarithmic, with some room on both sides.
    pub fn log(low: f64, high: f64) -> Axis {
        let low = if low > 0.0 { low } else { 1e-6 };
        Axis { low: low / 1.25, high: high.max(low * 1.5) * 1.25, log: true }
    }

    /// An axis without grid and labels.
    pub fn none() -> Axis {
        Axis { low: 0.0, high: 0.0, log: false }
    }

    /// The position of a value, 0 to 1; values outside the range are clamped.
    fn place(self, value: f64) -> f64 {
        let at = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        at.clamp(0.0, 1.0)
    }

    /// Round values within the range: 1, 2 and 5 times powers of ten, or only the powers on a wide logarithmic axis.
    fn ticks(self) -> Vec<f64> {
        if self.high <= self.low {
            return Vec::new();
        }
        if self.log {
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let wide = (self.high / self.low).log10();
            let steps: &[f64] = if wide > 3.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let every = if wide > 7.0 { 2 } else { 1 };
            let all =
                (first..=last).step_by(every).flat_map(|p| steps.iter().map(move |s| s * 10f64.powi(p)));
            return all.filter(|t| *t >= self.low && *t <= self.high).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|t| *t <= self.high).take(12).collect()
    }
}

/// A plot under construction.
pub struct Plot {
    body: String,
    x: Axis,
    y: Axis,
    height: f64,
}

impl Plot {
    /// Draws axes with grid and labels. `y_label` is above the axis, so that it need not be rotated.
    pub fn new(height: f64, x: Axis, y: Axis, x_label: &str, y_label: &str) -> Plot {
        let mut plot = Plot { body: String::new(), x, y, height };
        let (right, bottom) = (WIDTH - RIGHT, height - BOTTOM);
        for tick in y.ticks() {
            let at = plot.at_y(tick);
            let _ = write!(
                plot.body,
                "<line class=\"grid-line\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            plot.text(LEFT - 6.0, at + 4.0, "end", "", &short(tick));
        }
        for tick in x.ticks() {
            let at = plot.at_x(tick);
            let _ = write!(
                plot.body,
                "<line class=\"grid-line\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
            );
            plot.text(at, bottom + 18.0, "middle", "", &short(tick));
        }
        let _ = write!(
            plot.body,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"
        );
        plot.text((LEFT + right) / 2.0, height - 4.0, "middle", "", x_label);
        plot.text(2.0, 11.0, "start", "", y_label);
        plot
    }

    pub fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    pub fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.place(value) * (self.height - TOP - BOTTOM)
    }

    /// Text at a position in plot units.
    pub fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// A line through points.
    pub fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, class: &str, style: &str, title: &str) {
        let mut path = String::new();
        for (i, (x, y)) in points.enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, self.at_x(x), self.at_y(y));
        }
        let title = title_of(title);
        let _ = write!(self.body, "<path class=\"{class}\" d=\"{path}\" style=\"{style}\">{title}</path>");
    }

    /// A filled shape on a base line, with heights in plot units.
    pub fn ridge(&mut self, points: &[(f64, f64)], base: f64, colour: &str, title: &str) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let mut path = format!("M{:.1} {base:.1}", self.at_x(first.0));
        for (x, height) in points {
            let _ = write!(path, "L{:.1} {:.1}", self.at_x(*x), base - height);
        }
        let _ = write!(path, "L{:.1} {base:.1}Z", self.at_x(last.0));
        let title = title_of(title);
        let _ = write!(
            self.body,
            "<path d=\"{path}\" style=\"fill:{colour};fill-opacity:.35;stroke:{colour};stroke-width:1.2\">{title}</path>"
        );
    }

    /// An upright mark across a ridge.
    pub fn mark(&mut self, x: f64, base: f64, height: f64, title: &str) {
        let (at, top) = (self.at_x(x), base - height);
        let title = title_of(title);
        let _ = write!(
            self.body,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{base:.1}\" style=\"stroke:var(--ink)\">{title}</line>"
        );
    }

    /// A round or square point.
    pub fn point(&mut self, x: f64, y: f64, round: bool, colour: &str, title: &str) {
        let (x, y, title) = (self.at_x(x), self.at_y(y), title_of(title));
        let style = format!("fill:{colour};stroke:var(--card);stroke-width:1.2");
        let _ = if round {
            write!(
                self.body,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" style=\"{style}\">{title}</circle>"
            )
        } else {
            let (x, y) = (x - 4.5, y - 4.5);
            write!(
                self.body,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"9\" height=\"9\" style=\"{style}\">{title}</rect>"
            )
        };
    }

    /// The SVG; screen readers read `title`.
    pub fn finish(self, title: &str) -> String {
        let (title, height) = (escape(title), self.height);
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{}</svg>",
            self.body
        )
    }
}

fn title_of(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<title>{}</title>", escape(text)) }
}

/// A tick's label: `0.5`, `20`, `5k`, `2T`.
fn short(value: f64) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= unit {
            return format!("{}{name}", trim(value / unit));
        }
    }
    trim(value)
}

fn trim(value: f64) -> String {
    let text = figure(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(Axis { low: 0.0, high: 10.3, log: false }.ticks(), [0.0, 5.0, 10.0]);
        assert_eq!(Axis { low: 0.8, high: 30.0, log: true }.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(Axis::log(1e-4, 1e6).ticks().len() < 9);
        assert_eq!(["0", "0.5", "20", "5k", "2T"], [0.0, 0.5, 20.0, 5e3, 2e12].map(short)[..]);
    }

    #[test]
    fn odd_ranges_give_finite_places() {
        for axis in [Axis::linear(0.0), Axis::log(0.0, 0.0), Axis::log(5.0, 5.0)] {
            for value in [0.0, 5.0, 1e9] {
                let at = axis.place(value);
                assert!((0.0..=1.0).contains(&at), "{at}");
            }
        }
    }
}
