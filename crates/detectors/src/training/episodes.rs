//! Episodes: each step of training compares some images with a few normal images of their class
//! (InCTRL, section 3.5); and the focal loss that is used with them.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::TrainingSample;
use super::random::{generator, shuffled};
use crate::DetectorError;

/// Steps in an epoch, as in the paper's code.
pub(crate) const STEPS: usize = 100;

/// The images of each step: as many normal as anomalous ones, then the references of each.
pub(crate) struct Episodes {
    normal: Vec<usize>,
    anomalous: Vec<usize>,
    /// For each sample the normal ones of its class.
    peers: Vec<Vec<usize>>,
    half: usize,
    references: usize,
    seed: u32,
}

/// Purposes of the generators; those of the two streams go up from there.
const REFERENCES: u32 = 1;
const STREAMS: [u32; 2] = [1 << 24, 1 << 28];

impl Episodes {
    pub(crate) fn new(
        method: &'static str,
        samples: &[TrainingSample],
        half: usize,
        references: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        if half == 0 {
            return Err(DetectorError::settings(
                method,
                "a step needs at least two images, a normal and an anomalous one",
            ));
        }
        let all = 0..samples.len();
        let (anomalous, normal): (Vec<usize>, Vec<usize>) =
            all.partition(|&i| samples[i].anomalous);
        let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for sample in samples {
            classes.entry(&sample.class).or_default();
        }
        for &i in &normal {
            classes.entry(&samples[i].class).or_default().push(i);
        }
        if let Some((class, normal)) = classes.iter().find(|(_, all)| all.len() < references) {
            let reason = format!(
                "an episode needs {references} normal images of a class, but there are {} of `{class}`",
                normal.len()
            );
            return Err(DetectorError::settings(method, reason));
        }
        Ok(Self {
            peers: samples
                .iter()
                .map(|sample| classes[sample.class.as_str()].clone())
                .collect(),
            normal,
            anomalous,
            half,
            references,
            seed,
        })
    }

    /// The steps of an epoch, counted from 1: the images, normal ones first, then `references` references
    /// of the first image, of the second, and so on.
    pub(crate) fn of(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut random = generator(self.seed, REFERENCES + epoch as u32);
        let first = (epoch - 1) * STEPS;
        (first..first + STEPS)
            .map(|step| {
                let mut images = self.drawn(&self.normal, STREAMS[0], step);
                images.extend(self.drawn(&self.anomalous, STREAMS[1], step));
                let references: Vec<usize> = images
                    .iter()
                    .flat_map(|&image| {
                        let peers = &self.peers[image];
                        let order = shuffled(peers.len(), &mut random);
                        order.into_iter().take(self.references).map(|i| peers[i])
                    })
                    .collect();
                [images, references].concat()
            })
            .collect()
    }

    /// Half of a step's images, from an endless stream of permutations of `all`.
    fn drawn(&self, all: &[usize], purpose: u32, step: usize) -> Vec<usize> {
        let mut permutation = (usize::MAX, vec![]);
        let places = step * self.half..(step + 1) * self.half;
        places
            .map(|place| {
                let round = place / all.len();
                if permutation.0 != round {
                    let mut random = generator(self.seed, purpose + round as u32);
                    permutation = (round, shuffled(all.len(), &mut random));
                }
                all[permutation.1[place % all.len()]]
            })
            .collect()
    }
}

/// Focal loss (Lin et al., 2017) with exponent 2 and weight 1, of logits. The scores of the paper's
/// heads are probabilities already and are taken for logits nevertheless, as the original has it.
pub(crate) fn focal(scores: &Tensor, truth: &Tensor) -> candle_core::Result<Tensor> {
    // Neither kind is so large that the exponential would be infinite.
    let entropy = ((scores.exp()? + 1.0)?.log()? - (scores * truth)?)?;
    let wrong = (1.0 - entropy.neg()?.exp()?)?;
    (wrong.sqr()? * entropy)?.mean_all()
}
