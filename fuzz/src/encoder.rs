//! An encoder without weights.

use std::sync::OnceLock;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::{
    BackboneError, EncoderSpec, FeatureMap, FeatureRequest, Grid, ImageEncoder, ImageFeatures,
    LayerId, LayerInfo, Normalisation, Precision,
};
use anomalens_vision::Preprocessed;

/// Encodes a patch as its mean colour, the same after every block but scaled by its number.
pub(crate) struct MeanColour;

const PATCH: usize = 14;
const DIM: usize = 3;

impl ImageEncoder for MeanColour {
    fn spec(&self) -> &EncoderSpec {
        static SPEC: OnceLock<EncoderSpec> = OnceLock::new();
        SPEC.get_or_init(|| EncoderSpec {
            name: "mean colour".to_owned(),
            layers: (1..=12)
                .map(|block| LayerInfo {
                    id: LayerId::Block(block),
                    dim: DIM,
                    stride: PATCH,
                })
                .collect(),
            embedding: DIM,
            multiple: PATCH,
            normalisation: Normalisation::IMAGENET,
            precision: Precision::F32,
        })
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        images
            .iter()
            .map(|image| features(image, request))
            .collect()
    }

    /// Of a narrow network, whose width those take that start from it.
    fn checkpoint(&self) -> Option<&Checkpoint> {
        static NARROW: OnceLock<Checkpoint> = OnceLock::new();
        let stem = || [("conv1.weight".to_owned(), vec![2, 3, 7, 7])];
        Some(NARROW.get_or_init(|| Checkpoint::seeded(1, stem())))
    }
}

fn features(
    image: &Preprocessed,
    request: &FeatureRequest,
) -> Result<ImageFeatures, BackboneError> {
    let Preprocessed {
        height,
        width,
        values,
    } = image;
    MeanColour.spec().check(image)?;
    let grid = Grid {
        rows: height / PATCH,
        columns: width / PATCH,
    };
    let mean = |row: usize, column: usize, channel: usize| {
        let pixels = (0..PATCH * PATCH).map(|i| {
            let (y, x) = (row * PATCH + i / PATCH, column * PATCH + i % PATCH);
            values[channel * height * width + y * width + x]
        });
        pixels.sum::<f32>() / (PATCH * PATCH) as f32
    };
    let tokens: Vec<f32> = (0..grid.len() * DIM)
        .map(|i| mean(i / DIM / grid.columns, i / DIM % grid.columns, i % DIM))
        .collect();
    let maps = request.layers.iter().map(|&layer| {
        MeanColour.spec().layer(layer)?;
        let scale = layer.number() as f32;
        let LayerId::Window(side) = layer else {
            return Ok(FeatureMap {
                layer,
                grid,
                dim: DIM,
                tokens: tokens.iter().map(|x| x * scale).collect(),
                class_token: Some(vec![scale; DIM]),
            });
        };
        // Each window as the patch in its upper left corner.
        let of_windows = Grid {
            rows: (grid.rows + 1).saturating_sub(side),
            columns: (grid.columns + 1).saturating_sub(side),
        };
        if of_windows.is_empty() {
            return Err(BackboneError::NoSuchLayer {
                layer,
                encoder: "mean colour".to_owned(),
                last: None,
            });
        }
        let rows = tokens
            .chunks_exact(grid.columns * DIM)
            .take(of_windows.rows);
        Ok(FeatureMap {
            layer,
            grid: of_windows,
            dim: DIM,
            tokens: rows
                .flat_map(|row| &row[..of_windows.columns * DIM])
                .copied()
                .collect(),
            class_token: None,
        })
    });
    Ok(ImageFeatures {
        maps: maps.collect::<Result<_, BackboneError>>()?,
        embedding: request.embedding.map(|_| vec![1.0; DIM]),
        further: vec![],
    })
}
