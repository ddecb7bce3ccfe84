//! Putting the pixels of all maps in order without keeping them.
//!
//! Only the anomalous pixels are kept: what matters of the normal ones is how many lie between
//! (and at) the anomalous scores. The range of score keys is cut into equal buckets. Each map's
//! normal pixels are dealt into buckets on their own (one small counting sort per map, in
//! parallel); then each bucket counts its pixels of all maps. Whatever the scores, the counts are
//! exact; if nearly all pixels share one bucket, which takes scores packed closely beside far
//! outliers, that bucket is counted on one core.

use rayon::prelude::*;

use crate::aupro::{ProPoint, ramp_area};
use crate::curves::Thinned;
use crate::ranking::{Counts, Tally, Tie, key_score};

/// Small enough that a map's bucket counters stay in the first-level cache.
pub(crate) const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 12;

/// Which bucket a score key belongs to. A higher bucket holds higher scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucketing {
    lowest: u32,
    highest: u32,
    shift: u32,
}

impl Bucketing {
    /// Equal buckets over the keys `lowest..=highest`.
    pub(crate) fn new(lowest: u32, highest: u32) -> Self {
        let bits = u32::BITS - (highest - lowest).leading_zeros();
        Self {
            lowest,
            highest,
            shift: bits.saturating_sub(BUCKET_BITS),
        }
    }

    /// The bucket of a key; keys outside the range belong to the first and the last bucket.
    pub(crate) fn bucket_of(self, key: u32) -> usize {
        ((key.clamp(self.lowest, self.highest) - self.lowest) >> self.shift) as usize
    }
}

/// Score keys of one map, grouped by bucket.
#[derive(Debug)]
pub(crate) struct Dealt {
    keys: Vec<u32>,
    /// Where each bucket ends in `keys`.
    ends: Vec<u32>,
}

impl Dealt {
    /// Groups at most `u32::MAX` keys.
    pub(crate) fn new(keys: &[u32], bucketing: Bucketing) -> Self {
        let mut positions = vec![0_u32; BUCKETS];
        for &key in keys {
            positions[bucketing.bucket_of(key)] += 1;
        }
        let mut start = 0;
        for position in &mut positions {
            let count = std::mem::replace(position, start);
            start += count;
        }
        let mut grouped = vec![0; keys.len()];
        for &key in keys {
            let position = &mut positions[bucketing.bucket_of(key)];
            grouped[*position as usize] = key;
            *position += 1;
        }
        // Each position has moved from the start of its bucket to the end.
        Self {
            keys: grouped,
            ends: positions,
        }
    }

    /// The keys of one bucket, in no particular order.
    fn bucket(&self, bucket: usize) -> &[u32] {
        let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.keys[start as usize..self.ends[bucket] as usize]
    }
}

/// An anomalous pixel: its score key and the area of its region.
///
/// Ordered by key first; by area too, so that sums over equal scores have one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnomalousPixel {
    pub(crate) key: u32,
    pub(crate) area: u32,
}

impl AnomalousPixel {
    /// What the pixel adds to the sum of the regions' overlaps.
    fn weight(self) -> f64 {
        1.0 / f64::from(self.area)
    }
}

/// The pixels of all maps in one range of scores.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Ascending.
    anomalous: Vec<AnomalousPixel>,
    /// Those of the 200 thresholds that fall into the bucket, ascending.
    steps: Vec<u32>,
    /// The keys of both, ascending, without repeats.
    keys: Vec<u32>,
    /// How many normal pixels lie below the first key, at it, between it and the second, at that,
    /// ..., above the last.
    normal: Vec<u64>,
}

impl Bucket {
    /// All buckets, without normal pixels. `maps` are the anomalous pixels of each map.
    pub(crate) fn all(
        maps: Vec<Vec<AnomalousPixel>>,
        step_keys: &[u32],
        bucketing: Bucketing,
    ) -> Vec<Self> {
        let mut counts = vec![0; BUCKETS];
        for pixel in maps.iter().flatten() {
            counts[bucketing.bucket_of(pixel.key)] += 1;
        }
        let empty = |count| Self {
            anomalous: Vec::with_capacity(count),
            ..Self::default()
        };
        let mut buckets: Vec<Self> = counts.into_iter().map(empty).collect();
        for pixel in maps.into_iter().flatten() {
            buckets[bucketing.bucket_of(pixel.key)]
                .anomalous
                .push(pixel);
        }
        for &step in step_keys {
            buckets[bucketing.bucket_of(step)].steps.push(step);
        }
        buckets.par_iter_mut().for_each(|bucket| {
            bucket.anomalous.sort_unstable();
            let mut keys: Vec<u32> = bucket.anomalous.iter().map(|pixel| pixel.key).collect();
            keys.dedup();
            keys.extend(&bucket.steps);
            keys.sort_unstable();
            keys.dedup();
            bucket.normal = vec![0; 2 * keys.len() + 1];
            bucket.keys = keys;
        });
        buckets
    }

