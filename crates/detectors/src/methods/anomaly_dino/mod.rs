//! AnomalyDINO (Damm et al., WACV 2025): the anomaly score of a patch is the cosine distance to the
//! nearest patch of a few normal images; nothing is trained.
//!
//! The settings are those of the published code (dammsi/AnomalyDINO at b3435f0, preset `agnostic`),
//! and every step is compared with an independent implementation in `goldens.rs`. Surprising in that
//! code, and kept: images are not rotated about their true centre, the mask is dilated and closed in
//! reading order (`foreground.rs`), masked patches count as 0 in the image's score, and the map is
//! stretched over the margin that was cut off.

mod foreground;
#[cfg(test)]
mod goldens;
mod settings;

use anomalens_backbones::{FeatureMap, ImageFeatures, LayerId};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Image, Map};

pub use settings::{Masking, Settings};

use crate::components::graph::{self, GraphScored};
use crate::components::nearest::UnitVectors;
use crate::components::tokens::{after, normalise_rows};
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _, Tta,
};

/// The method's name.
pub const NAME: &str = "anomaly-dino";

/// A reference image is turned so often, in equal steps over a full circle.
const ROTATIONS: u32 = 8;

/// Quantile of the references' distances from where on patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Names of the tensors in a detector file.
const REFERENCES: &str = "references";
const RANGE: &str = "range";

/// The method.
pub struct AnomalyDino;

impl Method for AnomalyDino {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "few-shot: distance of each patch to the nearest patch of some normal images",
            paper: "Damm et al., AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection \
                    with DINOv2, WACV 2025",
            requirements: Requirements {
                references: Need::Required,
                training: Need::No,
                joint: false,
                class: true,
            },
            backbones: "any; DINOv2 in the paper",
            weights: DefaultWeights::AllBlocks,
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let references = context.require_references(NAME)?;
        let mut settings =
            Settings::defaults(context.encoder.spec()).replaced_by(context.settings)?;
        settings.masking = settings.masking.for_class(context.class);
        let checked = Checked::new(settings)?;
        let Checked { settings, profile } = &checked;
        let references: Vec<Vec<Vec<f32>>> = references
            .iter()
            .map(|reference| {
                let image = reference.open()?;
                let forms = match settings.rotation {
                    true => rotations(&image),
                    false => vec![Image::clone(&image)],
                };
                let features = context.encode(&profile.input, Tta::default(), &forms)?;
                let tokens = features
                    .iter()
                    .map(|features| after(features, settings.block));
                let tokens = tokens.map(|found| found.map(unit));
                tokens.collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<_, _>>()?;
        let width = context
            .encoder
            .spec()
            .layer(LayerId::Block(settings.block))?
            .dim;
        Ok(Box::new(AnomalyDinoDetector {
            range: range(&references, width, settings)?,
            references: UnitVectors::new(references.concat().concat(), width, settings.search)?,
            checked,
        }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let references = match state.take(NAME, REFERENCES)? {
            Array { shape, values } if shape.len() == 2 && !values.is_empty() => {
                UnitVectors::new(values, shape[1], checked.settings.search)?
            }
            _ => return Err(DetectorError::tensor(NAME, REFERENCES)),
        };
        let range = NormalRange::take(&mut state, NAME, RANGE)?;
        Ok(Box::new(AnomalyDinoDetector {
            checked,
            references,
            range,
        }))
    }
}

/// A memory bank of normal patches, ready to score images.
struct AnomalyDinoDetector {
    checked: Checked<Settings>,
    /// The patches of all references in all rotations.
    references: UnitVectors,
    /// For pictures only; scores are raw distances.
    range: NormalRange,
}

impl Detector for AnomalyDinoDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        if settings.masking == Masking::On {
            return Err(self.no_graph(
                "it leaves out the ground of each image by a principal component of its own \
                 patches, which no operator of a graph computes; fit it with `masking=off`",
            ));
        }
        let seen = graph::of_input(seen, 0)?;
        let tokens = graph::after(seen, LayerId::Block(settings.block))?;
        profile.check_graph(seen, self.references.width())?;
        let places = tokens.places(graph);
        let patches = graph::unit(graph, &places, -1);
        let references = self.references.values();
        let found = graph::highest_similarity(graph, &patches, references, tokens.dim);
        let distances = graph::scaled(graph, &found, -1.0, 1.0);
        let distances = graph.node("Relu", &[&distances], &[]);
        let count = Map::top_count(settings.top_fraction, tokens.grid.len());
        Ok(GraphScored {
            score: graph::top_mean(graph, &distances, count),
            map: graph::as_map(graph, &distances, tokens.grid),
            grid: tokens.grid,
        })
    }

    fn state(&self) -> State {
        self.checked.state([
            (REFERENCES.to_owned(), self.references.array()),
            (RANGE.to_owned(), self.range.array()),
        ])
    }
}

impl AnomalyDinoDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let grid = profile.check(image, self.references.width())?;
        let map = after(image, settings.block)?;
        let distances = match settings.masking {
            Masking::On => {
                let kept = foreground::foreground(&map.tokens, map.dim, grid);
                let tokens = map.tokens.chunks_exact(map.dim).zip(&kept);
                let tokens = tokens
                    .filter(|(_, kept)| **kept)
                    .flat_map(|(token, _)| token);
                let mut tokens: Vec<f32> = tokens.copied().collect();
                normalise_rows(&mut tokens, map.dim);
                let mut found = distances(&self.references, &tokens).into_iter();
                let all = kept.iter().map(|&kept| match kept {
                    true => found.next().unwrap_or_default(),
                    false => 0.0,
                });
                all.collect()
            }
            Masking::Auto | Masking::Off => distances(&self.references, &unit(map)),
        };
        let map = Map::new(grid.rows, grid.columns, distances)?;
        Ok(Scored {
            score: map.top_mean(settings.top_fraction),
            map,
            range: self.range,
        })
    }
}

