//! An encoder without weights of its own, and images for it.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipText, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::weights::Store;
use anomalens_backbones::{
    Activation, Backbone, BackboneError, EncoderSpec, FeatureMap, FeatureRequest, Grid,
    ImageEncoder, ImageFeatures, Kernels, LayerId, LayerInfo, Normalisation, Precision,
};
use anomalens_vision::{Image, Preprocessed};

/// Encodes a patch as its mean colour, the same after every block but scaled by the block's
/// number; the class token is the mean over all patches.
pub(crate) struct MeanColour;

const PATCH: usize = 14;
const COLOURS: usize = 3;

static SPEC: LazyLock<EncoderSpec> = LazyLock::new(|| {
    let layer = |number| LayerInfo {
        id: LayerId::Block(number),
        dim: COLOURS,
        stride: PATCH,
    };
    EncoderSpec {
        name: "mean colour".to_owned(),
        layers: (1..=12).map(layer).collect(),
        embedding: COLOURS,
        multiple: PATCH,
        normalisation: Normalisation::IMAGENET,
        precision: Precision::F32,
    }
});

impl ImageEncoder for MeanColour {
    fn spec(&self) -> &EncoderSpec {
        &SPEC
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        Ok(images
            .iter()
            .map(|image| features(image, request))
            .collect())
    }

    /// Those of a ResNet-18, for the methods whose training starts from one.
    fn checkpoint(&self) -> Option<&Checkpoint> {
        static RESNET: LazyLock<Arc<dyn ImageEncoder>> = LazyLock::new(|| {
            let store = Store::from_env().unwrap();
            let resnet = Backbone::open("seeded:5:resnet18", Precision::F32, &store, &|_| {});
            resnet.unwrap().encoder
        });
        RESNET.checkpoint()
    }
}

/// The same with a text encoder, of seeded weights.
pub(crate) struct WithText;

impl ImageEncoder for WithText {
    fn spec(&self) -> &EncoderSpec {
        &SPEC
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        MeanColour.encode(images, request)
    }

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        static NETWORK: LazyLock<ClipVision> = LazyLock::new(|| {
            let architecture = Architecture {
                vision: VisionConfig {
                    width: 64,
                    blocks: 1,
                    heads: 1,
                    patch: PATCH,
                    position_side: 2,
                    embedding: COLOURS,
                },
                text: TextConfig {
                    width: 64,
                    blocks: 1,
                    heads: 1,
                    context: 77,
                    vocabulary: 49_408,
                    embedding: COLOURS,
                },
                activation: Activation::QuickGelu,
            };
            let checkpoint = Arc::new(Checkpoint::seeded(5, architecture.shapes()));
            let kernels = Kernels::from_env(Precision::F32).unwrap();
            ClipVision::new(checkpoint, Some(architecture.activation), &kernels).unwrap()
        });
        NETWORK.text(activation)
    }
}

fn features(image: &Preprocessed, request: &FeatureRequest) -> ImageFeatures {
    let grid = Grid {
        rows: image.height / PATCH,
        columns: image.width / PATCH,
    };
    let colour = |patch: usize, colour: usize| -> f32 {
        let (row, column) = (patch / grid.columns, patch % grid.columns);
        let plane = &image.values[colour * image.height * image.width..];
        let lines = (0..PATCH).map(|y| (row * PATCH + y) * image.width + column * PATCH);
        let pixels = lines.flat_map(|start| &plane[start..start + PATCH]);
        pixels.sum::<f32>() / (PATCH * PATCH) as f32
    };
    let patches: Vec<f32> = (0..grid.len() * COLOURS)
        .map(|i| colour(i / COLOURS, i % COLOURS))
        .collect();
    let mean = |tokens: &[f32]| -> Vec<f32> {
        let sum = |colour: usize| tokens.iter().skip(colour).step_by(COLOURS).sum::<f32>();
        (0..COLOURS)
            .map(|colour| sum(colour) / grid.len() as f32)
            .collect()
    };
    let map = |&layer: &LayerId| {
        let number = layer.number();
        if let LayerId::Window(side) = layer {
            return windows(&patches, grid, side);
        }
        let tokens: Vec<f32> = patches.iter().map(|x| x * number as f32).collect();
        FeatureMap {
            layer,
            grid,
            dim: COLOURS,
            class_token: Some(mean(&tokens)),
            tokens,
        }
    };
    ImageFeatures {
        maps: request.layers.iter().map(map).collect(),
        embedding: request.embedding.map(|_| mean(&patches)),
        further: vec![],
    }
}

/// The mean colours of windows of patches.
fn windows(patches: &[f32], grid: Grid, side: usize) -> FeatureMap {
    let of_windows = Grid {
        rows: grid.rows + 1 - side,
        columns: grid.columns + 1 - side,
    };
    let tokens = (0..of_windows.len() * COLOURS).map(|i| {
        let (window, colour) = (i / COLOURS, i % COLOURS);
        let (y, x) = (window / of_windows.columns, window % of_windows.columns);
        let inside = (y..y + side).flat_map(|y| (x..x + side).map(move |x| y * grid.columns + x));
        let sum: f32 = inside.map(|patch| patches[patch * COLOURS + colour]).sum();
        sum / (side * side) as f32
    });
    FeatureMap {
        layer: LayerId::Window(side),
        grid: of_windows,
        dim: COLOURS,
        tokens: tokens.collect(),
        class_token: None,
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
