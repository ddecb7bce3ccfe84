//! The part of the "glocal" loss that maps bear (paper, section 3.4): focal loss and the dice
//! losses of the anomalous and of the normal map, at every pixel of the up-sampled maps.
//!
//! The two probabilities of a patch add up to 1, and so do those of a pixel: one map is enough.
//! Loss and gradient come out of one pass over the pixels; none of the maps is ever stored.

/// Smoothing of the labels in the focal loss; its exponent is 2.
const FOCAL_SMOOTH: f32 = 1e-5;

/// Added above and below in the dice loss.
const DICE_SMOOTH: f64 = 1.0;

/// From the patches of a square map to its pixels, bilinear with half-pixel centres.
pub(super) struct Upsampling {
    patches: usize,
    /// For each pixel of an axis the first of the two patches that it lies between, and the
    /// weight of the second.
    places: Vec<(usize, f32)>,
}

/// The losses of one map, and their gradients by the anomalous probability of each patch.
pub(super) struct MapLoss {
    /// Mean over the pixels.
    pub(super) focal: f64,
    pub(super) dice_anomalous: f64,
    pub(super) dice_normal: f64,
    /// Of the sum of the three.
    pub(super) gradient: Vec<f32>,
}

/// The anomalous pixels of an image.
pub(super) struct Truth<'a> {
    pixels: &'a [bool],
    anomalous: f64,
    /// Summed over the anomalous pixels: the weights of each patch.
    weights: Vec<f32>,
}

impl Upsampling {
    /// From `patches` to `pixels` along each axis.
    pub(super) fn new(patches: usize, pixels: usize) -> Self {
        let place = |i: usize| {
            let source = ((i as f64 + 0.5) * patches as f64 / pixels as f64 - 0.5).max(0.0);
            let first = source.floor();
            (first as usize, (source - first) as f32)
        };
        Self {
            patches,
            places: (0..pixels).map(place).collect(),
        }
    }