/// The image turned counter-clockwise in equal steps, upright first. The centre is half a pixel off
/// the true one, as in the published code.
fn rotations(image: &Image) -> Vec<Image> {
    let centre = [image.width(), image.height()].map(|side| f64::from(side) / 2.0);
    let steps = (0..ROTATIONS).map(|i| f64::from(i) * 360.0 / f64::from(ROTATIONS));
    steps
        .map(|degrees| image.rotate_about(degrees, centre.into()))
        .collect()
}

/// The tokens scaled to length 1, `[patches, width]`.
fn unit(map: &FeatureMap) -> Vec<f32> {
    let mut tokens = map.tokens.clone();
    normalise_rows(&mut tokens, map.dim);
    tokens
}

/// Cosine distance of each of `tokens`, of length 1, to the nearest of `references`; rounding may
/// push a similarity above 1.
fn distances(references: &UnitVectors, tokens: &[f32]) -> Vec<f32> {
    let similarities = references.highest_similarity(tokens).into_iter();
    similarities.map(|s| (1.0 - s).max(0.0)).collect()
}

/// What patches of the upright references score with the other references, a single one with its own
/// rotations. Zeros where there is nothing to compare.
fn range(
    references: &[Vec<Vec<f32>>],
    width: usize,
    settings: &Settings,
) -> Result<NormalRange, DetectorError> {
    let mut all = vec![];
    for (i, reference) in references.iter().enumerate() {
        let others = match references {
            [only] => only[1..].concat(),
            _ => {
                let others = references.iter().enumerate().filter(|(j, _)| *j != i);
                others.flat_map(|(_, other)| other.concat()).collect()
            }
        };
        if let (Some(upright), false) = (reference.first(), others.is_empty()) {
            let others = UnitVectors::new(others, width, settings.search)?;
            all.extend(distances(&others, upright));
        }
    }
    Ok(NormalRange::of(all, UPPER_QUANTILE))
}
