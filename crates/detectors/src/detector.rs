//! What every method offers once it is made ready.

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;
use serde::{Deserialize, Serialize};

use crate::{DetectorError, Looks, Setup};

/// The usual smoothing of anomaly maps: a Gaussian of standard deviation 4 in a map of side 256, as
/// most papers of the field do it, and in proportion at other sizes.
const SMOOTHING: f64 = 4.0 / 256.0;

/// Which images a detector must see together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each image is scored by itself: batches of any size give the same result.
    Image,
    /// Images are scored against each other, at most so many at once.
    Group(usize),
}

/// A method made ready to score images.
pub trait Detector: Send + Sync {
    /// The method's name in the registry.
    fn method(&self) -> &'static str;

    /// What the images must go through before they come here.
    fn setup(&self) -> &Setup;

    /// Which images must be scored together.
    fn scope(&self) -> Scope;

    /// How often each image goes through the network; [`predict`](crate::predict) averages the
    /// results.
    fn looks(&self) -> Looks {
        Looks::Once
    }

    /// Standard deviation of the Gaussian that smooths maps, as a part of their side.
    fn smoothing(&self) -> f64 {
        SMOOTHING
    }

    /// The names of the normal images that it was fitted on, where they can be taken out again.
    fn shots(&self) -> Vec<&str> {
        vec![]
    }

    /// The score and the map of each image, in the order given.
    ///
    /// # Errors
    /// [`DetectorError`] if the features are not those that [`setup`](Self::setup) asks for, if a
    /// group is too small to be scored, or if one of several classes must be chosen first.
    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError>;

    /// The classes that it is made for one by one; none if it is the same for all.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// The detector for the images of `class`; none if it is the same for all classes.
    ///
    /// # Errors
    /// [`DetectorError::UnknownClass`] if it is made for others.
    fn for_class(&self, _class: &str) -> Result<Option<Box<dyn Detector>>, DetectorError> {
        Ok(None)
    }

    /// Everything that is needed to make the same detector again.
    fn state(&self) -> State;
}

/// An image's result at the resolution of its patches.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The anomaly score of the image: higher is more anomalous. Its unit is the method's own.
    pub score: f32,
    /// The anomaly score of each patch, `rows x columns`.
    pub map: Map,
    /// What patches of normal images score.
    pub range: NormalRange,
}

/// The scores that normal patches get: what to draw as cold, and from where on as hot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NormalRange {
    /// The median.
    pub typical: f32,
    /// A score that normal patches hardly ever exceed.
    pub extreme: f32,
}

impl NormalRange {
    /// The same in units of `unit`.
    pub(crate) fn in_units_of(self, unit: f32) -> Self {
        Self {
            typical: self.typical / unit,
            extreme: self.extreme / unit,
        }
    }

    /// The range of `scores` with the quantile `extreme` of them as its end; zeros if there are
    /// none.
    pub fn of(mut scores: Vec<f32>, extreme: f64) -> Self {
        let mut quantile = |q: f64| {
            let index = (q * scores.len().saturating_sub(1) as f64).round() as usize;
            if scores.is_empty() {
                return 0.0;
            }
            *scores.select_nth_unstable_by(index, f32::total_cmp).1
        };
        Self {
            typical: quantile(0.5),
            extreme: quantile(extreme),
        }
    }
}

/// A detector's learned or stored parts, as they go into a detector file.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The method's configuration.
    pub config: serde_json::Value,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Array>,
}

/// A float32 tensor as plain numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}
