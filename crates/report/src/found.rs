//! What an engineer asks first: how many defects are found at a rate of false alarms.

use anomalens_evaluation::ClassResult;
use anomalens_metrics::{Confusion, OperatingPoint};

use crate::page::three;

/// A rate of false alarms among normal images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) name: &'static str,
    value: f64,
    /// Normal images of which one is this rate.
    needed: u64,
}

/// The rates of the report.
pub(super) const RATES: [Rate; 3] = [
    Rate {
        name: "1 %",
        value: 0.01,
        needed: 100,
    },
    Rate {
        name: "5 %",
        value: 0.05,
        needed: 20,
    },
    Rate {
        name: "10 %",
        value: 0.1,
        needed: 10,
    },
];

/// The defects that are found at a rate.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) found: u64,
    pub(super) anomalous: u64,
    pub(super) alarms: u64,
    pub(super) normal: u64,
    /// From which score on an image is called anomalous; none for several classes.
    threshold: Option<f32>,
    /// The normal images that the rate needs, where there are fewer.
    needed: Option<u64>,
    /// Whether it is the sum over several classes.
    is_sum: bool,
    /// Whether images of both labels have scores.
    pub(super) is_defined: bool,
}

impl Found {
    pub(super) fn of_class(class: &ClassResult, rate: Rate) -> Self {
        let (scores, labels) = class.scores();
        let point = OperatingPoint::at_false_positive_rate(&scores, &labels, rate.value);
        let confusion = point.as_ref().ok().map(|point| point.confusion);
        let Confusion {
            true_positives,
            false_positives,
            false_negatives,
            true_negatives,
        } = confusion.unwrap_or(Confusion {
            true_positives: 0,
            false_positives: 0,
            false_negatives: class.anomalous as u64,
            true_negatives: class.normal as u64,
        });
        let (anomalous, normal) = (
            true_positives + false_negatives,
            false_positives + true_negatives,
        );
        Self {
            found: true_positives,
            anomalous,
            alarms: false_positives,
            normal,
            threshold: point.ok().map(|point| point.threshold),
            needed: (normal < rate.needed).then_some(rate.needed),
            is_sum: false,
            is_defined: confusion.is_some() && anomalous > 0 && normal > 0,
        }
    }

    /// The sums over classes, rate by rate.
    pub(super) fn together<'f>(classes: impl Iterator<Item = &'f Vec<Self>>) -> Vec<Self> {
        classes
            .cloned()
            .reduce(|sums, class| sums.into_iter().zip(class).map(Self::plus).collect())
            .unwrap_or_default()
    }

    fn plus((a, b): (Self, Self)) -> Self {
        Self {
            found: a.found + b.found,
            anomalous: a.anomalous + b.anomalous,
            alarms: a.alarms + b.alarms,
            normal: a.normal + b.normal,
            threshold: None,
            needed: a.needed.or(b.needed),
            is_sum: true,
            is_defined: a.is_defined && b.is_defined,
        }
    }

    /// What the figure rests on.
    pub(super) fn basis(&self) -> String {
        let Self {
            alarms,
            normal,
            needed,
            threshold,
            is_sum,
            ..
        } = self;
        let threshold =
            threshold.map(|threshold| format!(", score {} or higher", three(threshold.into())));
        let alarms = match alarms {
            0 => "no false alarm".to_owned(),
            1 => "1 false alarm".to_owned(),
            alarms => format!("{alarms} false alarms"),
        };
        let few = match (needed, is_sum) {
            (None, _) => String::new(),
            (Some(needed), false) => {
                format!("; too few normal images for this rate, which needs {needed}")
            }
            (Some(needed), true) => {
                format!("; too few normal images in some class, this rate needs {needed} in each")
            }
        };
        format!(
            "{alarms} in {normal} normal images{}{few}",
            threshold.unwrap_or_default()
        )
    }
}
