//! Axes of plots, and the histogram of a class's scores as inline SVG. Normal images are drawn
//! upwards and anomalous ones downwards, so that colour is not needed to distinguish them.

use anomalens_metrics::{Confusion, F1Max, f1_max};
use askama::Template;
use askama::filters::HtmlSafe;

use crate::page::three;
use anomalens_evaluation::ClassResult;

/// A mark on an axis.
pub(super) struct Tick {
    pub(super) position: String,
    pub(super) label: String,
}

/// A position as it stands in SVG.
pub(super) fn svg(position: f64) -> String {
    format!("{position:.1}")
}

/// A straight axis: from values to positions.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    /// The value and the position of one end.
    pub(super) from: (f64, f64),
    /// The value and the position of the other.
    pub(super) to: (f64, f64),
}

impl Axis {
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.from.0) / (self.to.0 - self.from.0);
        self.from.1 + share * (self.to.1 - self.from.1)
    }

    /// Marks at round values, at least `step` apart.
    pub(super) fn ticks(&self, step: f64, label: fn(f64, usize) -> String) -> Vec<Tick> {
        let (low, high) = (self.from.0, self.to.0);
        let step = round_step(step);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last)
            .map(|i| i as f64 * step)
            .map(|value| Tick {
                position: svg(self.at(value)),
                label: label(value, decimals),
            })
            .collect()
    }
}

/// The 1, 2 or 5 times a power of ten that is next above `step`.
fn round_step(step: f64) -> f64 {
    let power = 10.0_f64.powf(step.log10().floor());
    let mut factors = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power);
    factors
        .find(|&rounded| rounded >= step)
        .unwrap_or(10.0 * power)
}

