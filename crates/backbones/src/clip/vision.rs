//! CLIP's vision transformer as an [`ImageEncoder`].

use std::sync::Arc;

use anomalens_vision::Preprocessed;
use candle_core::{Device, Tensor};

use super::layers::{LAYER_NORM_EPS, Reader};
use super::{ClipTensors, ClipText, VisionConfig};
use crate::checkpoint::Checkpoint;
use crate::vit::VisionTransformer;
use crate::vit::parts::{BlockParts, FeedForward, Head, Layer, Shape, Stem, Weights};
use crate::{
    Activation, BackboneError, Blueprint, EncoderSpec, FeatureRequest, ImageEncoder, ImageFeatures,
    Kernels, PositionResize,
};

/// CLIP's image encoder.
pub struct ClipVision {
    config: VisionConfig,
    network: VisionTransformer,
    /// The file, from which the text tower is read when it is asked for.
    checkpoint: Arc<Checkpoint>,
    activation: Activation,
}

impl ClipVision {
    /// Builds the encoder from its weights; the text tower's are not touched. `activation` is
    /// needed where the file does not say it or is wrong.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        activation: Option<Activation>,
        kernels: &Kernels,
    ) -> Result<Self, BackboneError> {
        let tensors = tensors(&checkpoint)?;
        let activation = match activation {
            Some(activation) => activation,
            None => tensors.activation()?.0,
        };
        let config = VisionConfig::of(&tensors)?;
        let shape = Shape {
            name: config.name(),
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            position_side: config.position_side,
            position_resize: PositionResize::Bilinear,
            epsilon: LAYER_NORM_EPS,
            feed_forward: FeedForward::Plain(activation),
            embedding: config.embedding,
        };
        let weights = VisionWeights {
            tensors,
            config: &config,
        };
        Ok(Self {
            network: VisionTransformer::new(shape, &weights, kernels)?,
            activation,
            checkpoint,
            config,
        })
    }

    pub(crate) fn transformer(&self) -> &VisionTransformer {
        &self.network
    }

    /// What stands between the feed-forward layers of all blocks.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// What the shapes of the weights say.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }
}

/// The view of a checkpoint that must be one of CLIP.
fn tensors(checkpoint: &Checkpoint) -> Result<ClipTensors<'_>, BackboneError> {
    ClipTensors::new(checkpoint).ok_or_else(|| BackboneError::UnknownFamily {
        path: checkpoint.path().to_owned(),
        known: "CLIP",
    })
}

/// The vision tower's weights.
struct VisionWeights<'a> {
    tensors: ClipTensors<'a>,
    config: &'a VisionConfig,
}

impl VisionWeights<'_> {
    fn reader(&self, prefix: String) -> Reader<'_> {
        Reader {
            tensors: &self.tensors,
            prefix,
        }
    }

    fn outside(&self) -> Reader<'_> {
        self.reader("visual.".to_owned())
    }
}

impl Weights for VisionWeights<'_> {
    fn positions(&self) -> Result<Tensor, BackboneError> {
        let shape = [1 + self.config.position_side.pow(2), self.config.width];
        self.outside().tensor("positional_embedding", &shape)
    }

    fn stem(&self) -> Result<Stem, BackboneError> {
        let VisionConfig { width, patch, .. } = *self.config;
        let reader = self.outside();
        let projection = reader.tensor("conv1.weight", &[width, 3, patch, patch])?;
        Ok(Stem {
            projection: Layer {
                weight: projection.flatten_from(1)?,
                bias: Tensor::zeros(width, projection.dtype(), &Device::Cpu)?,
            },
            class_token: reader.tensor("class_embedding", &[width])?,
            norm: Some(reader.norm("ln_pre", width)?),
        })
    }

    fn block(&self, i: usize) -> Result<BlockParts, BackboneError> {
        let width = self.config.width;
        let reader = self.reader(format!("visual.transformer.resblocks.{i}."));
        Ok(BlockParts {
            norm1: reader.norm("ln_1", width)?,
            qkv: Layer {
                weight: reader.tensor("attn.in_proj_weight", &[3 * width, width])?,
                bias: reader.tensor("attn.in_proj_bias", &[3 * width])?,
            },
            output: reader.layer("attn.out_proj", width, width)?,
            scale1: None,
            norm2: reader.norm("ln_2", width)?,
            up: reader.layer("mlp.c_fc", width, 4 * width)?,
            down: reader.layer("mlp.c_proj", 4 * width, width)?,
            scale2: None,
        })
    }

    fn head(&self) -> Result<Head, BackboneError> {
        let VisionConfig {
            width, embedding, ..
        } = *self.config;
        let reader = self.outside();
        Ok(Head {
            norm: reader.norm("ln_post", width)?,
            projection: Some(reader.tensor("proj", &[width, embedding])?),
        })
    }
}

