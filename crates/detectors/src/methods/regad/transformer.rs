//! Spatial transformers (Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015): what a map is seen
//! through follows from the map itself (RegAD's paper, section 3.2). Nine kinds of matrices.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// What a transformer can do to a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transformer {
    /// Any affine matrix.
    Affine,
    /// Move it.
    Translation,
    /// Turn it.
    Rotation,
    /// Stretch it along each axis.
    Scale,
    /// Shear it.
    Shear,
    /// Turn and stretch it: the paper's choice. Only the diagonal of the turn is stretched.
    #[default]
    RotationScale,
    /// Move and stretch it.
    TranslationScale,
    /// Turn and move it.
    RotationTranslation,
    /// Turn, move and stretch it.
    RotationTranslationScale,
}

impl Transformer {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 9] = [
        Self::Affine,
        Self::Translation,
        Self::Rotation,
        Self::Scale,
        Self::Shear,
        Self::RotationScale,
        Self::TranslationScale,
        Self::RotationTranslation,
        Self::RotationTranslationScale,
    ];

    /// The numbers under which nothing changes: training starts from them.
    pub(super) fn identity(self) -> &'static [f32] {
        match self {
            Self::Affine => &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            Self::Translation | Self::Shear => &[0.0, 0.0],
            Self::Rotation => &[0.0],
            Self::Scale => &[1.0, 1.0],
            Self::RotationScale => &[0.0, 1.0, 1.0],
            Self::TranslationScale => &[0.0, 0.0, 1.0, 1.0],
            Self::RotationTranslation => &[0.0, 0.0, 0.0],
            Self::RotationTranslationScale => &[0.0, 0.0, 0.0, 1.0, 1.0],
        }
    }

    /// The matrices `[images, 2, 3]` that follow from `numbers`, `[images, count]`.
    pub(super) fn matrices(self, numbers: &Tensor) -> Result<Tensor> {
        let number = |i: usize| numbers.narrow(1, i, 1);
        let zero = numbers.narrow(1, 0, 1)?.zeros_like()?;
        let one = zero.ones_like()?;
        let [x, y] = [zero.clone(), zero.clone()];
        let turned = || {
            let angle = number(0)?;
            let sine = angle.sin()?;
            Result::Ok((angle.cos()?, sine.neg()?, sine))
        };
        let entries = match self {
            Self::Affine => return numbers.reshape((numbers.dim(0)?, 2, 3)),
            Self::Translation => [one.clone(), zero.clone(), number(0)?, zero, one, number(1)?],
            Self::Scale => [number(0)?, zero.clone(), x, zero, number(1)?, y],
            Self::Shear => [one.clone(), number(0)?, x, number(1)?, one, y],
            Self::TranslationScale => [
                number(2)?,
                zero.clone(),
                number(0)?,
                zero,
                number(3)?,
                number(1)?,
            ],
            Self::Rotation => {
                let (cosine, minus, sine) = turned()?;
                [cosine.clone(), minus, x, sine, cosine, y]
            }
            Self::RotationScale => {
                let (cosine, minus, sine) = turned()?;
                let scaled = |i| &cosine * number(i)?;
                [scaled(1)?, minus, x, sine, scaled(2)?, y]
            }
            Self::RotationTranslation => {
                let (cosine, minus, sine) = turned()?;
                [cosine.clone(), minus, number(1)?, sine, cosine, number(2)?]
            }
            Self::RotationTranslationScale => {
                let (cosine, minus, sine) = turned()?;
                let scaled = |i| &cosine * number(i)?;
                [scaled(3)?, minus, number(1)?, sine, scaled(4)?, number(2)?]
            }
        };
        Tensor::cat(&entries, 1)?.reshape((numbers.dim(0)?, 2, 3))
    }
}
