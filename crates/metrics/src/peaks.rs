//! Regions around the peaks of a map: what is anomalous glows into its surroundings, so that a region
//! above one threshold may be far larger than what is wrong, and hold several things at once.

use crate::regions::{Labels, Region, Regions};

/// Part of its peak's height down to which a region reaches: boxes then fit the masks of magnetic tile and
/// of MVTec AD's screws best (docs/research/lens.md).
const REACH: f32 = 0.8;

/// Two peaks are two regions if the map between them falls to this part of the lower one.
const SADDLE: f32 = 0.85;

/// A region around a peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Where the map reaches four fifths of the peak's height, or down to where a higher peak begins.
    pub core: Region,
    /// The connected region above the threshold that it lies in.
    pub outer: Region,
}

/// The peaks of a row-major map with `columns` columns that reach `threshold`, the highest first.
/// Heights are measured from `base`, what a normal place scores. NaN is below every threshold.
pub fn peaks(columns: usize, scores: &[f32], threshold: f32, base: f32) -> Vec<Peak> {
    let columns = columns.max(1);
    let outer = Regions::at_least(columns, scores, threshold);
    let mut region_of = vec![usize::MAX; scores.len()];
    for run in &outer.runs {
        region_of[run.pixels.clone()].fill(run.region);
    }
    let outer = outer.measure(scores);
    let mut order: Vec<usize> = (0..scores.len())
        .filter(|&at| region_of[at] != usize::MAX)
        .collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));

    let base = base.min(threshold);
    let height = |score: f32| score - base;
    let mut growing = Growing::default();
    let mut label_of = vec![usize::MAX; scores.len()];
    let rows = scores.len().div_ceil(columns);
    for at in order {
        let (x, y) = (at % columns, at / columns);
        let level = height(scores[at]);
        let mut label = growing.fresh(Region {
            x,
            y,
            width: 1,
            height: 1,
            area: 1,
            peak: scores[at],
            peak_at: (x, y),
        });
        for near_y in y.saturating_sub(1)..(y + 2).min(rows) {
            for near_x in x.saturating_sub(1)..(x + 2).min(columns) {
                let near = label_of.get(near_y * columns + near_x).copied();
                if let Some(near) = near.filter(|&near| near != usize::MAX) {
                    label = growing.join(label, near, level, height);
                }
            }
        }
        label_of[at] = label;
    }
    let mut cores = growing.end();
    cores.sort_by(|a, b| b.peak.total_cmp(&a.peak));
    let peak = |core: Region| {
        let (x, y) = core.peak_at;
        Peak {
            core,
            outer: outer[region_of[y * columns + x]],
        }
    };
    cores.into_iter().map(peak).collect()
}

/// Regions that grow from their peaks downwards.
#[derive(Default)]
struct Growing {
    labels: Labels,
    /// Of each root: its region, and whether it still grows.
    regions: Vec<(Region, bool)>,
    done: Vec<Region>,
}

impl Growing {
    fn fresh(&mut self, region: Region) -> usize {
        self.regions.push((region, true));
        self.labels.fresh()
    }

    /// Joins the regions of two labels where the map is `level` high.
    fn join(&mut self, a: usize, b: usize, level: f32, height: impl Fn(f32) -> f32) -> usize {
        let (a, b) = (self.labels.root(a), self.labels.root(b));
        if a == b {
            return a;
        }
        let pair = [self.regions[a], self.regions[b]].map(|(region, grows)| {
            let reaches = level >= REACH * height(region.peak);
            if grows && !reaches {
                self.done.push(region);
            }
            (region, grows && reaches)
        });
        // Of equal peaks the first one is the higher.
        let is_second_higher = pair[1].0.peak > pair[0].0.peak
            || pair[1].0.peak == pair[0].0.peak && pair[1].0.peak_at < pair[0].0.peak_at;
        let [mut higher, lower] = match is_second_higher {
            true => [pair[1], pair[0]],
            false => pair,
        };
        match (higher.1, lower.1) {
            (_, true) if level < SADDLE * height(lower.0.peak) => self.done.push(lower.0),
            (true, true) => higher.0 = united(higher.0, lower.0),
            // A bump in the glow of a higher peak.
            _ => {}
        }
        let root = self.labels.join(a, b);
        self.regions[root] = higher;
        root
    }

