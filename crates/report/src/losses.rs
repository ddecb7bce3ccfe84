//! The losses of a training run as a picture: one line for their sum, one for each part.

use std::path::Path;

use crate::ReportError;
use crate::frame::write_page;

use anomalens_detectors::training::EpochLog;
use askama::Template;
use askama::filters::HtmlSafe;

use crate::plots::{Axis, Tick, number, svg};

/// Colours that differ in lightness too.
const COLOURS: [&str; 5] = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7"];

/// The plot.
#[derive(Template)]
#[template(path = "losses.svg")]
pub(super) struct LossPlot {
    across: Vec<Tick>,
    up: Vec<Tick>,
    lines: Vec<Line>,
}

impl HtmlSafe for LossPlot {}

struct Line {
    name: String,
    colour: &'static str,
    points: String,
    /// Where its name stands.
    key: usize,
}

impl LossPlot {
    /// Corners of the plotting area in the view box of `losses.svg`.
    const LEFT: f64 = 50.0;
    const RIGHT: f64 = 500.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 250.0;

    /// The plot of `epochs`; none if there are none.
    pub(super) fn new(epochs: &[EpochLog]) -> Option<Self> {
        let (first, last) = (epochs.first()?, epochs.last()?);
        let sum = epochs.iter().map(|epoch| epoch.loss).collect();
        let mut lines: Vec<(String, Vec<f64>)> = vec![("loss".to_owned(), sum)];
        for (i, (name, _)) in first.parts.iter().enumerate() {
            let values = epochs.iter().filter_map(|e| Some(e.parts.get(i)?.1));
            lines.push((name.clone(), values.collect()));
        }
        let all = lines.iter().flat_map(|(_, values)| values).copied();
        let highest = all.fold(f64::MIN_POSITIVE, f64::max);
        let across = Axis {
            from: (first.epoch as f64, Self::LEFT),
            to: (last.epoch.max(first.epoch + 1) as f64, Self::RIGHT),
        };
        let up = Axis {
            from: (0.0, Self::BOTTOM),
            to: (highest, Self::TOP),
        };
        let line = |(i, (name, values)): (usize, (String, Vec<f64>))| {
            let points = epochs.iter().zip(&values);
            let points = points.map(|(epoch, &value)| {
                format!(
                    "{},{}",
                    svg(across.at(epoch.epoch as f64)),
                    svg(up.at(value))
                )
            });
            Line {
                name,
                colour: COLOURS[i % COLOURS.len()],
                points: points.collect::<Vec<_>>().join(" "),
                key: 20 + 16 * i,
            }
        };
        let step = ((across.to.0 - across.from.0) / 10.0).max(1.0);
        Some(Self {
            across: across.ticks(step, number),
            up: up.ticks(highest / 5.0, number),
            lines: lines.into_iter().enumerate().map(line).collect(),
        })
    }
}

/// Draws the losses of a run as an SVG file.
///
/// # Errors
/// [`ReportError::Write`] if the file cannot be written.
pub fn write_loss_curve(path: &Path, epochs: &[EpochLog]) -> Result<(), ReportError> {
    LossPlot::new(epochs).map_or(Ok(()), |plot| write_page(path, &plot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_has_a_line_for_the_loss_and_each_part() {
        let epoch = |epoch, loss| EpochLog {
            epoch,
            loss,
            parts: vec![("image".to_owned(), loss / 2.0)],
            seconds: 1.0,
        };
        assert!(LossPlot::new(&[]).is_none());
        for epochs in [vec![epoch(1, 2.0)], vec![epoch(1, 2.0), epoch(2, 1.0)]] {
            let text = LossPlot::new(&epochs).unwrap().render().unwrap();
            assert_eq!(text.matches("<polyline").count(), 2);
            assert!(!text.contains("NaN"), "{text}");
        }
    }
}
