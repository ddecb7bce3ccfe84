//! Labelled images for training.

use anomalens_backbones::weights::ContentHash;
use anomalens_vision::{Limits, MaskSource};
use rayon::prelude::*;

use crate::{DetectorError, ImageSource};

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingSample {
    /// The image.
    pub source: ImageSource,
    /// What it shows.
    pub class: String,
    /// Whether it shows an anomaly.
    pub anomalous: bool,
    /// Where; where that is not known, only the label of the image is learned from.
    pub mask: MaskSource,
}

impl TrainingSample {
    /// The anomalous pixels at `side` x `side`, or none if they are not known.
    fn mask(&self, side: u32, limits: &Limits) -> Result<Option<Vec<bool>>, DetectorError> {
        let path = match &self.mask {
            MaskSource::File(file) => file.path.as_path(),
            _ => self.source.path(),
        };
        let unusable = |reason: String| DetectorError::TrainingMask {
            path: path.to_owned(),
            reason,
        };
        let mask = self.mask.open(limits);
        let Some(mut mask) = mask.map_err(|e| unusable(e.to_string()))? else {
            let known = self.mask != MaskSource::Unknown;
            return Ok(known.then(|| vec![false; (side * side) as usize]));
        };
        if let Some([x, y, width, height]) = self.source.crop() {
            mask = mask
                .crop(x, y, width, height)
                .map_err(|e| unusable(e.to_string()))?;
        }
        Ok(Some(mask.resize(side, side)?.values().to_vec()))
    }
}

/// Distinguishes lists of samples that differ in anything: order, images, labels, masks.
pub(crate) fn fingerprint(samples: &[TrainingSample]) -> ContentHash {
    ContentHash::of_bytes(format!("{samples:?}").as_bytes())
}

/// The masks of training images. Each file is read once; from then on its pixels are kept, one bit
/// each.
pub(crate) struct Masks<'a> {
    samples: &'a [TrainingSample],
    side: u32,
    limits: &'a Limits,
    bits: Vec<Kept>,
}

/// A mask as it is kept.
#[derive(Clone)]
enum Kept {
    NotRead,
    NotKnown,
    Pixels(Vec<u8>),
}

impl<'a> Masks<'a> {
    /// The masks of `samples` at `side` x `side`; nothing is read yet.
    pub(crate) fn new(samples: &'a [TrainingSample], side: u32, limits: &'a Limits) -> Self {
        Self {
            samples,
            side,
            limits,
            bits: vec![Kept::NotRead; samples.len()],
        }
    }

    /// Those of the samples at `indices`, each `side * side`, or none where it is not known.
    pub(crate) fn batch(
        &mut self,
        indices: &[usize],
    ) -> Result<Vec<Option<Vec<bool>>>, DetectorError> {
        let read = |&i: &usize| Ok((i, self.samples[i].mask(self.side, self.limits)?));
        let new: Vec<(usize, Option<Vec<bool>>)> = indices
            .par_iter()
            .filter(|&&i| matches!(self.bits[i], Kept::NotRead))
            .map(read)
            .collect::<Result<_, DetectorError>>()?;
        for (i, mask) in new {
            self.bits[i] = mask.map_or(Kept::NotKnown, |mask| Kept::Pixels(packed(&mask)));
        }
        let pixels = (self.side * self.side) as usize;
        let mask = |&i: &usize| {
            let Kept::Pixels(bits) = &self.bits[i] else {
                return None;
            };
            Some(
                (0..pixels)
                    .map(|p| bits[p / 8] >> (p % 8) & 1 == 1)
                    .collect(),
            )
        };
        Ok(indices.par_iter().map(mask).collect())
    }
}

/// Eight pixels in a byte, the first one lowest.
fn packed(mask: &[bool]) -> Vec<u8> {
    let byte = |pixels: &[bool]| {
        let bits = pixels.iter().enumerate();
        bits.fold(0, |byte, (i, &pixel)| byte | u8::from(pixel) << i)
    };
    mask.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anomalens_vision::MaskFile;

    use super::*;

    type Change = fn(&mut TrainingSample);

    #[test]
    fn a_fingerprint_tells_what_is_learned_from() {
        let samples = |change: Change| {
            let mut sample = TrainingSample {
                source: PathBuf::from("a.png").into(),
                class: "bolt".to_owned(),
                anomalous: true,
                mask: MaskSource::File(PathBuf::from("a-mask.png").into()),
            };
            change(&mut sample);
            fingerprint(&[sample])
        };
        let plain = samples(|_| {});
        assert_eq!(plain, samples(|_| {}));
        let changes: [(&str, Change); 5] = [
            ("image", |s| s.source = PathBuf::from("b.png").into()),
            ("crop", |s| {
                s.source = ImageSource::File {
                    path: "a.png".into(),
                    crop: Some([0, 0, 8, 8]),
                }
            }),
            ("class", |s| s.class = "nut".to_owned()),
            ("label", |s| s.anomalous = false),
            ("mask's threshold", |s| {
                let mut file = MaskFile::from(PathBuf::from("a-mask.png"));
                file.reading.threshold = 127;
                s.mask = MaskSource::File(file);
            }),
        ];
        for (name, change) in changes {
            assert_ne!(plain, samples(change), "{name}");
        }
    }
}
