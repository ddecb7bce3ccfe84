//! What maps cost at every pixel of their enlarged form: a focal loss and dice losses (AnomalyCLIP, section
//! 3.4; APRIL-GAN, section 3.2).
//!
//! The two probabilities of a patch add up to 1, and so do those of a pixel: one map is enough.
//! Loss and gradient come out of one pass over the pixels; none of the enlarged maps is ever stored.

use anomalens_vision::Alignment;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Smoothing of the labels in the focal loss; its exponent is 2.
const FOCAL_SMOOTH: f32 = 1e-5;

/// Added above and below in the dice loss.
const DICE_SMOOTH: f64 = 1.0;

/// What is enlarged, and which losses count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enlarged {
    /// The probabilities of patches. A dice loss of the normal map counts, too.
    Probabilities,
    /// What becomes probabilities at each pixel alone: the logits of anomalous less those of normal.
    Margins,
}

/// From the patches of a square map to its pixels, bilinearly.
pub(crate) struct Upsampling {
    enlarged: Enlarged,
    patches: usize,
    /// For each pixel of an axis the first of the two patches that it lies between, and the
    /// weight of the second.
    places: Vec<(usize, f32)>,
}

/// The losses of one map, and their gradients by the value of each patch.
pub(crate) struct MapLoss {
    /// Mean over the pixels.
    pub(crate) focal: f64,
    pub(crate) dice_anomalous: f64,
    /// Zero where margins are enlarged.
    pub(crate) dice_normal: f64,
    /// Of the sum of the three.
    pub(crate) gradient: Vec<f32>,
}

/// The anomalous pixels of an image.
pub(crate) struct Truth<'a> {
    pixels: &'a [bool],
    anomalous: f64,
    /// Summed over the anomalous pixels: the weights of each patch.
    weights: Vec<f32>,
}

impl Upsampling {
    /// From `patches` to `pixels` along each axis.
    pub(crate) fn new(
        enlarged: Enlarged,
        alignment: Alignment,
        patches: usize,
        pixels: usize,
    ) -> Self {
        let place = |i: usize| {
            let source = match alignment {
                Alignment::Edges => (i as f64 + 0.5) * patches as f64 / pixels as f64 - 0.5,
                Alignment::Corners => {
                    i as f64 * patches.saturating_sub(1) as f64
                        / pixels.saturating_sub(1).max(1) as f64
                }
            };
            let first = source.max(0.0).floor();
            (first as usize, (source.max(0.0) - first) as f32)
        };
        Self {
            enlarged,
            patches,
            places: (0..pixels).map(place).collect(),
        }
    }

