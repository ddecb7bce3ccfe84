//! PaDiM (Defard et al., ICPR 2020 workshops): at each place of an image the features of normal images have
//! a normal distribution; the anomaly score of a place is the Mahalanobis distance from it.
//!
//! Channels are taken at random once, by Python's generator as in the published code, so that they are the
//! same. The distributions are in `components/gaussian.rs`: of each covariance the Cholesky factor is kept,
//! computed in float64, in place of the inverse.
//!
//! Two implementations are followed, the one that most papers use (xiahaifeng1995 at 616004b) and
//! anomalib's (2.6.1.dev0). They differ in how images are cut, in what is added to the diagonals and in how
//! maps are smoothed. The first scales scores by the lowest and the highest of all test images; ours are
//! distances.

#[cfg(test)]
mod goldens;
mod graph;
mod settings;

use anomalens_backbones::{Grid, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Alignment, Border, GeometryError, Map};

pub use settings::{Settings, Variant};

use crate::components::gaussian::{Gaussians, Moments, half};
use crate::components::graph::{GraphScored, of_input};
use crate::components::joined::{Cells, Sampling, finest, join};
use crate::components::layers::{Framing, cells};
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::{Checked, given_or_default};
use crate::training::random::python_sample;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// The method's name.
pub const NAME: &str = "padim";

/// A covariance needs two images.
const NEEDED: usize = 2;

/// Channels that are taken of the layers of a small network, and of one with at least `LARGE` in all.
const FEATURES: (usize, usize) = (100, 550);
const LARGE: usize = 1024;

/// Normal images that are measured, as if they had been left out.
const MEASURED: usize = 16;

/// Quantile of their distances from where on places are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Names of the tensors in a detector file.
const CHANNELS: &str = "channels";
const MEANS: &str = "means";
const FACTORS: &str = "factors";
const RANGE: &str = "range";

/// The method.
pub struct Padim;

impl Method for Padim {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "distance of each place from what normal images show there, at least two of them",
            paper: "Defard et al., PaDiM: a Patch Distribution Modeling Framework for Anomaly \
                    Detection and Localization, ICPR 2020 workshops",
            requirements: Requirements {
                references: Need::Required,
                training: Need::No,
                joint: false,
                class: false,
            },
            backbones: "convolutional networks, Wide ResNet-50-2 in the paper; transformers",
            weights: DefaultWeights::Convolutional,
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let references = context.require_references(NAME)?;
        if references.len() < NEEDED {
            let reason =
                "it needs at least two normal images, from which it learns how much they vary";
            return Err(DetectorError::settings(NAME, reason));
        }
        let spec = context.encoder.spec();
        let variant = given_or_default(NAME, context.settings, "variant")?;
        let mut settings =
            Settings::defaults(context.encoder, variant).replaced_by(context.settings)?;
        settings.crop = Framing::crop(settings.crop, settings.image_size, spec);
        let checked = Checked::new(settings)?;
        let Checked { settings, profile } = &checked;
        let mut total = 0;
        for &layer in &profile.input.request.layers {
            total += spec.layer(layer)?.dim;
        }
        let usual = if total < LARGE {
            FEATURES.0
        } else {
            FEATURES.1
        };
        let wanted = settings.features.given().unwrap_or(usual);
        let channels = Channels {
            taken: python_sample(settings.seed, total, wanted),
            total,
        };
        let layers = &profile.input.request.layers;
        let embed = |features: &ImageFeatures| -> Result<Vec<f32>, DetectorError> {
            Ok(channels.take(&cells(features, layers)?)?.0)
        };

        let mut moments: Option<Moments> = None;
        context.each_reference(&profile.input, references, |features| {
            let tokens = embed(&features)?;
            let width = channels.taken.len();
            if moments.is_none() {
                check_memory(tokens.len() / width, width, settings.max_memory)?;
            }
            let moments = moments.get_or_insert_with(|| Moments::new(tokens.len() / width, width));
            moments.add(&tokens);
            Ok(())
        })?;
        let gaussians = moments.and_then(|moments| moments.factorised(settings.regularisation));
        let gaussians = gaussians.ok_or(DetectorError::NoReferences(NAME))?;

