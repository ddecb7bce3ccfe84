//! What every network is to the rest of the program: preprocessed images in, features out.

use std::collections::BTreeMap;
use std::sync::Arc;

use anomalens_kernels::{Activation, FeatureRequest, ImageFeatures, Images, LayerId, Precision};
use anomalens_vision::Preprocessed;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::clip::ClipText;
use crate::{BackboneError, Blueprint};

/// What is known of a network before it sees an image.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// A name for people, such as `DINOv2 ViT-S/14`.
    pub name: String,
    /// The layers after which tokens can be taken, from the first to the last.
    pub layers: Vec<LayerInfo>,
    /// Length of an embedding and of a projected token.
    pub embedding: usize,
    /// Both sides of an input are multiples of it, in pixels: the patch of a transformer, the last
    /// stride of a convolutional network.
    pub multiple: usize,
    /// How pixels are scaled before the network sees them.
    pub normalisation: Normalisation,
    /// How exactly the network computes here, which may be more exactly than was asked for.
    pub precision: Precision,
}

/// What the network was trained with: a colour `x` in 0..=1 becomes `(x - mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Of R, G and B.
    pub mean: [f32; 3],
    /// Of R, G and B; positive.
    pub std: [f32; 3],
}

impl Normalisation {
    /// ImageNet's as torchvision has it: ResNets, DINOv2.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// OpenAI's CLIP, used by OpenCLIP as well.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// `(level - 127) / 128` of the levels 0 to 255: EfficientNet-Lite.
    pub const LEVELS: Self = Self {
        mean: [127.0 / 255.0; 3],
        std: [128.0 / 255.0; 3],
    };
}

/// A layer after which tokens can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// The layer.
    pub id: LayerId,
    /// Length of a token.
    pub dim: usize,
    /// Pixels from one token to the next, in the input.
    pub stride: usize,
}

impl EncoderSpec {
    /// What is known of `layer`.
    ///
    /// # Errors
    /// [`BackboneError::NoSuchLayer`].
    pub fn layer(&self, layer: LayerId) -> Result<LayerInfo, BackboneError> {
        if let (LayerId::Window(1..), 1..) = (layer, self.blocks()) {
            return Ok(LayerInfo {
                id: layer,
                dim: self.embedding,
                stride: self.multiple,
            });
        }
        let mut layers = self.layers.iter();
        let found = layers.find(|info| info.id == layer);
        found.copied().ok_or_else(|| BackboneError::NoSuchLayer {
            layer,
            encoder: self.name.clone(),
            last: self.layers.last().map(|info| info.id),
        })
    }

    /// How many blocks a transformer has; 0 for other networks.
    pub fn blocks(&self) -> usize {
        let ids = self.layers.iter().map(|info| info.id);
        ids.filter(|id| matches!(id, LayerId::Block(_))).count()
    }

    /// Refuses an image that cannot be encoded.
    ///
    /// # Errors
    /// [`BackboneError::InputSize`].
    pub fn check(&self, image: &Preprocessed) -> Result<(), BackboneError> {
        let (height, width, multiple) = (image.height, image.width, self.multiple);
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
        let count = height.checked_mul(width).and_then(|n| n.checked_mul(3));
        if fits(height) && fits(width) && count == Some(image.values.len()) {
            return Ok(());
        }
        Err(BackboneError::InputSize {
            height,
            width,
            numbers: image.values.len(),
            multiple,
        })
    }
}

/// A frozen network that turns images into features.
///
/// The features of an image do not depend on the images that are encoded with it, nor on how many
/// threads there are.
pub trait ImageEncoder: Send + Sync {
    /// What is known of the network.
    fn spec(&self) -> &EncoderSpec;

    /// The features of each of `images`, in their order. Images may differ in size; those of one
    /// size are encoded together.
    ///
    /// # Errors
    /// [`BackboneError::InputSize`], [`BackboneError::NoSuchLayer`] and
    /// [`BackboneError::BlockNotHeld`] for what the network cannot give.
    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError>;

    /// The text encoder that shares the space of the embeddings, read anew each time, with another
    /// activation than its own if one is given; none where the network has none.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has a wrong shape.
    fn text(&self, _activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        Ok(None)
    }

    /// The tensors that it was made from, for methods whose own network starts from them; none where only
    /// a packed copy is there.
    fn checkpoint(&self) -> Option<&Checkpoint> {
        None
    }

    /// What the network computes, for those who run it elsewhere; none where that is not known.
    fn blueprint(&self) -> Option<Blueprint<'_>> {
        None
    }

    /// Refuses what the network cannot give.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode) that have nothing to do with the images.
    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        for &layer in &request.layers {
            self.spec().layer(layer)?;
        }
        Ok(())
    }

    /// How many images should be encoded together where many are at hand: more bring no more speed.
    fn batch(&self) -> usize {
        8
    }

    /// The networks that see the same images beside it, where several are used together.
    fn companions(&self) -> &[Arc<dyn ImageEncoder>] {
        &[]
    }
}

impl dyn ImageEncoder + '_ {
    /// The network with this number among those that are used together: 0 is itself.
    ///
    /// # Errors
    /// [`BackboneError::NoSuchNetwork`].
    pub fn network(&self, number: usize) -> Result<&dyn ImageEncoder, BackboneError> {
        if number == 0 {
            return Ok(self);
        }
        let found = self.companions().get(number - 1).map(Arc::as_ref);
        found.ok_or_else(|| BackboneError::NoSuchNetwork {
            number: number + 1,
            count: self.companions().len() + 1,
        })
    }
}

/// Several networks that see the same images. Alone it is the first of them.
pub(crate) struct Together {
    pub(crate) first: Arc<dyn ImageEncoder>,
    pub(crate) companions: Vec<Arc<dyn ImageEncoder>>,
}

impl ImageEncoder for Together {
    fn spec(&self) -> &EncoderSpec {
        self.first.spec()
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.first.encode(images, request)
    }

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        self.first.text(activation)
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.first.checkpoint()
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        self.first.blueprint()
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        self.first.check(request)
    }

    fn batch(&self) -> usize {
        self.first.batch()
    }

    fn companions(&self) -> &[Arc<dyn ImageEncoder>] {
        &self.companions
    }
}

/// Gives `encode` the images of each size together, and returns what it returns for each image in
/// the order of `images`; all of them must fit the network.
///
/// # Errors
/// [`BackboneError::InputSize`], and those of `encode`.
pub fn by_size(
    spec: &EncoderSpec,
    images: &[Preprocessed],
    mut encode: impl FnMut(&Images) -> Result<Vec<ImageFeatures>, BackboneError>,
) -> Result<Vec<ImageFeatures>, BackboneError> {
    images.iter().try_for_each(|image| spec.check(image))?;
    let mut sizes: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (i, image) in images.iter().enumerate() {
        let same = sizes.entry((image.height, image.width));
        same.or_default().push(i);
    }
    let mut features = Vec::with_capacity(images.len());
    for ((height, width), places) in sizes {
        let pixels = places.iter().map(|&i| images[i].values.as_slice());
        let same = Images {
            pixels: pixels.collect(),
            height,
            width,
        };
        features.extend(places.into_iter().zip(encode(&same)?));
    }
    features.sort_unstable_by_key(|(place, _)| *place);
    Ok(features.into_iter().map(|(_, features)| features).collect())
}
