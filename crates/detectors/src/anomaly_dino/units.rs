//! What scores are measured in: each shot scored against the others, as if it were a new image.

use anomalens_vision::Map;

use super::{Config, Distances, Shot, banks, unusable};
use crate::DetectorError;
use crate::detector::{Array, NormalRange};
use crate::own_image::factor;

/// Quantile of the shots' patch scores beyond which patches are drawn as anomalous.
const EXTREME_QUANTILE: f64 = 0.995;

/// Least unit: shots that are copies of one image score 0 against each other.
const LEAST: f32 = 1e-4;

/// The units of a detector's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Units {
    /// The mean over the shots of the score that their patches would give them.
    pub(super) patch: f32,
    /// Factor of a patch's distance to its own image beside that to the shots.
    pub(super) own: f32,
    /// The mean over the shots of their mean token's distance; 0 for a single shot, which has
    /// nothing to be compared with.
    pub(super) whole: f32,
    /// The shots' joined patch distances in these units.
    pub(super) range: NormalRange,
}

/// Name of the tensor in a detector file: patch, own, whole, typical, extreme.
const TENSOR: &str = "units";

impl Units {
    /// Scores each shot against the others, or a single one against its own other views.
    pub(super) fn measure(shots: &[Shot], config: &Config) -> Result<Self, DetectorError> {
        let single: Option<Shot> = match shots {
            // Without other views it is all that there is: a unit near 0, replaced by the least.
            [only] => Some(if only.len() > 1 {
                only[1..].to_vec()
            } else {
                only.clone()
            }),
            _ => None,
        };
        let measured: Vec<Distances> = shots
            .iter()
            .enumerate()
            .map(|(i, shot)| {
                let others: Vec<&Shot> = match &single {
                    Some(views) => vec![views],
                    None => shots
                        .iter()
                        .enumerate()
                        .filter(|(j, _)| *j != i)
                        .map(|(_, s)| s)
                        .collect(),
                };
                Distances::measure(&shot[0], &banks(&others, config)?, config)
            })
            .collect::<Result<_, DetectorError>>()?;
        let own = config.own_weight as f32
            * factor(
                measured.iter().flat_map(|m| &m.patches),
                measured.iter().flat_map(|m| &m.own),
            );
        let mut patches = Vec::new();
        let (mut patch, mut whole) = (0.0, 0.0);
        for (shot, distances) in shots.iter().zip(&measured) {
            let grid = shot[0].grid();
            let map = Map::new(grid.rows, grid.columns, distances.joined(own).collect())?;
            patch += map.top_mean(config.top_fraction) / shots.len() as f32;
            whole += distances.whole / shots.len() as f32;
            patches.extend(map.into_values());
        }
        let patch = patch.max(LEAST);
        patches.iter_mut().for_each(|distance| *distance /= patch);
        let whole = if single.is_some() {
            0.0
        } else {
            whole.max(LEAST)
        };
        Ok(Self {
            patch,
            own,
            whole,
            range: NormalRange::of(patches, EXTREME_QUANTILE),
        })
    }

    /// The tensor for a detector file.
    pub(super) fn array(&self) -> (String, Array) {
        let Self {
            patch,
            own,
            whole,
            range: NormalRange { typical, extreme },
        } = *self;
        (
            TENSOR.to_owned(),
            Array {
                shape: vec![5],
                values: vec![patch, own, whole, typical, extreme],
            },
        )
    }

    /// The units again from their tensor.
    pub(super) fn load(
        take: &mut impl FnMut(&str) -> Result<Array, DetectorError>,
    ) -> Result<Self, DetectorError> {
        match take(TENSOR)?.values.as_slice() {
            &[patch, own, whole, typical, extreme] if patch > 0.0 && whole >= 0.0 => Ok(Self {
                patch,
                own,
                whole,
                range: NormalRange { typical, extreme },
            }),
            _ => Err(unusable(TENSOR)),
        }
    }
}
