//! What ACR learns (paper, section 3.3, Deep SVDD): layers with batch norms that bring the features of a
//! batch near a learned centre, as long as most of the batch is normal. Tensors have the names of the
//! original's checkpoints.

use candle_core::{D, Device, Tensor, Var};

use crate::components::convnet::{BatchNorm, Phase};
use crate::training::Linear;
use crate::training::random::{generator, normal, uniform};

/// Purpose of the generator of initial values.
const INITIAL_VALUES: u32 = u32::MAX;

/// The sizes that everything follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Numbers of a feature, then of what each hidden layer makes of it.
    pub(super) widths: Vec<usize>,
    /// Numbers of the centre.
    pub(super) output: usize,
}

impl Sizes {
    /// So many hidden `layers`, each half as wide as the one before.
    pub(super) fn halving(width: usize, layers: usize, output: usize) -> Self {
        let widths = std::iter::successors(Some(width), |width| Some((width / 2).max(1)));
        Self {
            widths: widths.take(1 + layers).collect(),
            output,
        }
    }

    /// Hidden layers that bring `width` numbers down to `output`, or nearly so: five from 1024 to 32.
    pub(super) fn layers(width: usize, output: usize) -> usize {
        (width / output.max(1)).checked_ilog2().unwrap_or(0) as usize
    }
}

/// The learned parts.
pub(super) struct Network {
    hidden: Vec<(Linear, BatchNorm)>,
    last: (Linear, BatchNorm),
    /// `[output]`.
    centre: Var,
}

impl Network {
    /// Initial values from `seed`, drawn from what the original draws them from.
    pub(super) fn new(sizes: &Sizes, seed: u32) -> candle_core::Result<Self> {
        let mut random = generator(seed, INITIAL_VALUES);
        let pairs = sizes.widths.iter().zip(sizes.widths.iter().skip(1));
        let hidden = pairs.map(|(&inputs, &outputs)| {
            Ok((
                Linear::new(inputs, outputs, &mut random)?,
                BatchNorm::new(outputs)?,
            ))
        });
        let hidden = hidden.collect::<candle_core::Result<Vec<_>>>()?;
        let inputs = sizes.widths.last().copied().unwrap_or(1);
        let last = Linear::new(inputs, sizes.output, &mut random)?;
        let norm = BatchNorm::new(sizes.output)?;
        let scales: Vec<f32> = (0..sizes.output)
            .map(|_| uniform(&mut random) as f32)
            .collect();
        norm.weight.set(&Tensor::new(scales, &Device::Cpu)?)?;
        let centre = normal(sizes.output, 1.0, &mut random);
        Ok(Self {
            hidden,
            last: (last, norm),
            centre: Var::new(centre, &Device::Cpu)?,
        })
    }

    /// Numbers of a feature.
    pub(super) fn width(&self) -> usize {
        let (first, _) = self.hidden.first().unwrap_or(&self.last);
        first.weight.dims()[1]
    }

    /// Numbers of the centre.
    pub(super) fn output(&self) -> usize {
        self.centre.dims()[0]
    }

    /// Hidden layers.
    pub(super) fn layers(&self) -> usize {
        self.hidden.len()
    }

    /// Everything that a checkpoint holds, by the original's names; running statistics, which have no
    /// gradient and which scores do not use, too.
    pub(super) fn variables(&self) -> Vec<(String, Var)> {
        let mut all = vec![("center".to_owned(), self.centre.clone())];
        let hidden = (0..).step_by(3).zip(&self.hidden);
        let hidden = hidden.map(|(i, pair)| (format!("enc.{i}"), format!("enc.{}", i + 1), pair));
        let last = ("fc".to_owned(), "batch_norm".to_owned(), &self.last);
        for (linear, norm, (layer, batch)) in hidden.chain([last]) {
            let parts = layer.variables().into_iter();
            all.extend(parts.map(|(part, var)| (format!("{linear}.{part}"), var)));
            let parts = batch.variables().into_iter();
            all.extend(parts.map(|(part, var)| (format!("{norm}.{part}"), var)));
        }
        all
    }

    /// `[batches, rows, output]` from features `[batches, rows, width]`; each batch by itself.
    pub(super) fn forward(&self, features: &Tensor, phase: Phase) -> candle_core::Result<Tensor> {
        let mut x = features.clone();
        for (layer, norm) in &self.hidden {
            x = norm.forward_sets(&layer.forward(&x)?, phase)?.relu()?;
        }
        let (layer, norm) = &self.last;
        norm.forward_sets(&layer.forward(&x)?, phase)
    }

    /// Squared distances from the centre, `[batches, rows]`: the anomaly scores.
    pub(super) fn distances(&self, features: &Tensor, phase: Phase) -> candle_core::Result<Tensor> {
        squared_distances(&self.forward(features, phase)?, self.centre.as_tensor())
    }
}

/// Squared distances of `[..., width]` from `centre`.
pub(super) fn squared_distances(z: &Tensor, centre: &Tensor) -> candle_core::Result<Tensor> {
    z.broadcast_sub(centre)?.sqr()?.sum(D::Minus1)
}

/// The loss of batches with distances `[batches, rows]`, where `anomalous` (the same shape) is 0 or 1: distances of
/// normal rows, and one over those of anomalous ones; without these if `one_class`.
pub(super) fn loss(
    distances: &Tensor,
    anomalous: &Tensor,
    one_class: bool,
) -> candle_core::Result<Tensor> {
    let normal = (1.0 - anomalous)?;
    let near = (distances * &normal)?;
    if one_class {
        return (near.sum(D::Minus1)? / normal.sum(D::Minus1)?)?.mean_all();
    }
    // One where the row is normal: what is not used must be finite.
    let divisors = ((distances * anomalous)? + &normal)?;
    (near + (anomalous / divisors)?)?.mean_all()
}
