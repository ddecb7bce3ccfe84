//! What scores are measured in: each reference scored against the others, as if it were a new image.

use anomalens_vision::Map;

use super::{Distances, NAME, Reference, Settings, banks};
use crate::DetectorError;
use crate::components::self_similarity::factor;
use crate::detector::{Array, NormalRange, State};

/// Quantile of the references' patch scores beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Least unit: references that are copies of one image score 0 against each other.
const LEAST: f32 = 1e-4;

/// The scale of a detector's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ScoreScale {
    /// The mean over the references of the score that their patches would give them.
    pub(super) patch: f32,
    /// Factor of a patch's distance to its own image beside that to the references.
    pub(super) own: f32,
    /// The mean over the references of their mean token's distance; 0 for a single reference, which has
    /// nothing to be compared with.
    pub(super) image_level: f32,
    /// The references' joined patch distances in these units.
    pub(super) range: NormalRange,
}

/// Name of the tensor in a detector file: patch, own, image_level, median, upper_quantile.
const TENSOR: &str = "score_scale";

impl ScoreScale {
    /// Scores each reference against the others, or a single one against its own other forms.
    pub(super) fn measure(
        references: &[Reference],
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let single: Option<Reference> = match references {
            // Without other forms it is all that there is: a unit near 0, replaced by the least.
            [only] => Some(if only.len() > 1 {
                only[1..].to_vec()
            } else {
                only.clone()
            }),
            _ => None,
        };
        let measured: Vec<Distances> = references
            .iter()
            .enumerate()
            .map(|(i, reference)| {
                let others: Vec<&Reference> = match &single {
                    Some(forms) => vec![forms],
                    None => references
                        .iter()
                        .enumerate()
                        .filter(|(j, _)| *j != i)
                        .map(|(_, s)| s)
                        .collect(),
                };
                Distances::measure(&reference[0], &banks(&others, settings)?, settings)
            })
            .collect::<Result<_, DetectorError>>()?;
        let own = settings.own_weight as f32
            * factor(
                measured.iter().flat_map(|m| &m.patches),
                measured.iter().flat_map(|m| &m.own),
            );
        let mut patches = Vec::new();
        let (mut patch, mut image_level) = (0.0, 0.0);
        for (reference, distances) in references.iter().zip(&measured) {
            let grid = reference[0].grid();
            let map = Map::new(grid.rows, grid.columns, distances.joined(own).collect())?;
            patch += map.top_mean(settings.top_fraction) / references.len() as f32;
            image_level += distances.image_level / references.len() as f32;
            patches.extend(map.into_values());
        }
        let patch = patch.max(LEAST);
        patches.iter_mut().for_each(|distance| *distance /= patch);
        let image_level = if single.is_some() {
            0.0
        } else {
            image_level.max(LEAST)
        };
        Ok(Self {
            patch,
            own,
            image_level,
            range: NormalRange::of(patches, UPPER_QUANTILE),
        })
    }

    /// The tensor for a detector file.
    pub(super) fn array(&self) -> (String, Array) {
        let Self {
            patch,
            own,
            image_level,
            range:
                NormalRange {
                    median,
                    upper_quantile,
                },
        } = *self;
        (
            TENSOR.to_owned(),
            Array {
                shape: vec![5],
                values: vec![patch, own, image_level, median, upper_quantile],
            },
        )
    }

    /// The scale again from their tensor.
    pub(super) fn load(state: &mut State) -> Result<Self, DetectorError> {
        match state.take(NAME, TENSOR)?.values.as_slice() {
            &[patch, own, image_level, median, upper_quantile]
                if patch > 0.0 && image_level >= 0.0 =>
            {
                Ok(Self {
                    patch,
                    own,
                    image_level,
                    range: NormalRange {
                        median,
                        upper_quantile,
                    },
                })
            }
            _ => Err(DetectorError::tensor(NAME, TENSOR)),
        }
    }
}