pub(super) fn number(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

fn percent(value: f64, decimals: usize) -> String {
    format!("{:.*}%", decimals.saturating_sub(2), 100.0 * value)
}

/// The axes of a plot from 0 to 1 both ways.
pub(super) struct UnitSquare {
    pub(super) across: Axis,
    pub(super) up: Axis,
}

/// As the view boxes of `curve.svg` and `reliability.svg` have it.
pub(super) const UNIT_SQUARE: UnitSquare = UnitSquare {
    across: Axis {
        from: (0.0, 50.0),
        to: (1.0, 330.0),
    },
    up: Axis {
        from: (0.0, 290.0),
        to: (1.0, 10.0),
    },
};

/// Bars of a histogram.
const BARS: usize = 40;

/// Most marks of a histogram's horizontal axis.
const SCORE_TICKS: f64 = 7.0;

/// Most marks of its vertical axes together.
const SHARE_TICKS: f64 = 6.0;

/// The least part of a histogram's height that either label gets.
const LEAST_SIDE: f64 = 0.2;

/// The histogram of the image scores.
#[derive(Template)]
#[template(path = "histogram.svg")]
pub(super) struct HistogramPlot {
    /// Of what the scores are.
    name: String,
    /// Whether normal and anomalous images are distinguished.
    labelled: bool,
    /// Where the upward and the downward axis meet.
    middle: String,
    across_axis: Axis,
    across: Vec<Tick>,
    up: Vec<Tick>,
    down: Vec<Tick>,
    normal: usize,
    anomalous: usize,
    normal_bars: String,
    anomalous_bars: String,
    threshold: Option<Threshold>,
}

/// A threshold as a dashed line.
struct Threshold {
    position: String,
    /// What it is and what it decides.
    note: String,
}

impl HtmlSafe for HistogramPlot {}

impl HistogramPlot {
    /// Corners of the plotting area in the view box of `histogram.svg`.
    const LEFT: f64 = 50.0;
    const RIGHT: f64 = 530.0;
    const TOP: f64 = 30.0;
    const BOTTOM: f64 = 290.0;

    /// The histogram, or why there is none.
    pub(super) fn new(class: &ClassResult) -> Result<Self, String> {
        let (scores, labels) = class.scores();
        let of_label = |wanted: bool| -> Vec<f64> {
            let images = scores
                .iter()
                .zip(&labels)
                .filter(|&(_, &label)| label == wanted);
            images
                .map(|(&score, _)| f64::from(score))
                .filter(|score| score.is_finite())
                .collect()
        };
        let plot = Self::draw(&of_label(false), Some(&of_label(true)), None)?;
        let best = f1_max(&scores, &labels).ok();
        let best = best.and_then(|F1Max { threshold, .. }| {
            let confusion = Confusion::at(&scores, &labels, threshold).ok()?;
            Some((threshold, confusion))
        });
        Ok(Self {
            name: class.class.clone(),
            ..match best {
                Some((threshold, confusion)) => plot.with_threshold(threshold, |value| {
                    let Confusion {
                        true_positives,
                        false_positives,
                        false_negatives,
                        true_negatives,
                    } = confusion;
                    format!(
                        "Dashed line: the threshold {value}, at which F1 is highest. It finds \
                         {true_positives} of {} anomalous images and calls {false_positives} of \
                         {} normal ones anomalous.",
                        true_positives + false_negatives,
                        false_positives + true_negatives,
                    )
                }),
                None => plot,
            }
        })
    }

    /// The histogram of images without labels, or why there is none.
    pub(super) fn unlabelled(scores: &[f32], threshold: Option<f32>) -> Result<Self, String> {
        let finite = scores.iter().map(|&score| f64::from(score));
        let finite: Vec<f64> = finite.filter(|score| score.is_finite()).collect();
        let plot = Self::draw(&finite, None, threshold)?;
        Ok(match threshold {
            Some(threshold) => plot.with_threshold(threshold, |value| {
                format!("Dashed line: the threshold {value}.")
            }),
            None => plot,
        })
    }

    /// The bars and axes, which reach to `reached`; without `anomalous` all bars go upwards.
    fn draw(
        normal: &[f64],
        anomalous: Option<&[f64]>,
        reached: Option<f32>,
    ) -> Result<Self, String> {
        let scores = || normal.iter().chain(anomalous.unwrap_or_default()).copied();
        if scores().next().is_none() {
            return Err("no image has a score".to_owned());
        }
        let reached = reached.filter(|value| value.is_finite()).map(f64::from);
        let all = || scores().chain(reached);
        let (low, high) = (
            all().fold(f64::INFINITY, f64::min),
            all().fold(f64::NEG_INFINITY, f64::max),
        );
        // Equal scores make one bar in the middle.
        let margin = if low < high {
            0.0
        } else {
            0.5 * low.abs().max(1.0)
        };
        let across = Axis {
            from: (low - margin, Self::LEFT),
            to: (high + margin, Self::RIGHT),
        };
        let normal_shares = shares(normal, across);
        let anomalous_shares = shares(anomalous.unwrap_or_default(), across);
        let (up, down) = match anomalous {
            Some(_) => share_axes(&normal_shares, &anomalous_shares),
            None => {
                let largest = normal_shares.iter().copied().fold(0.0, f64::max);
                let axis = |top| Axis {
                    from: (0.0, Self::BOTTOM),
                    to: top,
                };
                (axis((largest, Self::TOP)), axis((0.0, Self::BOTTOM)))
            }
        };
        let share_step = (up.to.0 + down.to.0) / SHARE_TICKS;
        Ok(Self {
            name: String::new(),
            labelled: anomalous.is_some(),
            middle: svg(up.from.1),
            across_axis: across,
            across: across.ticks((across.to.0 - across.from.0) / SCORE_TICKS, number),
            up: up.ticks(share_step, percent),
            down: match anomalous {
                Some(_) => down.ticks(share_step, percent),
                None => vec![],
            },
            normal: normal.len(),
            anomalous: anomalous.unwrap_or_default().len(),
            normal_bars: bars(&normal_shares, up),
            anomalous_bars: bars(&anomalous_shares, down),
            threshold: None,
        })
    }

    /// With a line at `threshold`, if the axis reaches it; `note` says what its value is.
    fn with_threshold(self, threshold: f32, note: impl FnOnce(String) -> String) -> Self {
        let Axis { from, to } = self.across_axis;
        let value = f64::from(threshold);
        let inside = (from.0..=to.0).contains(&value);
        let threshold = inside.then(|| Threshold {
            position: svg(self.across_axis.at(value)),
            note: note(three(value)),
        });
        Self { threshold, ..self }
    }

    /// What the dashed line is.
    pub(super) fn threshold_note(&self) -> Option<&str> {
        Some(&self.threshold.as_ref()?.note)
    }
}

/// The share of `scores` in each bar.
fn shares(scores: &[f64], across: Axis) -> Vec<f64> {
    let (low, high) = (across.from.0, across.to.0);
    let mut shares = vec![0.0; BARS];
    for score in scores {
        let bar = ((score - low) / (high - low) * BARS as f64) as usize;
        shares[bar.min(BARS - 1)] += 1.0 / scores.len() as f64;
    }
    shares
}

/// The vertical axes of normal and anomalous images: of one scale, sharing the height as their
/// largest bars need it.
fn share_axes(normal: &[f64], anomalous: &[f64]) -> (Axis, Axis) {
    let largest = |shares: &[f64]| shares.iter().copied().fold(0.0, f64::max);
    let (up, down) = (largest(normal), largest(anomalous));
    // Neither side vanishes.
    let least = LEAST_SIDE * (up + down);
    let (up, down) = (up.max(least), down.max(least));
    let (top, bottom) = (HistogramPlot::TOP, HistogramPlot::BOTTOM);
    let middle = top + up / (up + down) * (bottom - top);
    (
        Axis {
            from: (0.0, middle),
            to: (up, top),
        },
        Axis {
            from: (0.0, middle),
            to: (down, bottom),
        },
    )
}

/// The bars as an SVG path.
fn bars(shares: &[f64], up: Axis) -> String {
    let width = (HistogramPlot::RIGHT - HistogramPlot::LEFT) / BARS as f64;
    let filled = shares.iter().enumerate().filter(|&(_, &share)| share > 0.0);
    filled
        .map(|(bar, &share)| {
            let left = HistogramPlot::LEFT + bar as f64 * width;
            let (foot, top) = (up.at(0.0), up.at(share));
            format!(
                "M{} {}V{}h{}V{}z",
                svg(left),
                svg(foot),
                svg(top),
                svg(width - 1.0),
                svg(foot)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        for (low, high, expected) in [
            (0.0, 1.0, vec!["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (0.113, 0.187, vec!["0.12", "0.14", "0.16", "0.18"]),
            (-3.0, 42.0, vec!["0", "10", "20", "30", "40"]),
            (
                1.0e6,
                1.5e6,
                vec![
                    "1000000", "1100000", "1200000", "1300000", "1400000", "1500000",
                ],
            ),
        ] {
            let axis = Axis {
                from: (low, 0.0),
                to: (high, 100.0),
            };
            assert_eq!(
                labels(&axis.ticks((high - low) / 5.0, number)),
                expected,
                "{low} to {high}"
            );
        }
    }

    #[test]
    fn every_score_is_in_a_bar() {
        let axis = Axis {
            from: (0.0, 0.0),
            to: (1.0, 100.0),
        };
        let shares = shares(&[0.0, 0.5, 0.5, 1.0], axis);
        assert_eq!(shares.iter().sum::<f64>(), 1.0);
        assert_eq!(
            (shares[0], shares[BARS / 2], shares[BARS - 1]),
            (0.25, 0.5, 0.25)
        );
    }
}
