//! Zero-shot on single images: a patch is as anomalous as it is unlike the rest of its own image
//! (`own_image.rs`). Nothing is learned, and neither text nor a reference is needed.
//!
//! Scores are measured in units of what normal images score: of the target if some are given, of
//! auxiliary data otherwise.

mod config;

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;
use serde_json::Value;

pub use config::Config;

use crate::detector::{Array, Detector, NormalRange, Scope, Scored, State};
use crate::registry::{Shots, check_features, configure};
use crate::{DetectorError, Looks, Setup, own_image};

/// The method's name.
pub const NAME: &str = "self-similarity";

/// Quantile of normal images' patch scores beyond which patches are drawn as anomalous.
const EXTREME_QUANTILE: f64 = 0.995;

/// Least unit, for normal images that are of one colour.
const LEAST: f32 = 1e-4;

/// Name of the tensor in a detector file: image, typical, extreme.
const TENSOR: &str = "units";

/// A ready detector.
pub struct SelfSimilarity {
    config: Config,
    setup: Setup,
    units: Units,
}

/// What normal images score.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Units {
    /// The mean score of an image, in cosine distance.
    image: f32,
    /// The scores of patches, in units of `image`.
    range: NormalRange,
}

/// Measured with the default settings and the backbone `dinov2-s-focus` on 100 normal images each of
/// magnetic tile, KolektorSDD and drawn textures; docs/benchmarks/self-similarity.md has the command.
const AUXILIARY: Units = Units {
    image: 0.370,
    range: NormalRange {
        typical: 0.444,
        extreme: 1.343,
    },
};

/// Makes a detector; normal images, if there are any, give the units.
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), options)?;
    let setup = config.setup()?;
    let units = match shots.images {
        [] => AUXILIARY,
        shots_given => {
            let images = shots_given.iter().map(|shot| &shot.image);
            Units::measure(&shots.encode(&setup, config.looks, images)?, &config)?
        }
    };
    Ok(Box::new(SelfSimilarity {
        config,
        setup,
        units,
    }))
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), &state.config)?;
    let values = state.tensors.remove(TENSOR).map(|array| array.values);
    let units = match values.as_deref() {
        Some(&[image, typical, extreme]) if image > 0.0 => Units {
            image,
            range: NormalRange { typical, extreme },
        },
        _ => {
            return Err(DetectorError::Config {
                method: NAME,
                reason: format!("the tensor `{TENSOR}` is missing or has an unusable shape"),
            });
        }
    };
    Ok(Box::new(SelfSimilarity {
        setup: config.setup()?,
        config,
        units,
    }))
}

impl Units {
    fn measure(images: &[ImageFeatures], config: &Config) -> Result<Self, DetectorError> {
        let mut patches = Vec::new();
        let mut image = 0.0;
        for features in images {
            let map = map(features, config)?;
            image += map.top_mean(config.top_fraction) / images.len() as f32;
            patches.extend(map.into_values());
        }
        let image = image.max(LEAST);
        patches.iter_mut().for_each(|distance| *distance /= image);
        Ok(Self {
            image,
            range: NormalRange::of(patches, EXTREME_QUANTILE),
        })
    }
}

/// The distance of each patch to the rest of its image.
fn map(image: &ImageFeatures, config: &Config) -> Result<Map, DetectorError> {
    let distances = own_image::distances(image, &config.blocks)?;
    Ok(Map::new(
        image.grid().rows,
        image.grid().columns,
        distances,
    )?)
}

impl Detector for SelfSimilarity {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn looks(&self) -> Looks {
        self.config.looks
    }

    fn scope(&self) -> Scope {
        Scope::Image
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let Units { image: unit, range } = self.units;
        images
            .iter()
            .map(|image| {
                let width = image.maps.first().map_or(0, |map| map.dim);
                let grid = check_features(image, &self.setup, width)?;
                let values = map(image, &self.config)?.into_values();
                let values = values.into_iter().map(|distance| distance / unit);
                let map = Map::new(grid.rows, grid.columns, values.collect())?;
                Ok(Scored {
                    score: map.top_mean(self.config.top_fraction),
                    map,
                    range,
                })
            })
            .collect()
    }

    fn state(&self) -> State {
        let Units {
            image,
            range: NormalRange { typical, extreme },
        } = self.units;
        let units = Array {
            shape: vec![3],
            values: vec![image, typical, extreme],
        };
        State {
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            tensors: BTreeMap::from([(TENSOR.to_owned(), units)]),
        }
    }
}
