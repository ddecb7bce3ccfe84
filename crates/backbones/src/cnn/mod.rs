//! What all convolutional networks have in common: steps with the names of their tensors, read from
//! a checkpoint with batch norm folded into the convolutions, and the encoder that they become.
//!
//! ```text
//! plan.rs     a network's steps, and the tensors that each of them needs
//! packed.rs   packed networks in files
//! ```

mod packed;
mod plan;

use anomalens_kernels::{ConvNet, FeatureRequest, LayerId};
use anomalens_vision::Preprocessed;

pub(crate) use packed::{open, recognises as packed_recognises};
pub(crate) use plan::{ConvNames, Plan, Scale};

use crate::checkpoint::Checkpoint;
use crate::encoder::by_size;
use crate::{
    BackboneError, Blueprint, ConvBlueprint, EncoderSpec, ImageEncoder, ImageFeatures, Kernels,
    LayerInfo, Normalisation, Precision, efficientnet, resnet,
};

/// Both sides of an input are multiples of it: the stride of the last stage of every network here,
/// so that no feature map covers less than the image.
const MULTIPLE: usize = 32;

/// The network that a checkpoint holds, if it is of a family of convolutional networks.
pub(crate) fn plan(checkpoint: &Checkpoint) -> Option<Result<Plan, BackboneError>> {
    if resnet::recognises(checkpoint) {
        return Some(resnet::plan(checkpoint));
    }
    efficientnet::recognises(checkpoint).then(|| efficientnet::plan(checkpoint))
}

/// A convolutional network, ready to encode.
pub(crate) struct ConvEncoder {
    spec: EncoderSpec,
    network: ConvNet,
    /// What it was made from; none for packed networks.
    checkpoint: Option<Checkpoint>,
}

impl ConvEncoder {
    /// Reads the tensors that `plan` needs, and packs them.
    pub(crate) fn new(
        plan: &Plan,
        checkpoint: &Checkpoint,
        kernels: &Kernels,
    ) -> Result<Self, BackboneError> {
        let network = plan.pack(checkpoint, kernels)?;
        let (stages, embedding) = plan.sizes();
        let encoder = Self::of_parts(
            plan.name.clone(),
            plan.normalisation,
            stages,
            embedding,
            network,
            kernels.engine.runs(kernels.precision),
        );
        Ok(Self {
            checkpoint: Some(checkpoint.clone()),
            ..encoder
        })
    }

    fn of_parts(
        name: String,
        normalisation: Normalisation,
        stages: Vec<Scale>,
        embedding: usize,
        network: ConvNet,
        precision: Precision,
    ) -> Self {
        let layer = |(i, scale): (usize, Scale)| LayerInfo {
            id: LayerId::Stage(i + 1),
            dim: scale.dim,
            stride: scale.stride,
        };
        Self {
            spec: EncoderSpec {
                name,
                layers: stages.into_iter().enumerate().map(layer).collect(),
                embedding,
                multiple: MULTIPLE,
                normalisation,
                precision,
            },
            network,
            checkpoint: None,
        }
    }
}

impl ImageEncoder for ConvEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.check(request)?;
        by_size(&self.spec, images, |images| {
            Ok(self.network.encode(images, request)?)
        })
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        // A local stream of tokens is one of blocks, which no such network has.
        let local = request.attention.map(|dpam| dpam.first_block);
        let local = local.map(LayerId::Block);
        for &layer in request.layers.iter().chain(&local) {
            self.spec.layer(layer)?;
        }
        if !request.departures.is_none() {
            return Err(BackboneError::NoOtherActivation(self.spec.name.clone()));
        }
        let last = request.layers.iter().map(|layer| layer.number());
        let held = self.network.stages().len();
        let stage = match request.embedding {
            Some(_) if self.network.embedding().is_none() => self.spec.layers.len(),
            _ => last.max().unwrap_or(0),
        };
        let lacks_embedding = request.embedding.is_some() && self.network.embedding().is_none();
        match stage > held || lacks_embedding {
            true => Err(BackboneError::StageNotHeld {
                stage,
                encoder: self.spec.name.clone(),
                held,
            }),
            false => Ok(()),
        }
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        Some(Blueprint::Convolutional(ConvBlueprint(&self.network)))
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }
}
