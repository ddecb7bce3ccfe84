//! Reference augmentation: a normal image is stored turned or mirrored too, so that an image that
//! lies otherwise still finds its like.

use anomalens_vision::Image;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The forms of a reference image that images are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceAugmentation {
    /// As it is.
    Upright,
    /// Mirrored left to right, top to bottom, and both.
    Flips,
    /// Turned in eight steps of 45 degrees, as in AnomalyDINO's paper.
    Rotations,
}

impl ReferenceAugmentation {
    /// The image in all its forms, upright first.
    pub(crate) fn of(self, image: &Image) -> Vec<Image> {
        match self {
            Self::Upright => vec![image.clone()],
            Self::Flips => {
                let half_turn = image.rotate(180.0);
                vec![image.clone(), image.mirror(), half_turn.mirror(), half_turn]
            }
            Self::Rotations => (0..8)
                .into_par_iter()
                .map(|i| image.rotate(f64::from(i) * 45.0))
                .collect(),
        }
    }
}
