//! What cells say together: means over seeds, how far they vary with the images, and whether two
//! methods differ.

use anomalens_metrics::{ImageMetric, Interval, bootstrap_values, delong};
use serde::Serialize;

use crate::cell::Cell;

/// Draws of the bootstrap.
const RESAMPLES: u32 = 1000;

/// Confidence of intervals.
const CONFIDENCE: f64 = 0.95;

/// Seed of the bootstrap's draws.
const SEED: u32 = 0;

/// Mean and sample standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The deviation; none of a single value.
    pub deviation: Option<f64>,
}

impl Spread {
    /// That of `values`; none if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0)).sqrt();
        (!values.is_empty()).then_some(Self {
            mean,
            deviation: (values.len() > 1).then_some(deviation),
        })
    }
}

/// Two methods on the same images of a class: DeLong's paired test of their image AUROCs, not
/// corrected for how many tests there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The data set.
    pub data: String,
    /// The class.
    pub class: String,
    /// The methods, with their shots.
    pub methods: [String; 2],
    /// The seed of their shots, the first that both have.
    pub seed: u32,
    /// Their AUROCs.
    pub auroc: [f64; 2],
    /// Probability of a difference of this size, either way, if there were none.
    pub p_value: f64,
}

/// The test between two cells of one class; none where it is not defined, for images of one kind.
pub(crate) fn compare(first: &Cell, second: &Cell) -> Option<Comparison> {
    let ids = |cell: &Cell| -> Vec<String> { cell.images.iter().map(|i| i.id.clone()).collect() };
    if ids(first) != ids(second) {
        return None;
    }
    let test = delong(&labels(first), &scores(first), &scores(second)).ok()?;
    Some(Comparison {
        data: first.name.data.clone(),
        class: first.name.class.clone(),
        methods: [first, second].map(|cell| cell.name.entry()),
        seed: first.name.seed.max(second.name.seed),
        auroc: test.auroc,
        p_value: test.p_value,
    })
}

/// The bootstrap interval of the mean image AUROC over seeds and classes, the same images being drawn
/// for each seed: images vary, not normal images. None where it is not defined.
pub(crate) fn interval(cells: &[&Cell]) -> Option<[f64; 2]> {
    let mut sums = vec![0.0; RESAMPLES as usize];
    for cell in cells {
        let (scores, labels) = (scores(cell), labels(cell));
        let values = bootstrap_values(&scores, &labels, ImageMetric::Auroc, RESAMPLES, SEED);
        for (sum, value) in sums.iter_mut().zip(values.ok()?) {
            *sum += value / cells.len() as f64;
        }
    }
    let Interval { low, high } = Interval::of_values(sums, CONFIDENCE).ok()?;
    Some([low, high])
}

fn scores(cell: &Cell) -> Vec<f32> {
    cell.images.iter().map(|image| image.score).collect()
}

fn labels(cell: &Cell) -> Vec<bool> {
    cell.images.iter().map(|image| image.anomalous).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cell::{CellName, ImageScore};
    use anomalens_evaluation::Metrics;

    /// A cell whose last two images are anomalous.
    fn cell(method: &str, scores: &[f32]) -> Cell {
        let image = |(i, &score): (usize, &f32)| ImageScore {
            id: i.to_string(),
            anomalous: i + 2 >= scores.len(),
            score,
        };
        Cell {
            name: CellName {
                data: "nuts".to_owned(),
                class: "nut".to_owned(),
                method: method.to_owned(),
                shots: None,
                seed: 0,
                settings: Value::Null,
            },
            metrics: Metrics::default(),
            undefined: vec![],
            failed: 0,
            seconds: 0.0,
            images: scores.iter().enumerate().map(image).collect(),
        }
    }

    #[test]
    fn methods_are_compared_on_the_same_images_alone() {
        let good = cell("good", &[0.1, 0.2, 0.3, 0.8, 0.9]);
        let poor = cell("poor", &[0.9, 0.2, 0.1, 0.3, 0.6]);
        let test = compare(&good, &poor);
        let found = test.map(|test| (test.methods, test.auroc));
        let names = ["good", "poor"].map(str::to_owned);
        assert_eq!(found, Some((names, [1.0, 4.0 / 6.0])));
        assert_eq!(compare(&good, &cell("fewer", &[0.1, 0.2, 0.8, 0.9])), None);
        assert_eq!(compare(&good, &cell("all bad", &[0.1, 0.2])), None);
    }

    #[test]
    fn an_interval_holds_the_mean_over_seeds() {
        let good = cell("good", &[0.1, 0.2, 0.3, 0.8, 0.9]);
        let poor = cell("poor", &[0.9, 0.2, 0.1, 0.3, 0.6]);
        assert_eq!(interval(&[&good]), Some([1.0, 1.0]));
        let [low, high] = interval(&[&good, &poor]).unwrap_or_default();
        assert!(
            (0.5..5.0 / 6.0).contains(&low) && high > 5.0 / 6.0,
            "{low} {high}"
        );
        assert_eq!(interval(&[&cell("all bad", &[0.1, 0.2])]), None);
    }

    #[test]
    fn spreads() {
        let of = |mean, deviation| Some(Spread { mean, deviation });
        for (values, expected) in [
            (&[][..], None),
            (&[0.5], of(0.5, None)),
            (&[1.0, 2.0, 3.0], of(2.0, Some(1.0))),
        ] {
            assert_eq!(Spread::of(values), expected, "{values:?}");
        }
    }
}
