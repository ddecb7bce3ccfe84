//! What InCTRL learns (paper, sections 3.2 to 3.4): the adapter of the image-level residual and
//! two small heads that turn residuals into scores. Tensors have the names of the original's
//! checkpoints.

use candle_core::{Tensor, Var};
use candle_nn::ops::sigmoid;
use rand_mt::Mt;

use super::settings::Settings;
use crate::components::convnet::{BatchNorm, Phase};
use crate::training::random::generator;
use crate::training::{Linear, initial};

/// Widths of the heads' hidden layers.
const HIDDEN: [usize; 2] = [128, 64];

/// Purpose of the generator of initial values.
const INITIAL_VALUES: u32 = u32::MAX;

/// What the frozen networks say of a batch of images compared with their shots.
pub(super) struct Evidence {
    /// Probability of the anomalous prompts, `[batch]`.
    pub(super) text: Tensor,
    /// Patch residuals averaged over the blocks, `[batch, patches]`.
    pub(super) map: Tensor,
    /// `[batch, embedding]`.
    pub(super) embedding: Tensor,
    /// Mean of the shots' adapted embeddings, `[batch, embedding]`.
    pub(super) references: Tensor,
}

/// The scores of a batch, each `[batch]`.
pub(super) struct Scores {
    /// The anomaly score.
    pub(super) anomaly: Tensor,
    /// That of the image-level residual alone; none if it does not take part.
    pub(super) image: Option<Tensor>,
    /// That of everything together, before the largest patch residual comes in.
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the original's"))]
    pub(super) holistic: Tensor,
}

/// The sizes that everything follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Numbers of an embedding.
    pub(super) embedding: usize,
    /// Patches of an image.
    pub(super) patches: usize,
    /// Width of the adapter's middle.
    pub(super) middle: usize,
}

/// The learned parts.
pub(super) struct Network {
    sizes: Sizes,
    /// `[middle, embedding]` and `[embedding, middle]`.
    adapter: [Var; 2],
    /// From the patches, `diff_head` in the original.
    map_head: Head,
    /// From the residual of the embedding, `diff_head_ref` in the original.
    image_head: Head,
}

impl Network {
    /// Initial values from `seed`, as PyTorch's linear layers have them.
    pub(super) fn new(sizes: Sizes, seed: u32) -> candle_core::Result<Self> {
        let Sizes {
            embedding,
            patches,
            middle,
        } = sizes;
        let mut random = generator(seed, INITIAL_VALUES);
        Ok(Self {
            sizes,
            adapter: [
                initial(&[middle, embedding], embedding, &mut random)?,
                initial(&[embedding, middle], middle, &mut random)?,
            ],
            map_head: Head::new(patches, &mut random)?,
            image_head: Head::new(embedding, &mut random)?,
        })
    }

    /// The sizes.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Everything that a checkpoint holds, by the original's names; running statistics, which
    /// have no gradient, too.
    pub(super) fn variables(&self) -> Vec<(String, Var)> {
        let [down, up] = self.adapter.clone();
        let mut all = vec![
            ("adapter.fc.0.weight".to_owned(), down),
            ("adapter.fc.2.weight".to_owned(), up),
        ];
        for (name, head) in [
            ("diff_head", &self.map_head),
            ("diff_head_ref", &self.image_head),
        ] {
            let parts = head.variables();
            all.extend(parts.map(|(part, var)| (format!("{name}.{part}"), var)));
        }
        all
    }

    /// Embeddings `[n, embedding]` through the adapter.
    pub(super) fn adapt(&self, embeddings: &Tensor) -> candle_core::Result<Tensor> {
        let [down, up] = &self.adapter;
        let middle = embeddings.matmul(&down.t()?)?.relu()?;
        middle.matmul(&up.t()?)?.relu()
    }

    /// The scores that `evidence` amounts to.
    pub(super) fn scores(
        &self,
        evidence: &Evidence,
        settings: &Settings,
        phase: Phase,
    ) -> candle_core::Result<Scores> {
        let zeros = evidence.text.zeros_like()?;
        let text = if settings.text_prior {
            &evidence.text
        } else {
            &zeros
        };
        let image = if settings.image_residual {
            let residual = (&evidence.references - self.adapt(&evidence.embedding)?)?;
            Some(self.image_head.forward(&residual, phase)?)
        } else {
            None
        };
        let both = match &image {
            Some(image) => (text + image)?,
            None => text.clone(),
        };
        let map = if settings.patch_residual {
            evidence.map.clone()
        } else {
            evidence.map.zeros_like()?
        };
        let holistic = map.broadcast_add(&both.unsqueeze(1)?)?;
        let holistic = self.map_head.forward(&holistic, phase)?;
        let anomaly = if settings.patch_residual && settings.max_term {
            ((&holistic + map.max(1)?)? / 2.0)?
        } else {
            holistic.clone()
        };
        Ok(Scores {
            anomaly,
            image,
            holistic,
        })
    }
}

/// Three linear layers with batch norm after the activation of the first two, and a sigmoid.
struct Head {
    layers: [Linear; 3],
    /// The first, over the inputs, is in every checkpoint and used nowhere.
    norms: [BatchNorm; 3],
}

impl Head {
    fn new(inputs: usize, random: &mut Mt) -> candle_core::Result<Self> {
        let [first, second] = HIDDEN;
        Ok(Self {
            layers: [
                Linear::new(inputs, first, random)?,
                Linear::new(first, second, random)?,
                Linear::new(second, 1, random)?,
            ],
            norms: [
                BatchNorm::new(inputs)?,
                BatchNorm::new(first)?,
                BatchNorm::new(second)?,
            ],
        })
    }

    /// Probabilities `[batch]` from `[batch, inputs]`.
    fn forward(&self, inputs: &Tensor, phase: Phase) -> candle_core::Result<Tensor> {
        let [first, second, last] = &self.layers;
        let [_, first_norm, second_norm] = &self.norms;
        let x = first_norm.forward(&first.forward(inputs)?.relu()?, phase)?;
        let x = second_norm.forward(&second.forward(&x)?.relu()?, phase)?;
        sigmoid(&last.forward(&x)?.squeeze(1)?)
    }

    fn variables(&self) -> impl Iterator<Item = (String, Var)> {
        let layers = (1..).zip(&self.layers).flat_map(|(i, layer)| {
            let parts = layer.variables().into_iter();
            parts.map(move |(part, var)| (format!("projection{i}.{part}"), var))
        });
        let norms = (1..).zip(&self.norms).flat_map(|(i, norm)| {
            let parts = norm.variables().into_iter();
            parts.map(move |(part, var)| (format!("bn{i}.{part}"), var))
        });
        layers.chain(norms)
    }
}
