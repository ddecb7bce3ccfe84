//! What every method offers once it is made ready.

use std::collections::BTreeMap;

use anomalens_backbones::{Grid, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Alignment, GeometryError, Map};
use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::components::graph::GraphScored;
use crate::{DetectorError, InputSpec, Note, Tta};

/// The usual smoothing of anomaly maps: a Gaussian of standard deviation 4 in a map of side 256, as
/// most papers of the field do it, and in proportion at other sizes.
const SMOOTHING: f64 = 4.0 / 256.0;

/// Which images a detector must see together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each image is scored by itself: batches of any size give the same result.
    Single,
    /// Images are scored against each other, at most so many at once.
    Joint(usize),
}

/// What a detector asks of the pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The method's name in the registry.
    pub method: &'static str,
    /// What images go through up to their features.
    pub input: InputSpec,
    /// Further ways in which each image is seen; their features come with those of `input`.
    pub further: Vec<InputSpec>,
    /// Which images must be scored together.
    pub scope: Scope,
    /// In which views each image is scored; the pipeline merges the results.
    pub tta: Tta,
    /// How maps are brought to the size of an image.
    pub enlargement: Enlargement,
}

/// How a map of patches is brought to the size of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Enlargement {
    /// What stays in place when it is resized, bilinearly.
    pub alignment: Alignment,
    /// How it is smoothed then.
    pub smoothing: Smoothing,
    /// Whether it is stretched over all of the image, with the margins that the network did not see.
    pub over_margins: bool,
}

/// A Gaussian that smooths maps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Smoothing {
    /// None.
    Off,
    /// Its standard deviation is this part of the map's side.
    OfSide(f64),
    /// Its standard deviation is so many pixels of the original image.
    Pixels(f64),
}

impl Default for Enlargement {
    fn default() -> Self {
        Self {
            alignment: Alignment::Edges,
            smoothing: Smoothing::OfSide(SMOOTHING),
            over_margins: false,
        }
    }
}

impl Enlargement {
    /// The map at `rows x columns` pixels, each of which covers `pixels` pixels of the original
    /// image in width and height.
    ///
    /// # Errors
    /// [`GeometryError`] for a size of zero or an absurd one.
    pub fn apply(
        &self,
        map: &Map,
        rows: usize,
        columns: usize,
        pixels: f64,
    ) -> Result<Map, GeometryError> {
        let sigma = self.sigma(rows, columns, pixels);
        map.resize(rows, columns, self.alignment)?.smooth(sigma)
    }

    /// The Gaussian's standard deviation at that size; 0 smooths nothing.
    pub(crate) fn sigma(&self, rows: usize, columns: usize, pixels: f64) -> f64 {
        match self.smoothing {
            Smoothing::Off => 0.0,
            Smoothing::OfSide(part) => part * (rows as f64 * columns as f64).sqrt(),
            Smoothing::Pixels(sigma) => sigma / pixels,
        }
    }
}

impl Profile {
    /// Images scored by themselves, in one view, smoothed as usual.
    pub(crate) fn new(method: &'static str, input: InputSpec) -> Self {
        Self {
            method,
            input,
            further: vec![],
            scope: Scope::Single,
            tta: Tta::default(),
            enlargement: Enlargement::default(),
        }
    }

    /// The grid of `features`, which must have what [`InputSpec`] asks for in tokens of length
    /// `width`.
    pub(crate) fn check(
        &self,
        features: &ImageFeatures,
        width: usize,
    ) -> Result<Grid, DetectorError> {
        let layers = &self.input.request.layers;
        let count = match self.input.join_cells {
            Some(_) => 1,
            None => layers.len(),
        };
        for &layer in layers.iter().take(count) {
            let map = features
                .map(layer)
                .ok_or(DetectorError::MissingLayer(layer))?;
            if map.dim != width {
                return Err(DetectorError::Width {
                    expected: width,
                    found: map.dim,
                });
            }
        }
        Ok(features.grid())
    }

    /// Refuses tokens in a graph of another length than `width`, as [`check`](Self::check) does.
    pub(crate) fn check_graph(&self, seen: &Outputs, width: usize) -> Result<(), DetectorError> {
        let other = seen.maps.iter().find(|tokens| tokens.dim != width);
        match other {
            None => Ok(()),
            Some(tokens) => Err(DetectorError::Width {
                expected: width,
                found: tokens.dim,
            }),
        }
    }
}

/// A method made ready to score images.
pub trait Detector: Send + Sync {
    /// What it asks of the pipeline.
    fn profile(&self) -> &Profile;

    /// The score and the map of each image, in the order given.
    ///
    /// # Errors
    /// [`DetectorError`] if the features are not those that [`input`](Self::input) asks for, if
    /// images that are scored together are too few, or if one of several classes must be chosen
    /// first.
    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError>;

    /// Adds [`score`](Self::score) to a graph, of what each of its inputs gives: float32, one image
    /// after the other.
    ///
    /// # Errors
    /// [`DetectorError::NoGraph`] with the reason, and what [`score`](Self::score) refuses.
    fn graph(&self, _graph: &mut Graph, _seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        Err(self.no_graph("its scoring is not described as operations of a graph"))
    }

