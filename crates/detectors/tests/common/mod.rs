//! An encoder without weights, and images for it.

use std::path::Path;

use anomalens_backbones::{
    BackboneError, BlockFeatures, FeatureRequest, Features, Grid, ImageEncoder,
};
use anomalens_vision::Image;
use candle_core::Tensor;

/// Encodes a patch as its mean colour, the same after every block but scaled by the block's
/// number; the class token is the mean over all patches.
pub(crate) struct MeanColour;

const PATCH: usize = 14;

impl ImageEncoder for MeanColour {
    fn name(&self) -> &str {
        "mean colour"
    }

    fn width(&self) -> usize {
        3
    }

    fn blocks(&self) -> usize {
        12
    }

    fn patch(&self) -> usize {
        PATCH
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        let (batch, _, height, width) = images.dims4()?;
        let grid = Grid {
            rows: height / PATCH,
            columns: width / PATCH,
        };
        let patches = images
            .reshape(&[batch, 3, grid.rows, PATCH, grid.columns, PATCH][..])?
            .mean((3, 5))?
            .flatten_from(2)?
            .transpose(1, 2)?
            .contiguous()?;
        let blocks = request.blocks.iter().map(|&block| {
            let patch_tokens = (&patches * block as f64)?;
            Ok(BlockFeatures {
                block,
                class_token: patch_tokens.mean(1)?,
                patch_tokens,
            })
        });
        Ok(Features {
            grid,
            blocks: blocks.collect::<Result<_, BackboneError>>()?,
            embedding: request.embedding.map(|_| patches.mean(1)).transpose()?,
        })
    }
}

/// A square of one colour that drifts a little from left to right, with a spot of another colour
/// at patch (row, column) of 16 x 16, if any.
pub(crate) fn image(colour: [u8; 3], spot: Option<([u8; 3], usize, usize)>) -> Image {
    const SIDE: usize = 224;
    let pixels = (0..SIDE * SIDE)
        .flat_map(|i| {
            let (y, x) = (i / SIDE, i % SIDE);
            match spot {
                Some((colour, row, column)) if y / PATCH == row && x / PATCH == column => colour,
                _ => [
                    colour[0].saturating_add((x / 16) as u8),
                    colour[1],
                    colour[2],
                ],
            }
        })
        .collect();
    Image::new(SIDE as u32, SIDE as u32, pixels).unwrap()
}

/// Writes `images` as `0.png`, `1.png`, ... into `folder`.
pub(crate) fn save(folder: &Path, images: &[Image]) -> Vec<anomalens_detectors::ImageSource> {
    images
        .iter()
        .enumerate()
        .map(|(i, image)| {
            let path = folder.join(format!("{i}.png"));
            image.save_png(&path).unwrap();
            path.into()
        })
        .collect()
}
