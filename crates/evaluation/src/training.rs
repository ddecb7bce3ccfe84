//! Labelled data sets as something to learn from.

use std::fmt;
use std::str::FromStr;

use anomalens_datasets::{DataSet, Label, Sample};
use anomalens_detectors::training::TrainingSample;

use crate::run::source;

/// One of several equal parts of a class's images, distributed in turn.
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

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.parts)
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

/// The test images of `data`, without those of the part `leave_out`; the normal images that are
/// set apart for training too if `all` are wanted.
pub fn training_samples(data: &DataSet, leave_out: Option<Fold>, all: bool) -> Vec<TrainingSample> {
    let samples = data.classes.iter().flat_map(|class| {
        let kept = move |(index, sample)| {
            let left = leave_out.is_some_and(|fold| fold.holds(index));
            (!left).then_some(sample)
        };
        let train = data.train_normals(class).filter(move |_| all);
        train.chain(data.test(class).enumerate().filter_map(kept))
    });
    samples.map(training_sample).collect()
}

fn training_sample(sample: &Sample) -> TrainingSample {
    TrainingSample {
        source: source(sample),
        class: sample.class.clone(),
        anomalous: sample.label == Label::Anomalous,
        mask: sample.mask.clone(),
    }
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
}