    /// That it cannot be a graph as a whole, and why.
    fn no_graph(&self, reason: &str) -> DetectorError {
        DetectorError::NoGraph {
            method: self.method(),
            reason: reason.to_owned(),
        }
    }

    /// Everything that is needed to make the same detector again.
    fn state(&self) -> State;

    /// The method's name in the registry.
    fn method(&self) -> &'static str {
        self.profile().method
    }

    /// What images go through before they come here.
    fn input(&self) -> &InputSpec {
        &self.profile().input
    }

    /// Which images must be scored together.
    fn scope(&self) -> Scope {
        self.profile().scope
    }

    /// What the user should know about the images that it was just fitted on; not kept in files.
    fn notes(&self) -> &[Note] {
        &[]
    }

    /// The names of the reference images that it was fitted on, where they can be taken out again.
    fn references(&self) -> Vec<&str> {
        vec![]
    }

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
}

/// An image's result at the resolution of its patches.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The anomaly score of the image: higher is more anomalous. Its unit is the method's own.
    pub score: f32,
    /// The anomaly score of each patch, `rows x columns`; one value where the method has no map.
    pub map: Map,
    /// What patches of normal images score.
    pub range: NormalRange,
}

impl Scored {
    /// The result of a method without a map: one value, the score, which is a probability. No place is
    /// drawn as anomalous.
    pub(crate) fn without_map(score: f32) -> Result<Self, DetectorError> {
        Ok(Self {
            score,
            map: Map::new(1, 1, vec![score])?,
            range: NormalRange {
                median: 0.0,
                upper_quantile: 1.0,
            },
        })
    }
}

/// The scores that normal patches get: what to draw as cold, and from where on as hot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct NormalRange {
    /// The median.
    pub median: f32,
    /// A score that normal patches hardly ever exceed.
    pub upper_quantile: f32,
}

impl NormalRange {
    /// As it stands in a detector file.
    pub(crate) fn array(self) -> Array {
        Array::vector(vec![self.median, self.upper_quantile])
    }

    /// Takes it out of the state of a detector of `method`.
    pub(crate) fn take(
        state: &mut State,
        method: &'static str,
        name: &str,
    ) -> Result<Self, DetectorError> {
        match *state.take(method, name)?.values.as_slice() {
            [median, upper_quantile] => Ok(Self {
                median,
                upper_quantile,
            }),
            _ => Err(DetectorError::tensor(method, name)),
        }
    }

    /// The same in units of `unit`.
    pub(crate) fn scaled_by(self, unit: f32) -> Self {
        Self {
            median: self.median / unit,
            upper_quantile: self.upper_quantile / unit,
        }
    }

    /// The range of `scores`, its upper quantile at the probability `upper`; zeros if there are
    /// none.
    pub fn of(mut scores: Vec<f32>, upper: f64) -> Self {
        let mut quantile = |q: f64| {
            let index = (q * scores.len().saturating_sub(1) as f64).round() as usize;
            if scores.is_empty() {
                return 0.0;
            }
            *scores.select_nth_unstable_by(index, f32::total_cmp).1
        };
        Self {
            median: quantile(0.5),
            upper_quantile: quantile(upper),
        }
    }
}

/// A detector's learned or stored parts, as they go into a detector file.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The method's settings.
    pub config: serde_json::Value,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Array>,
}

impl State {
    /// Takes the tensor `name` out.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] of `method` if it is not there.
    pub(crate) fn take(
        &mut self,
        method: &'static str,
        name: &str,
    ) -> Result<Array, DetectorError> {
        let found = self.tensors.remove(name);
        found.ok_or_else(|| DetectorError::tensor(method, name))
    }

    /// Takes the tensor `name` out, if it is there.
    pub(crate) fn take_tensor(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)?.tensor()
    }
}

/// A float32 tensor as plain numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

impl Array {
    /// The values of a float32 tensor.
    pub(crate) fn of(tensor: &Tensor) -> Option<Self> {
        Some(Self {
            shape: tensor.dims().to_vec(),
            values: tensor.flatten_all().ok()?.to_vec1().ok()?,
        })
    }

    /// Those of each variable, by its name.
    pub(crate) fn all_of(
        variables: impl IntoIterator<Item = (String, Var)>,
    ) -> impl Iterator<Item = (String, Self)> {
        let variables = variables.into_iter();
        variables.filter_map(|(name, variable)| Some((name, Self::of(&variable)?)))
    }

    /// A tensor of these values; none if they do not fill its shape.
    pub(crate) fn tensor(self) -> Option<Tensor> {
        Tensor::from_vec(self.values, self.shape, &Device::Cpu).ok()
    }

    /// A tensor of one axis.
    pub(crate) fn vector(values: Vec<f32>) -> Self {
        Self {
            shape: vec![values.len()],
            values,
        }
    }
}