impl ImageEncoder for ClipVision {
    fn spec(&self) -> &EncoderSpec {
        self.network.spec()
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.network.encode(images, request)
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        self.network.check(request)
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        self.network.blueprint()
    }

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        let tensors = tensors(&self.checkpoint)?;
        ClipText::new(&tensors, activation.unwrap_or(self.activation)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anomalens_kernels::{
        Departures, Dpam, Engine, FeatureRequest, Grid, LayerId, Precision, SelfAttention,
        TokenStage,
    };

    use super::*;

    fn golden(name: &str) -> Tensor {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens/denseclip_tiny.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()[name].clone()
    }

    /// `[batch, channels, rows, columns]` as rows of channels.
    fn places(map: &Tensor) -> Vec<f32> {
        let map = map.flatten_from(2).unwrap().transpose(1, 2).unwrap();
        flat(&map)
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[track_caller]
    fn near(found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(expected);
        let largest = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(largest <= tolerance, "{largest}");
    }

    /// MaskCLIP's network: heads of 32 numbers, which no published one has, so that it is put together here.
    fn network() -> VisionTransformer {
        let config = VisionConfig {
            width: 64,
            blocks: 3,
            heads: 2,
            patch: 16,
            position_side: 4,
            embedding: 32,
        };
        let architecture = crate::clip::Architecture {
            vision: config.clone(),
            text: crate::clip::TextConfig {
                width: 64,
                blocks: 1,
                heads: 1,
                context: 8,
                vocabulary: 16,
                embedding: 32,
            },
            activation: Activation::QuickGelu,
        };
        let checkpoint = Checkpoint::seeded(95, architecture.shapes());
        let shape = Shape {
            name: "small".to_owned(),
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            position_side: config.position_side,
            position_resize: PositionResize::Bilinear,
            epsilon: LAYER_NORM_EPS,
            feed_forward: FeedForward::Plain(Activation::QuickGelu),
            embedding: config.embedding,
        };
        let weights = VisionWeights {
            tensors: tensors(&checkpoint).unwrap(),
            config: &config,
        };
        let kernels = Kernels::new(Engine::detect(), Precision::F32);
        VisionTransformer::new(shape, &weights, &kernels).unwrap()
    }

    #[test]
    fn values_and_keys_are_those_of_maskclip() {
        let network = network();
        let images = golden("dense.images");
        let images: Vec<Preprocessed> = (0..2)
            .map(|i| Preprocessed {
                height: 64,
                width: 64,
                values: flat(&images.get(i).unwrap()),
            })
            .collect();
        let last = FeatureRequest {
            positions: Some(PositionResize::Bicubic),
            departures: Departures {
                activation: Some(Activation::Gelu),
                norm_epsilon: Some(6),
                ..Departures::default()
            },
            ..FeatureRequest::blocks([3])
        };
        let values = |stage| FeatureRequest {
            attention: Some(Dpam {
                first_block: 3,
                attention: SelfAttention::Alone,
                feed_forward: true,
            }),
            stage,
            ..last.clone()
        };
        for (name, request) in [
            ("mask.x", last.clone().at(TokenStage::Normed)),
            ("mask.v", values(TokenStage::Normed)),
            ("mask.feat", values(TokenStage::Projected)),
        ] {
            let found = network.encode(&images, &request).unwrap();
            let tokens = found.iter().flat_map(|image| image.maps[0].tokens.clone());
            near(&tokens.collect::<Vec<_>>(), &places(&golden(name)), 5e-5);
        }
        let keys = last.clone().at(TokenStage::Keys);
        let found = network.encode(&images, &keys).unwrap();
        let tokens = found.iter().flat_map(|image| {
            let layer = LayerId::Block(3);
            image.map(layer).unwrap().tokens.clone()
        });
        near(&tokens.collect::<Vec<_>>(), &flat(&golden("mask.k")), 5e-5);
        let grid = Grid {
            rows: 5,
            columns: 4,
        };
        let positions = network.position_embedding(grid, Some(PositionResize::Bicubic));
        near(
            &flat(&positions.unwrap()),
            &flat(&golden("mask80.pos_embed")),
            2e-6,
        );
        let tall = Preprocessed {
            height: 80,
            width: 64,
            values: flat(&golden("dense.image_80x64")),
        };
        let found = network
            .encode(&[tall], &values(TokenStage::Projected))
            .unwrap();
        let texts: Vec<Vec<f32>> = golden("mask.text_embeddings").to_vec2().unwrap();
        let scores = texts.iter().flat_map(|text| {
            found[0].maps[0].tokens.chunks(32).map(|patch| {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                dot(patch, text) / dot(patch, patch).sqrt()
            })
        });
        near(
            &scores.collect::<Vec<_>>(),
            &flat(&golden("mask80.score")),
            5e-5,
        );
    }
}
