//! What scores are measured in: each shot scored against the others, as if it were a new image.

use anomalens_vision::Map;

use super::{Config, Distances, Shot, banks, unusable};
use crate::DetectorError;
use crate::detector::{Array, NormalRange};

/// Quantile of the shots' patch scores beyond which patches are drawn as anomalous.
const EXTREME_QUANTILE: f64 = 0.995;

/// Least unit: shots that are copies of one image score 0 against each other.
const LEAST: f32 = 1e-4;

/// The units of a detector's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Units {
    /// The mean over the shots of the score that their patches would give them.
    pub(super) patch: f32,
    /// The mean over the shots of their mean token's distance; 0 for a single shot, which has
    /// nothing to be compared with.
    pub(super) whole: f32,
    /// The shots' patch distances in these units.
    pub(super) range: NormalRange,
}

/// Name of the tensor in a detector file: patch, whole, typical, extreme.
const TENSOR: &str = "units";

impl Units {
    /// Scores each shot against the others, or a single one against its own other views.
    pub(super) fn measure(shots: &[Shot], config: &Config) -> Result<Self, DetectorError> {
        let mut patches = Vec::new();
        let (mut patch, mut whole) = (0.0, 0.0);
        let single: Option<Shot> = match shots {
            // Without other views it is all that there is: a unit near 0, replaced by the least.
            [only] => Some(if only.len() > 1 {
                only[1..].to_vec()
            } else {
                only.clone()
            }),
            _ => None,
        };
        for (i, shot) in shots.iter().enumerate() {
            let others: Vec<&Shot> = match &single {
                Some(views) => vec![views],
                None => shots
                    .iter()
                    .enumerate()
                    .filter(|(j, _)| *j != i)
                    .map(|(_, s)| s)
                    .collect(),
            };
            let upright = &shot[0];
            let distances = Distances::measure(upright, &banks(&others, config)?)?;
            let map = Map::new(upright.grid.rows, upright.grid.columns, distances.patches)?;
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
            whole,
            range: NormalRange::of(patches, EXTREME_QUANTILE),
        })
    }

    /// Whether the mean token's distance can be measured.
    pub(super) fn has_whole(self) -> bool {
        self.whole > 0.0
    }

    /// The tensor for a detector file.
    pub(super) fn array(&self) -> (String, Array) {
        let Self {
            patch,
            whole,
            range: NormalRange { typical, extreme },
        } = *self;
        (
            TENSOR.to_owned(),
            Array {
                shape: vec![4],
                values: vec![patch, whole, typical, extreme],
            },
        )
    }

    /// The units again from their tensor.
    pub(super) fn load(
        take: &mut impl FnMut(&str) -> Result<Array, DetectorError>,
    ) -> Result<Self, DetectorError> {
        match take(TENSOR)?.values.as_slice() {
            &[patch, whole, typical, extreme] if patch > 0.0 && whole >= 0.0 => Ok(Self {
                patch,
                whole,
                range: NormalRange { typical, extreme },
            }),
            _ => Err(unusable(TENSOR)),
        }
    }
}
