//! The unit of scores: each reference compared with the others, as if it were a new image.

use super::residual::{self, Quarters};

/// Patches, the most different ones, whose mean counts for all: a number, not a part, since a defect
/// is as small in a larger picture.
pub(super) const HIGHEST: usize = 2;

/// Least units, a tenth of the least that two different normal images of ELPV, HeadCT and KolektorSDD
/// were seen to differ: references that are nearly the same image would make everything else look
/// absurdly anomalous.
const LEAST: Residuals = Residuals {
    patches: 0.01,
    image_level: 0.001,
    own: 0.02,
};

/// Least difference between the quarters of an image, for images of one colour.
const LEAST_WITHIN: f32 = 5e-5;

/// A reference that is more than so many times as far from the others as a middle one does not seem to
/// belong to them, from so many references on. No normal image of the sets for choosing was.
const ODD: f32 = 2.0;
const ODD_FROM: usize = 4;

/// Where images are of one even surface, quarters of different images differ by less than this part
/// of what quarters of one image do, and mean tokens by still less: then a mean token that differs
/// says something. Where they differ by more, as those of things and of lighting that changes do,
/// it says nothing, least of all with two references that happen to be alike. Chosen on auxiliary
/// data (docs/research/inctrl.md).
const EVEN: f32 = 0.3;

/// Where the patches of references differ more from the rest of their image than this, nothing in it is
/// like them, and an image's own residual counts less and less. Screws have 0.79, scans 0.57, tiles 0.47, textile 0.32.
const LIKE: f32 = 0.68;

/// The residuals of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Residuals {
    /// Of its patches against those of the references.
    pub(super) patches: f32,
    /// Of its mean token against that of the nearest reference.
    pub(super) image_level: f32,
    /// Of its patches against the rest of the image.
    pub(super) own: f32,
}

/// How many they are.
pub(super) const PARTS: usize = 3;

impl Residuals {
    /// From the map of an image, its residual against itself, and the means of its tokens against
    /// those of its references.
    pub(super) fn new<'a>(
        map: &[f32],
        own: f32,
        means: &[f32],
        references: impl Iterator<Item = &'a [f32]>,
        blocks: usize,
    ) -> Self {
        let all = references.map(|reference| residual::between(means, reference, blocks));
        let nearest = all.fold(f32::INFINITY, f32::min);
        Self {
            patches: residual::top(map, HIGHEST),
            // A single reference has nothing that it could be compared with.
            image_level: if nearest.is_finite() { nearest } else { 0.0 },
            own,
        }
    }

    /// The mean of those of the references, as a unit. That of the image level grows with how
    /// different the `quarters` of different references are.
    pub(super) fn unit(references: &[Self], quarters: Quarters) -> Self {
        let unevenness = quarters.between / quarters.within.max(LEAST_WITHIN) / EVEN;
        let mean = |part: fn(&Self) -> f32| {
            references.iter().map(part).sum::<f32>() / references.len().max(1) as f32
        };
        Self {
            patches: mean(|reference| reference.patches).max(LEAST.patches),
            image_level: mean(|reference| reference.image_level) * (1.0 + unevenness.powi(4)),
            own: {
                let own = mean(|reference| reference.own).max(LEAST.own);
                own * (own / LIKE).max(1.0).powi(12)
            },
        }
    }

    /// Those of the references that are unlike all others, and how many times as far from them they are
    /// as a middle one.
    pub(super) fn odd(references: &[Self]) -> Vec<(usize, f32)> {
        if references.len() < ODD_FROM {
            return vec![];
        }
        let mut sorted: Vec<f32> = references.iter().map(|one| one.patches).collect();
        sorted.sort_by(f32::total_cmp);
        let middle = sorted[sorted.len() / 2].max(LEAST.patches);
        let times = references.iter().map(|one| one.patches / middle);
        let times = times.enumerate();
        times.filter(|(_, times)| *times > ODD).collect()
    }

    /// In these units. The image level does not count where the references give no unit for it.
    pub(super) fn ratios(self, unit: Self) -> [f32; PARTS] {
        let image_level = match unit.image_level > 0.0 {
            true => self.image_level / unit.image_level.max(LEAST.image_level),
            false => 0.0,
        };
        [
            self.patches / unit.patches,
            image_level,
            self.own / unit.own,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_level_counts_on_even_surfaces() {
        let reference = |image_level| Residuals {
            patches: 0.2,
            image_level,
            own: 0.3,
        };
        // (name, residuals of the mean tokens, of quarters between images and within, the unit)
        for (name, image_level, between, within, expected) in [
            ("an even surface", [0.04, 0.06], 0.0, 0.1, 0.05),
            ("at the border", [0.04, 0.06], 0.03, 0.1, 0.1),
            ("things", [0.04, 0.06], 0.09, 0.1, 0.05 * 82.0),
            ("references without a mark", [0.0, 0.0], 0.0, 0.0, 0.0),
            ("a single reference has none", [0.0, 0.0], 0.0, 0.1, 0.0),
        ] {
            let quarters = Quarters { between, within };
            let unit = Residuals::unit(&image_level.map(reference), quarters);
            assert!(
                (unit.image_level - expected).abs() < 1e-4,
                "{name}: {unit:?}"
            );
        }
    }
}