    /// What a mask of `pixels * pixels` says.
    pub(crate) fn truth<'a>(&self, pixels: &'a [bool]) -> Truth<'a> {
        let mut weights = vec![[0.0]; self.patches * self.patches];
        if self.enlarged == Enlarged::Probabilities {
            self.back(&mut weights, |row, sums| {
                let marked = pixels.chunks_exact(self.places.len()).nth(row);
                for (&place, &marked) in self.places.iter().zip(marked.into_iter().flatten()) {
                    if marked {
                        self.add(sums, place, [1.0]);
                    }
                }
            });
        }
        Truth {
            anomalous: pixels.iter().filter(|&&marked| marked).count() as f64,
            pixels,
            weights: weights.into_iter().flatten().collect(),
        }
    }

    /// The losses of the map whose patches have these `values`.
    pub(crate) fn loss(&self, values: &[f32], truth: &Truth) -> MapLoss {
        match self.enlarged {
            Enlarged::Probabilities => self.loss_of_probabilities(values, truth),
            Enlarged::Margins => self.loss_of_margins(values, truth),
        }
    }

    fn loss_of_probabilities(&self, probabilities: &[f32], truth: &Truth) -> MapLoss {
        let patches = self.patches;
        let mut gradient = vec![[0.0]; patches * patches];
        let sums = self.pixels(probabilities, truth, &mut gradient, |anomalous, marked| {
            let (loss, slope) = focal_loss(anomalous, marked);
            (anomalous, loss, [slope])
        });
        let Sums { focal, sum, hit } = sums;
        let pixels = self.places.len().pow(2) as f64;
        let anomalous = Dice::new(hit, sum, truth.anomalous);
        let normal = Dice::new(
            pixels - sum - truth.anomalous + hit,
            pixels - sum,
            pixels - truth.anomalous,
        );
        // The normal map is 1 minus the anomalous one, and so is its truth.
        let by_marked = (anomalous.by_hit + normal.by_hit) as f32;
        let by_all = (anomalous.by_sum - normal.by_hit - normal.by_sum) as f32;
        let all = self.totals();
        let slopes = gradient.iter().enumerate().map(|(i, [slope])| {
            let cover = all[i / patches] * all[i % patches];
            slope / pixels as f32 + by_marked * truth.weights[i] + by_all * cover
        });
        MapLoss {
            focal: focal / pixels,
            dice_anomalous: anomalous.loss,
            dice_normal: normal.loss,
            gradient: slopes.collect(),
        }
    }

    fn loss_of_margins(&self, margins: &[f32], truth: &Truth) -> MapLoss {
        // By the focal loss, by the probabilities of marked pixels and by those of all.
        let mut gradient = vec![[0.0; 3]; self.patches * self.patches];
        let sums = self.pixels(margins, truth, &mut gradient, |margin, marked| {
            let anomalous = sigmoid(margin);
            let steepness = anomalous * (1.0 - anomalous);
            let (loss, slope) = focal_loss(anomalous, marked);
            let hit = if marked { steepness } else { 0.0 };
            (anomalous, loss, [slope * steepness, hit, steepness])
        });
        let Sums { focal, sum, hit } = sums;
        let pixels = self.places.len().pow(2) as f64;
        let dice = Dice::new(hit, sum, truth.anomalous);
        let slopes = gradient.iter().map(|[focal, hit, all]| {
            focal / pixels as f32 + dice.by_hit as f32 * hit + dice.by_sum as f32 * all
        });
        MapLoss {
            focal: focal / pixels,
            dice_anomalous: dice.loss,
            dice_normal: 0.0,
            gradient: slopes.collect(),
        }
    }

    /// The losses of maps `[images, patches]`, averaged over the images: a linear function that has their
    /// value and gradient here, and the means of focal loss and dice losses.
    pub(crate) fn losses(
        &self,
        values: &Tensor,
        truths: &[Truth],
    ) -> candle_core::Result<(Tensor, [f64; 3])> {
        let images = truths.len() as f64;
        let losses: Vec<MapLoss> = values
            .to_vec2()?
            .par_iter()
            .zip(truths)
            .map(|(values, truth)| self.loss(values, truth))
            .collect();
        let mut means = [0.0; 3];
        for loss in &losses {
            let parts = [loss.focal, loss.dice_anomalous, loss.dice_normal];
            let both = means.iter_mut().zip(parts);
            both.for_each(|(mean, part)| *mean += part / images);
        }
        let gradient = losses.into_iter().flat_map(|loss| loss.gradient).collect();
        let gradient = Tensor::from_vec(gradient, values.shape(), &Device::Cpu)?;
        let linear = ((values * gradient)?.sum_all()? / images)?;
        let constant = means.iter().sum::<f64>() - f64::from(linear.to_scalar::<f32>()?);
        Ok(((linear + constant)?, means))
    }

    /// Goes through the pixels. `look` gives the anomalous probability of one, its focal loss, and what is
    /// added to `gradient` at the patches that it comes from.
    fn pixels<const N: usize>(
        &self,
        values: &[f32],
        truth: &Truth,
        gradient: &mut [[f32; N]],
        look: impl Fn(f32, bool) -> (f32, f32, [f32; N]),
    ) -> Sums {
        let (patches, side) = (self.patches, self.places.len());
        let mut blended = vec![0.0; patches];
        let mut all = Sums::default();
        self.back(gradient, |row, sums| {
            let (first, part) = self.places[row];
            let [above, below] =
                [first, self.next(first)].map(|i| &values[i * patches..(i + 1) * patches]);
            for (blend, (above, below)) in blended.iter_mut().zip(above.iter().zip(below)) {
                *blend = above + part * (below - above);
            }
            let marked = &truth.pixels[row * side..(row + 1) * side];
            // Sums of a row in float32, of rows in float64.
            let [mut row_focal, mut row_sum, mut row_hit] = [0.0_f32; 3];
            for (&place, &marked) in self.places.iter().zip(marked) {
                let (left, part) = place;
                let (left, right) = (blended[left], blended[self.next(left)]);
                let (anomalous, loss, slopes) = look(left + part * (right - left), marked);
                row_sum += anomalous;
                row_hit += if marked { anomalous } else { 0.0 };
                row_focal += loss;
                self.add(sums, place, slopes);
            }
            all.focal += f64::from(row_focal);
            all.sum += f64::from(row_sum);
            all.hit += f64::from(row_hit);
        });
        all
    }

    fn next(&self, patch: usize) -> usize {
        (patch + 1).min(self.patches - 1)
    }

    /// Adds `values` at a pixel to the patches that it comes from.
    fn add<const N: usize>(
        &self,
        sums: &mut [[f32; N]],
        (first, part): (usize, f32),
        values: [f32; N],
    ) {
        for (at, weight) in [(first, 1.0 - part), (self.next(first), part)] {
            let both = sums[at].iter_mut().zip(values);
            both.for_each(|(sum, value)| *sum += weight * value);
        }
    }

    /// The transpose of the up-sampling: `row` adds the values of a row of pixels to the sums
    /// along that row, which are carried on to the two rows of patches that it lies between.
    fn back<const N: usize>(
        &self,
        patches: &mut [[f32; N]],
        mut row: impl FnMut(usize, &mut [[f32; N]]),
    ) {
        let mut sums = vec![[0.0; N]; self.patches];
        for (y, &(first, part)) in self.places.iter().enumerate() {
            sums.fill([0.0; N]);
            row(y, &mut sums);
            for (at, weight) in [(first, 1.0 - part), (self.next(first), part)] {
                let patches = &mut patches[at * self.patches..(at + 1) * self.patches];
                for (patch, sum) in patches
                    .as_flattened_mut()
                    .iter_mut()
                    .zip(sums.as_flattened())
                {
                    *patch += weight * sum;
                }
            }
        }
    }

    /// The sum of the weights of each patch of an axis.
    fn totals(&self) -> Vec<f32> {
        let mut totals = vec![[0.0]; self.patches];
        for &place in &self.places {
            self.add(&mut totals, place, [1.0]);
        }
        totals.into_iter().flatten().collect()
    }
}

