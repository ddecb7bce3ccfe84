//! Labelled data sets as something to learn from, and what a run's losses look like.

use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;

use anomalens_datasets::{DataSet, Label, MaskSource, Sample};
use anomalens_detectors::training::{EpochLog, TrainingMask, TrainingSample};
use anomalens_vision::write_atomic;

use crate::EvaluationError;
use crate::run::source;

/// One of several equal parts of a class's images, dealt out in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// Which, from 1.
    part: usize,
    /// Of how many.
    parts: usize,
}

impl Fold {
    /// Whether the sample number `index` of its class belongs to it.
    pub fn holds(self, index: usize) -> bool {
        index % self.parts + 1 == self.part
    }
}

impl FromStr for Fold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
        match numbers {
            Some((part, parts)) if parts >= 2 && (1..=parts).contains(&part) => {
                Ok(Self { part, parts })
            }
            _ => Err("write it as K/N, such as 1/2: part K of N >= 2".to_owned()),
        }
    }
}

/// The test images of `data`, without those of the part `leave_out`.
pub fn training_samples(data: &DataSet, leave_out: Option<Fold>) -> Vec<TrainingSample> {
    let samples = data.classes.iter().flat_map(|class| {
        let kept = move |(index, sample)| {
            let left = leave_out.is_some_and(|fold| fold.holds(index));
            (!left).then_some(sample)
        };
        data.test(class).enumerate().filter_map(kept)
    });
    samples.map(training_sample).collect()
}

fn training_sample(sample: &Sample) -> TrainingSample {
    TrainingSample {
        source: source(sample),
        anomalous: sample.label == Label::Anomalous,
        mask: match &sample.mask {
            MaskSource::File(path) => TrainingMask::File(path.clone()),
            MaskSource::Empty => TrainingMask::Empty,
            MaskSource::Absent => TrainingMask::Unknown,
        },
    }
}

/// Size of the loss curve's picture, and of its margins.
const SIZE: (f64, f64) = (640.0, 320.0);
const MARGIN: f64 = 40.0;

/// Draws the losses of a run, one line for the whole and one for each part, as an SVG file.
///
/// # Errors
/// [`EvaluationError::Write`] if the file cannot be written.
pub fn write_loss_curve(path: &Path, epochs: &[EpochLog]) -> Result<(), EvaluationError> {
    write_atomic(path, loss_curve(epochs).as_bytes()).map_err(|source| EvaluationError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Names of colours that differ in lightness too.
const COLOURS: [&str; 5] = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7"];

fn loss_curve(epochs: &[EpochLog]) -> String {
    let mut lines: Vec<(&str, Vec<f64>)> =
        vec![("loss", epochs.iter().map(|epoch| epoch.loss).collect())];
    if let Some(first) = epochs.first() {
        for (i, (name, _)) in first.parts.iter().enumerate() {
            let values = epochs
                .iter()
                .filter_map(|epoch| Some(epoch.parts.get(i)?.1));
            lines.push((name, values.collect()));
        }
    }
    let highest = lines
        .iter()
        .flat_map(|(_, values)| values)
        .copied()
        .fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = SIZE;
    let x = |i: usize| {
        let share = i as f64 / epochs.len().saturating_sub(1).max(1) as f64;
        MARGIN + share * (width - 4.0 * MARGIN)
    };
    let y = |value: f64| height - MARGIN - value / highest * (height - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>Loss after each epoch</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    // Writing into a string does not fail.
    for value in [0.0, highest / 2.0, highest] {
        let y = y(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {y:.1}H{:.1}\" stroke=\"#cccccc\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>",
            width - 3.0 * MARGIN,
            MARGIN - 4.0,
            y + 4.0
        );
    }
    for (i, (name, values)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(epoch, value)| format!("{:.1},{:.1}", x(epoch), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            width - 3.0 * MARGIN + 8.0,
            MARGIN + 16.0 * i as f64
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">epochs 1 to {}</text>\n</svg>",
        width / 2.0 - MARGIN,
        height - MARGIN / 3.0,
        epochs.len()
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds() {
        for (text, held) in [
            ("1/2", Some(vec![0, 2, 4])),
            ("2/2", Some(vec![1, 3])),
            ("3/3", Some(vec![2])),
            ("0/2", None),
            ("3/2", None),
            ("1/1", None),
            ("half", None),
        ] {
            let fold: Option<Fold> = text.parse().ok();
            let found = fold.map(|fold| (0..5).filter(|&i| fold.holds(i)).collect::<Vec<_>>());
            assert_eq!(found, held, "{text}");
        }
    }

    #[test]
    fn the_curve_has_a_line_for_the_loss_and_each_part() {
        let epoch = |epoch, loss| EpochLog {
            epoch,
            loss,
            parts: vec![("image".to_owned(), loss / 2.0)],
            seconds: 1.0,
        };
        for epochs in [vec![epoch(1, 2.0)], vec![epoch(1, 2.0), epoch(2, 1.0)]] {
            let svg = loss_curve(&epochs);
            assert_eq!(svg.matches("<polyline").count(), 2);
            assert!(!svg.contains("NaN"), "{svg}");
        }
    }
}
