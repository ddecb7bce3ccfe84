//! What a detector keeps of its reference images: the embeddings of their windows and their patches
//! (WinCLIP+, paper section 4.3).

use anomalens_backbones::{Grid, ImageFeatures, LayerId, Precision};

use super::{NAME, Settings, windows};
use crate::DetectorError;
use crate::components::nearest::UnitVectors;
use crate::components::residual::residual;
use crate::components::tokens::normalise_rows;
use crate::detector::{Array, State};

/// The name of the patches in a detector file.
const PATCHES: &str = "references/patches";

/// Normal windows of each side, and normal patches, each row of length 1.
pub(super) struct References {
    windows: Vec<(usize, UnitVectors)>,
    /// The layer that the patches are of.
    block: LayerId,
    patches: UnitVectors,
}

/// The tokens of an image after `layer`, each of length 1, and their length.
pub(super) fn unit(
    image: &ImageFeatures,
    layer: LayerId,
) -> Result<(Vec<f32>, usize), DetectorError> {
    let map = image.map(layer).ok_or(DetectorError::MissingLayer(layer))?;
    let mut tokens = map.tokens.clone();
    normalise_rows(&mut tokens, map.dim);
    Ok((tokens, map.dim))
}

/// The name of the windows of a side in a detector file.
fn name(side: usize) -> String {
    format!("references/windows.{side}")
}

fn bank(values: Vec<f32>, width: usize) -> Result<UnitVectors, DetectorError> {
    UnitVectors::new(values, width, Precision::F32)
}

impl References {
    /// Those of `images`, at least one.
    pub(super) fn of(
        images: &[&ImageFeatures],
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let all = |layer: LayerId| {
            let (mut rows, mut width) = (vec![], 0);
            for image in images {
                let found = unit(image, layer)?;
                rows.extend(found.0);
                width = found.1;
            }
            bank(rows, width)
        };
        let windows = settings.windows.iter();
        let windows = windows.map(|&side| Ok((side, all(LayerId::Window(side))?)));
        let block = LayerId::Block(settings.block);
        Ok(Self {
            windows: windows.collect::<Result<_, DetectorError>>()?,
            block,
            patches: all(block)?,
        })
    }

    /// Half the cosine distance of the windows and patches of an image to the nearest of the references,
    /// on the grid of the patches, the mean over all sides of windows and the patches.
    pub(super) fn map(&self, image: &ImageFeatures, grid: Grid) -> Result<Vec<f32>, DetectorError> {
        Ok(windows::mean(&self.maps(image, grid)?))
    }

    /// Those of each side of windows, and of the patches.
    pub(super) fn maps(
        &self,
        image: &ImageFeatures,
        grid: Grid,
    ) -> Result<Vec<Vec<f32>>, DetectorError> {
        let residuals = |layer: LayerId, bank: &UnitVectors| {
            let (tokens, width) = unit(image, layer)?;
            if width != bank.width() {
                return Err(DetectorError::Width {
                    expected: bank.width(),
                    found: width,
                });
            }
            let cosines = bank.highest_similarity(&tokens).into_iter();
            Ok(cosines.map(residual).collect::<Vec<f32>>())
        };
        let mut maps = vec![];
        for (side, bank) in &self.windows {
            let scores = residuals(LayerId::Window(*side), bank)?;
            maps.push(windows::cover(&scores, *side, grid));
        }
        maps.push(residuals(self.block, &self.patches)?);
        Ok(maps)
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = (String, Array)> {
        let windows = self.windows.iter();
        let windows = windows.map(|(side, bank)| (name(*side), bank.array()));
        windows.chain([(PATCHES.to_owned(), self.patches.array())])
    }

    /// Those of a saved detector, if it has any.
    pub(super) fn load(
        state: &mut State,
        settings: &Settings,
    ) -> Result<Option<Self>, DetectorError> {
        if !state.tensors.contains_key(PATCHES) {
            return Ok(None);
        }
        let mut take = |name: &str| match state.take(NAME, name)? {
            Array { shape, values } if shape.len() == 2 && !values.is_empty() => {
                bank(values, shape[1])
            }
            _ => Err(DetectorError::tensor(NAME, name)),
        };
        let windows = settings.windows.iter();
        let windows = windows.map(|&side| Ok((side, take(&name(side))?)));
        let windows = windows.collect::<Result<_, DetectorError>>()?;
        Ok(Some(Self {
            windows,
            block: LayerId::Block(settings.block),
            patches: take(PATCHES)?,
        }))
    }
}