/// Of all pixels.
#[derive(Default)]
struct Sums {
    focal: f64,
    /// Of the probabilities.
    sum: f64,
    /// Of the probabilities of marked pixels.
    hit: f64,
}

/// The anomalous of two probabilities whose logits differ by `margin`.
pub(crate) fn sigmoid(margin: f32) -> f32 {
    1.0 / (1.0 + (-margin).exp())
}

/// Of one pixel, and its slope.
fn focal_loss(anomalous: f32, marked: bool) -> (f32, f32) {
    let right = if marked { anomalous } else { 1.0 - anomalous };
    let right = right * (1.0 - 2.0 * FOCAL_SMOOTH) + 2.0 * FOCAL_SMOOTH;
    let (wrong, log) = (1.0 - right, right.ln());
    let slope = (1.0 - 2.0 * FOCAL_SMOOTH) * wrong * (2.0 * log - wrong / right);
    let slope = if marked { slope } else { -slope };
    (-wrong * wrong * log, slope)
}

/// A dice loss, and its slopes by the sum of the probabilities at marked pixels and at all pixels.
struct Dice {
    loss: f64,
    by_hit: f64,
    by_sum: f64,
}

impl Dice {
    fn new(hit: f64, sum: f64, marked: f64) -> Self {
        let both = 2.0 * hit + DICE_SMOOTH;
        let either = sum + marked + DICE_SMOOTH;
        Self {
            loss: 1.0 - both / either,
            by_hit: -2.0 / either,
            by_sum: both / (either * either),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATCHES: usize = 3;
    const PIXELS: usize = 8;

    /// Loss of the maps written out pixel by pixel, as the papers have it.
    fn written_out(enlarged: Enlarged, values: &[f64], mask: &[bool]) -> f64 {
        let axis = |i: usize| {
            let at = match enlarged {
                Enlarged::Probabilities => {
                    ((i as f64 + 0.5) * PATCHES as f64 / PIXELS as f64 - 0.5).max(0.0)
                }
                Enlarged::Margins => i as f64 * (PATCHES - 1) as f64 / (PIXELS - 1) as f64,
            };
            let first = at.floor() as usize;
            (first, (first + 1).min(PATCHES - 1), at - at.floor())
        };
        let pixel = |i: usize| {
            let ((t, b, y), (l, r, x)) = (axis(i / PIXELS), axis(i % PIXELS));
            let at = |row: usize, column: usize| values[row * PATCHES + column];
            let top = at(t, l) * (1.0 - x) + at(t, r) * x;
            let value = top * (1.0 - y) + (at(b, l) * (1.0 - x) + at(b, r) * x) * y;
            match enlarged {
                Enlarged::Probabilities => value,
                // The softmax of two logits, one of them 0.
                Enlarged::Margins => value.exp() / (value.exp() + 1.0),
            }
        };
        let count = (PIXELS * PIXELS) as f64;
        let smooth = f64::from(FOCAL_SMOOTH);
        let mut focal = 0.0;
        let mut dice = [[0.0; 3]; 2];
        for (i, &marked) in mask.iter().enumerate() {
            let anomalous = pixel(i);
            let maps = [1.0 - anomalous, anomalous];
            let truth = [!marked, marked].map(|t| f64::from(u8::from(t)));
            let right: f64 = maps.iter().zip(&truth).map(|(m, t)| m * t).sum();
            let right = right * (1.0 - smooth) + (1.0 - right) * smooth + smooth;
            focal -= (1.0 - right).powi(2) * right.ln() / count;
            for (sums, (map, truth)) in dice.iter_mut().zip(maps.iter().zip(&truth)) {
                sums[0] += map * truth;
                sums[1] += map;
                sums[2] += truth;
            }
        }
        let dice = dice.map(|[both, map, truth]| 1.0 - (2.0 * both + 1.0) / (map + truth + 1.0));
        match enlarged {
            Enlarged::Probabilities => focal + dice[0] + dice[1],
            Enlarged::Margins => focal + dice[1],
        }
    }

    proptest! {
        #[test]
        fn loss_and_gradient_are_those_of_the_formula(
            probabilities in prop::collection::vec(0.02_f32..0.98, PATCHES * PATCHES),
            mask in prop::collection::vec(any::<bool>(), PIXELS * PIXELS),
        ) {
            let margins = probabilities.iter().map(|p| (p / (1.0 - p)).ln()).collect();
            for (enlarged, alignment, values) in [
                (Enlarged::Probabilities, Alignment::Edges, probabilities),
                (Enlarged::Margins, Alignment::Corners, margins),
            ] {
                let upsampling = Upsampling::new(enlarged, alignment, PATCHES, PIXELS);
                let found = upsampling.loss(&values, &upsampling.truth(&mask));
                let exact: Vec<f64> = values.iter().map(|&p| f64::from(p)).collect();
                let loss = written_out(enlarged, &exact, &mask);
                let sum = found.focal + found.dice_anomalous + found.dice_normal;
                prop_assert!((sum - loss).abs() < 1e-5, "{sum} is not {loss}");
                for (i, &slope) in found.gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut moved = exact.clone();
                        moved[i] += by;
                        written_out(enlarged, &moved, &mask)
                    };
                    let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    prop_assert!((f64::from(slope) - expected).abs() < 1e-4, "{slope} is not {expected}");
                }
            }
        }
    }
}