    /// What a mask of `pixels * pixels` says.
    pub(super) fn truth<'a>(&self, pixels: &'a [bool]) -> Truth<'a> {
        let mut weights = vec![0.0; self.patches * self.patches];
        self.back(&mut weights, |row, sums| {
            let marked = pixels.chunks_exact(self.places.len()).nth(row);
            for (&place, &marked) in self.places.iter().zip(marked.into_iter().flatten()) {
                if marked {
                    self.add(sums, place, 1.0);
                }
            }
        });
        Truth {
            anomalous: pixels.iter().filter(|&&marked| marked).count() as f64,
            pixels,
            weights,
        }
    }

    /// The losses of the map whose patches are anomalous with these `probabilities`.
    pub(super) fn loss(&self, probabilities: &[f32], truth: &Truth) -> MapLoss {
        let (patches, side) = (self.patches, self.places.len());
        let mut gradient = vec![0.0; patches * patches];
        let mut blended = vec![0.0; patches];
        let [mut focal, mut sum, mut hit] = [0.0_f64; 3];
        self.back(&mut gradient, |row, sums| {
            let (first, part) = self.places[row];
            let [above, below] =
                [first, self.next(first)].map(|i| &probabilities[i * patches..(i + 1) * patches]);
            for (blend, (above, below)) in blended.iter_mut().zip(above.iter().zip(below)) {
                *blend = above + part * (below - above);
            }
            let marked = &truth.pixels[row * side..(row + 1) * side];
            // Sums of a row in float32, of rows in float64.
            let [mut row_focal, mut row_sum, mut row_hit] = [0.0_f32; 3];
            for (&place, &marked) in self.places.iter().zip(marked) {
                let (left, part) = place;
                let (left, right) = (blended[left], blended[self.next(left)]);
                let anomalous = left + part * (right - left);
                row_sum += anomalous;
                row_hit += if marked { anomalous } else { 0.0 };
                let (loss, slope) = focal_loss(anomalous, marked);
                row_focal += loss;
                self.add(sums, place, slope);
            }
            focal += f64::from(row_focal);
            sum += f64::from(row_sum);
            hit += f64::from(row_hit);
        });

        let pixels = (side * side) as f64;
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
        for (i, slope) in gradient.iter_mut().enumerate() {
            let cover = all[i / patches] * all[i % patches];
            *slope = *slope / pixels as f32 + by_marked * truth.weights[i] + by_all * cover;
        }
        MapLoss {
            focal: focal / pixels,
            dice_anomalous: anomalous.loss,
            dice_normal: normal.loss,
            gradient,
        }
    }

    fn next(&self, patch: usize) -> usize {
        (patch + 1).min(self.patches - 1)
    }

    /// Adds `value` at a pixel to the patches that it comes from.
    fn add(&self, sums: &mut [f32], (first, part): (usize, f32), value: f32) {
        sums[first] += (1.0 - part) * value;
        sums[self.next(first)] += part * value;
    }

    /// The transpose of the up-sampling: `row` adds the values of a row of pixels to the sums
    /// along that row, which are carried on to the two rows of patches that it lies between.
    fn back(&self, patches: &mut [f32], mut row: impl FnMut(usize, &mut [f32])) {
        let mut sums = vec![0.0; self.patches];
        for (y, &(first, part)) in self.places.iter().enumerate() {
            sums.fill(0.0);
            row(y, &mut sums);
            for (at, weight) in [(first, 1.0 - part), (self.next(first), part)] {
                let patches = &mut patches[at * self.patches..(at + 1) * self.patches];
                for (patch, sum) in patches.iter_mut().zip(&sums) {
                    *patch += weight * sum;
                }
            }
        }
    }

    /// The sum of the weights of each patch of an axis.
    fn totals(&self) -> Vec<f32> {
        let mut totals = vec![0.0; self.patches];
        for &place in &self.places {
            self.add(&mut totals, place, 1.0);
        }
        totals
    }
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

    /// Loss of the maps written out pixel by pixel, as the paper has it.
    fn written_out(probabilities: &[f64], mask: &[bool]) -> f64 {
        let axis = |i: usize| {
            let at = ((i as f64 + 0.5) * PATCHES as f64 / PIXELS as f64 - 0.5).max(0.0);
            let first = at.floor() as usize;
            (first, (first + 1).min(PATCHES - 1), at - at.floor())
        };
        let pixel = |i: usize| {
            let ((t, b, y), (l, r, x)) = (axis(i / PIXELS), axis(i % PIXELS));
            let at = |row: usize, column: usize| probabilities[row * PATCHES + column];
            let top = at(t, l) * (1.0 - x) + at(t, r) * x;
            top * (1.0 - y) + (at(b, l) * (1.0 - x) + at(b, r) * x) * y
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
        focal + dice[0] + dice[1]
    }

    proptest! {
        #[test]
        fn loss_and_gradient_are_those_of_the_formula(
            probabilities in prop::collection::vec(0.02_f32..0.98, PATCHES * PATCHES),
            mask in prop::collection::vec(any::<bool>(), PIXELS * PIXELS),
        ) {
            let upsampling = Upsampling::new(PATCHES, PIXELS);
            let found = upsampling.loss(&probabilities, &upsampling.truth(&mask));
            let exact: Vec<f64> = probabilities.iter().map(|&p| f64::from(p)).collect();
            let loss = written_out(&exact, &mask);
            let sum = found.focal + found.dice_anomalous + found.dice_normal;
            prop_assert!((sum - loss).abs() < 1e-5, "{sum} is not {loss}");
            for (i, &slope) in found.gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = exact.clone();
                    moved[i] += by;
                    written_out(&moved, &mask)
                };
                let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                prop_assert!((f64::from(slope) - expected).abs() < 1e-4, "{slope} is not {expected}");
            }
        }
    }
}