    fn end(mut self) -> Vec<Region> {
        for label in 0..self.regions.len() {
            if self.labels.root(label) == label && self.regions[label].1 {
                self.done.push(self.regions[label].0);
            }
        }
        self.done
    }
}

/// Both regions as one, with the peak of the first.
fn united(one: Region, other: Region) -> Region {
    let (x, y) = (one.x.min(other.x), one.y.min(other.y));
    Region {
        x,
        y,
        width: (one.x + one.width).max(other.x + other.width) - x,
        height: (one.y + one.height).max(other.y + other.height) - y,
        area: one.area + other.area,
        ..one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn regions_reach_down_to_a_part_of_their_peak() {
        let row = |text: &str| -> Vec<f32> {
            let digits = text.bytes().map(|digit| f32::from(digit - b'0') / 10.0);
            digits.collect()
        };
        // (name, a row of tenths above a threshold of .1, first column and width of each core and of
        // the region it lies in)
        type Places = &'static [[usize; 4]];
        let cases: [(&str, &str, Places); 8] = [
            ("nothing", "000000", &[]),
            ("a glow is left out", "0123898321000", &[[4, 3, 1, 9]]),
            (
                "two things in one glow",
                "28832872",
                &[[1, 2, 0, 8], [5, 2, 0, 8]],
            ),
            ("one thing, two peaks", "0989300", &[[1, 3, 1, 4]]),
            ("a bump in a glow", "0943320", &[[1, 1, 1, 5]]),
            (
                "a smaller thing in the glow",
                "0943620",
                &[[1, 1, 1, 5], [4, 1, 1, 5]],
            ),
            ("two regions", "0210021", &[[1, 1, 1, 2], [5, 1, 5, 2]]),
            ("even", "444", &[[0, 3, 0, 3]]),
        ];
        for (name, scores, expected) in cases {
            let scores = row(scores);
            let found = peaks(scores.len(), &scores, 0.1, 0.0);
            let found: Vec<[usize; 4]> = found
                .iter()
                .map(|p| [p.core.x, p.core.width, p.outer.x, p.outer.width])
                .collect();
            let mut sorted = found.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, expected, "{name}");
        }
        assert!(peaks(0, &[], 0.0, 0.0).is_empty());
        assert_eq!(peaks(0, &[1.0], 0.0, 0.0).len(), 1);
    }

    proptest! {
        #[test]
        fn cores_lie_in_their_regions_and_hold_every_high_peak(
            columns in 1_usize..12,
            scores in prop::collection::vec(0_u8..20, 1..120),
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let threshold = 5.0;
            let found = peaks(columns, &scores, threshold, 0.0);
            let outer = Regions::at_least(columns, &scores, threshold).measure(&scores);
            // Each region above the threshold has its highest peak among the cores.
            for region in &outer {
                let its: Vec<_> = found.iter().filter(|peak| peak.outer == *region).collect();
                prop_assert_eq!(its.iter().map(|p| p.core.peak).fold(0.0, f32::max), region.peak);
                let area: usize = its.iter().map(|peak| peak.core.area).sum();
                prop_assert!(area <= region.area);
            }
            for Peak { core, outer } in &found {
                prop_assert!(core.x >= outer.x && core.y >= outer.y);
                prop_assert!(core.x + core.width <= outer.x + outer.width);
                prop_assert!(core.y + core.height <= outer.y + outer.height);
                prop_assert!(core.peak <= outer.peak && core.area >= 1);
                let (x, y) = core.peak_at;
                prop_assert_eq!(scores[y * columns + x], core.peak);
            }
            prop_assert!(found.is_sorted_by(|a, b| a.core.peak >= b.core.peak));
        }
    }
}