    /// Counts the normal pixels of some maps into all buckets.
    pub(crate) fn count(buckets: &mut [Self], maps: &[Dealt]) {
        buckets
            .par_iter_mut()
            .enumerate()
            .for_each(|(index, bucket)| {
                for map in maps {
                    bucket.count_keys(map.bucket(index));
                }
            });
    }

    fn count_keys(&mut self, normal: &[u32]) {
        if self.keys.is_empty() {
            self.normal[0] += normal.len() as u64;
            return;
        }
        for &key in normal {
            let below = self.keys.partition_point(|&other| other < key);
            let equal = self.keys.get(below) == Some(&key);
            self.normal[2 * below + usize::from(equal)] += 1;
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            anomalous: self.anomalous.len() as u64,
            normal: self.normal.iter().sum(),
        }
    }

    /// What the bucket adds to the metrics over `total` pixels, of which `above` are in higher
    /// buckets; `limit` is the FPR limit of AUPRO, `tolerance` that of its curve's points.
    pub(crate) fn share(
        &self,
        total: Counts,
        mut above: Counts,
        limit: f64,
        tolerance: [f64; 2],
    ) -> Share {
        let mut share = Share {
            tally: Tally::new(total),
            area: 0.0,
            covered: 0.0,
            curve: vec![],
            steps: Vec::with_capacity(self.steps.len()),
        };
        let mut curve = Thinned::new(tolerance);
        let mut within = true;
        let fpr = |normal: u64| normal as f64 / total.normal as f64;
        let mut groups = self
            .anomalous
            .chunk_by(|a, b| a.key == b.key)
            .rev()
            .peekable();
        let mut steps = self.steps.iter().rev().peekable();
        for (index, &key) in self.keys.iter().enumerate().rev() {
            above.normal += self.normal[2 * index + 2];
            let equal = self.normal[2 * index + 1];
            while steps.next_if_eq(&&key).is_some() {
                share.steps.push(StepCounts {
                    normal_above: above.normal,
                    covered: share.covered,
                });
            }
            let Some(group) = groups.next_if(|group| group[0].key == key) else {
                above.normal += equal;
                continue;
            };
            let here = Counts {
                anomalous: group.len() as u64,
                normal: equal,
            };
            share.tally.add(&Tie {
                score: key_score(key),
                above,
                here,
            });
            let weight: f64 = group.iter().map(|pixel| pixel.weight()).sum();
            let ramp = [fpr(above.normal), fpr(above.normal + equal)];
            share.area += weight * ramp_area(ramp[0], ramp[1], limit);
            let covered = [share.covered, share.covered + weight];
            for (false_positive_rate, overlap) in ramp.into_iter().zip(covered) {
                if within {
                    curve.push(ProPoint {
                        false_positive_rate,
                        overlap,
                    });
                    within = false_positive_rate < limit;
                }
            }
            share.covered += weight;
            above = above.plus(here);
        }
        share.curve = curve.finish();
        share
    }
}

/// What one bucket adds to the metrics.
pub(crate) struct Share {
    pub(crate) tally: Tally,
    /// Area under the sum of the regions' overlaps, up to the FPR limit.
    pub(crate) area: f64,
    /// Sum of the pixels' weights.
    pub(crate) covered: f64,
    /// The sum of the regions' overlaps that the bucket adds, thinned, up to the first point at or
    /// beyond the FPR limit.
    pub(crate) curve: Vec<ProPoint>,
    /// The thresholds that fall into the bucket, descending.
    pub(crate) steps: Vec<StepCounts>,
}

/// What lies strictly above one of the 200 thresholds.
pub(crate) struct StepCounts {
    /// Normal pixels of all buckets.
    pub(crate) normal_above: u64,
    /// Sum of the weights of this bucket's anomalous pixels.
    pub(crate) covered: f64,
}
