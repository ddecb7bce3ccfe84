//! The memory bank: what normal images look like after one block.

use anomalens_backbones::ImageFeatures;

use super::{NAME, Reference};
use crate::DetectorError;
use crate::components::nearest::UnitVectors;
use crate::components::tokens::{unit_mean, unit_patches};
use crate::detector::{Array, State};

/// The normal images after one block.
pub(super) struct Bank {
    block: usize,
    /// The patches of all forms.
    patches: UnitVectors,
    /// The mean token of each upright reference.
    means: UnitVectors,
}

impl Bank {
    pub(super) fn new(block: usize, references: &[&Reference]) -> Result<Self, DetectorError> {
        let (patches, width) =
            unit_patches(references.iter().flat_map(|forms| forms.iter()), block)?;
        let means: Vec<Vec<f32>> = references
            .iter()
            .filter_map(|forms| forms.first())
            .map(|upright| unit_mean(upright, block))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            block,
            patches: UnitVectors::new(patches, width)?,
            means: UnitVectors::new(means.concat(), width)?,
        })
    }

    /// Length of a token.
    pub(super) fn width(&self) -> usize {
        self.patches.width()
    }

    /// Cosine distance of each patch of `image` to the nearest in the bank.
    pub(super) fn patch_distances(
        &self,
        image: &ImageFeatures,
    ) -> Result<impl Iterator<Item = f32>, DetectorError> {
        let (queries, _) = unit_patches([image], self.block)?;
        let similarities = self.patches.highest_similarity(&queries);
        Ok(similarities.into_iter().map(distance))
    }

    /// Cosine distance of the mean token of `image` to that of the nearest reference.
    pub(super) fn image_distance(&self, image: &ImageFeatures) -> Result<f32, DetectorError> {
        let query = unit_mean(image, self.block)?;
        let similarities = self.means.highest_similarity(&query);
        Ok(similarities.into_iter().map(distance).sum())
    }

    /// Names of the tensors in a detector file: patches, means.
    fn names(block: usize) -> [String; 2] {
        [
            format!("block{block}.patches"),
            format!("block{block}.means"),
        ]
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self) -> [(String, Array); 2] {
        let [patches, means] = Self::names(self.block);
        [(patches, self.patches.array()), (means, self.means.array())]
    }

    /// The bank again from its tensors.
    pub(super) fn load(block: usize, state: &mut State) -> Result<Self, DetectorError> {
        let mut rows = |name: &str| match state.take(NAME, name)? {
            Array { shape, values } if shape.len() == 2 && !values.is_empty() => {
                UnitVectors::new(values, shape[1])
            }
            _ => Err(DetectorError::tensor(NAME, name)),
        };
        let [patches, means] = Self::names(block);
        let (patches, means) = (rows(&patches)?, rows(&means)?);
        if patches.width() != means.width() {
            return Err(DetectorError::tensor(NAME, &Self::names(block)[1]));
        }
        Ok(Self {
            block,
            patches,
            means,
        })
    }
}

/// Cosine distance from a similarity; rounding may push a similarity above 1.
fn distance(similarity: f32) -> f32 {
    (1.0 - similarity).max(0.0)
}