        let mut normal = vec![];
        let some = references
            .iter()
            .step_by(references.len().div_ceil(MEASURED));
        context.each_reference(&profile.input, some, |features| {
            let squared = gaussians.squared_distances(&embed(&features)?);
            normal.extend(
                squared
                    .iter()
                    .map(|&square| left_out(square, references.len())),
            );
            Ok(())
        })?;
        Ok(Box::new(PadimDetector {
            range: NormalRange::of(normal, UPPER_QUANTILE),
            channels,
            gaussians,
            checked,
        }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let mut channels = state
            .take(NAME, CHANNELS)?
            .values
            .into_iter()
            .map(|x| x as usize);
        let channels = Channels {
            total: channels.next().unwrap_or(0),
            taken: channels.collect(),
        };
        if channels
            .taken
            .iter()
            .any(|&channel| channel >= channels.total)
        {
            return Err(DetectorError::tensor(NAME, CHANNELS));
        }
        let means = state.take(NAME, MEANS)?.values;
        let factors = state.take(NAME, FACTORS)?.values;
        let gaussians = Gaussians::new(means, factors, channels.taken.len());
        Ok(Box::new(PadimDetector {
            range: NormalRange::take(&mut state, NAME, RANGE)?,
            gaussians: gaussians.ok_or_else(|| DetectorError::tensor(NAME, FACTORS))?,
            channels,
            checked,
        }))
    }
}

/// Refuses distributions that take too much memory.
fn check_memory(places: usize, width: usize, megabytes: u32) -> Result<(), DetectorError> {
    let needed = (places * half(width) * size_of::<f32>()).div_ceil(1_000_000);
    match needed > megabytes as usize {
        false => Ok(()),
        true => Err(DetectorError::settings(
            NAME,
            format_args!(
                "{places} distributions of {width} features need {needed} MB, and `max_memory` is \
                 {megabytes}; fewer `features` or a smaller `image_size` need less"
            ),
        )),
    }
}

/// The distance of a place of one of `images` from the distribution of the others, from the square of its
/// distance from that of all (Sherman and Morrison's formula; the divisors of both are taken for equal).
fn left_out(squared: f32, images: usize) -> f32 {
    let count = images as f32;
    let share = count / (count - 1.0).powi(2);
    let rest = (1.0 - share * squared).max(f32::EPSILON);
    count / (count - 1.0) * (squared / rest).sqrt()
}

/// Which channels of the joined layers are compared.
struct Channels {
    /// In the order in which they were drawn.
    taken: Vec<usize>,
    /// How many there are.
    total: usize,
}

impl Channels {
    /// Those of an image, `[places, taken]`, on the finest grid.
    fn take(&self, layers: &[Cells<'_>]) -> Result<(Vec<f32>, Grid), DetectorError> {
        let found = layers.iter().map(|layer| layer.width).sum();
        if found != self.total {
            return Err(DetectorError::Width {
                expected: self.total,
                found,
            });
        }
        let grid = finest(layers);
        let joined = join(layers, grid, Sampling::Nearest);
        let tokens = joined.chunks_exact(self.total.max(1));
        let taken = tokens.flat_map(|token| self.taken.iter().map(|&channel| token[channel]));
        Ok((taken.collect(), grid))
    }
}

/// Distributions of normal features, ready to score images.
struct PadimDetector {
    checked: Checked<Settings>,
    channels: Channels,
    gaussians: Gaussians,
    /// For pictures only.
    range: NormalRange,
}

impl Detector for PadimDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        self.in_graph(graph, of_input(seen, 0)?)
    }

    fn state(&self) -> State {
        let all = std::iter::once(&self.channels.total).chain(&self.channels.taken);
        let channels = all.map(|&channel| channel as f32).collect();
        let rows = |values: &[f32], width: usize| Array {
            shape: vec![self.gaussians.places(), width],
            values: values.to_vec(),
        };
        let width = self.gaussians.width();
        self.checked.state([
            (CHANNELS.to_owned(), Array::vector(channels)),
            (MEANS.to_owned(), rows(&self.gaussians.means, width)),
            (
                FACTORS.to_owned(),
                rows(&self.gaussians.factors, half(width)),
            ),
            (RANGE.to_owned(), self.range.array()),
        ])
    }
}

impl PadimDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let layers = cells(image, &profile.input.request.layers)?;
        let (tokens, grid) = self.channels.take(&layers)?;
        if grid.len() != self.gaussians.places() {
            let (found, expected) = (grid.len(), self.gaussians.places());
            let reason = format_args!("an image has {found} places, and the detector {expected}");
            return Err(DetectorError::settings(NAME, reason));
        }
        let squared = self.gaussians.squared_distances(&tokens);
        let distances = squared.into_iter().map(f32::sqrt).collect();
        let map = Map::new(grid.rows, grid.columns, distances)?;
        let side = settings.framing().side() as usize;
        let large = smoothed(&map, side, side, settings.variant)?;
        Ok(Scored {
            score: large.range().map_or(f32::NAN, |(_, highest)| highest),
            map: match settings.variant {
                Variant::Original => map,
                Variant::Anomalib => large,
            },
            range: self.range,
        })
    }
}

/// The map at the size of what the network saw, whose highest value is the image's score.
fn smoothed(
    map: &Map,
    rows: usize,
    columns: usize,
    variant: Variant,
) -> Result<Map, GeometryError> {
    let border = match variant {
        Variant::Original => Border::EdgeTwice,
        Variant::Anomalib => Border::EdgeOnce,
    };
    let large = map.resize(rows, columns, Alignment::Edges)?;
    large.smooth_with(settings::SIGMA, border)
}
