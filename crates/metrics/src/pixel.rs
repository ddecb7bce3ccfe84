//! Pixel-level metrics over all maps of a class, from one ordering of their pixels.
//!
//! Every metric here depends on the normal pixels only through how many lie above (or at) each
//! anomalous pixel's score. So the pixels are ordered bucket by bucket (`buckets.rs`), each bucket
//! reports its share, and the shares are added from the highest bucket down.

use rayon::prelude::*;

use crate::aupro::ramp_area;
use crate::buckets::{BUCKETS, Bucketed, Bucketing};
use crate::error::{Level, MetricError};
use crate::ranking::{Counts, F1Max, Tally, Tie, key_score, score_key};
use crate::regions::Regions;
use crate::steps::{NumpyRules, StepPoint, stretched_area, thresholds};

/// FPR limit of AUPRO in the MVTec AD paper and everywhere since.
pub const DEFAULT_FPR_LIMIT: f64 = 0.3;

/// One image's anomaly map and its ground truth, at the same size.
#[derive(Debug, Clone, Copy)]
pub struct ScoredMask<'a> {
    columns: usize,
    scores: &'a [f32],
    mask: &'a [bool],
}

impl<'a> ScoredMask<'a> {
    /// Pairs a map with its mask, both row-major `[rows, columns]`; `true` is anomalous.
    ///
    /// # Errors
    /// No pixels, more than 2^32 - 1 of them, or a length other than `rows * columns`.
    pub fn new(
        rows: usize,
        columns: usize,
        scores: &'a [f32],
        mask: &'a [bool],
    ) -> Result<Self, MetricError> {
        if rows == 0 || columns == 0 {
            return Err(MetricError::Empty {
                level: Level::Pixel,
            });
        }
        let pixels = rows
            .checked_mul(columns)
            .filter(|&pixels| u32::try_from(pixels).is_ok());
        let pixels = pixels.ok_or(MetricError::MapTooLarge { rows, columns })?;
        for (what, found) in [("map", scores.len()), ("mask", mask.len())] {
            if found != pixels {
                return Err(MetricError::Shape {
                    what,
                    rows,
                    columns,
                    found,
                });
            }
        }
        Ok(Self {
            columns,
            scores,
            mask,
        })
    }
}

/// Choices of the two AUPRO variants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelOptions {
    /// False-positive rate up to which both variants integrate: above 0, at most 1.
    pub fpr_limit: f64,
    /// Number rules of the variant with 200 steps.
    pub numpy_rules: NumpyRules,
}

impl Default for PixelOptions {
    fn default() -> Self {
        Self {
            fpr_limit: DEFAULT_FPR_LIMIT,
            numpy_rules: NumpyRules::default(),
        }
    }
}

/// Pixel-level metrics of one class. A metric that is undefined on these masks or maps carries the
/// reason instead of a value.
///
/// Corner cases: a constant map has AUROC 0.5 and exact AUPRO `fpr_limit / 2`, the values of
/// chance; a map equal to its mask has exact AUPRO 1. For both the variant with 200 steps is
/// undefined (the original code fails or gives NaN).
#[derive(Debug, Clone, PartialEq)]
pub struct PixelMetrics {
    /// Number of anomalous pixels.
    pub anomalous_pixels: u64,
    /// Number of normal pixels.
    pub normal_pixels: u64,
    /// Number of 8-connected anomalous regions.
    pub regions: u64,
    /// Area under the ROC curve.
    pub auroc: Result<f64, MetricError>,
    /// Average precision (a sum of steps).
    pub average_precision: Result<f64, MetricError>,
    /// Largest F1.
    pub f1_max: Result<F1Max, MetricError>,
    /// Area under the per-region-overlap curve up to the FPR limit, divided by the limit, from
    /// every distinct threshold.
    pub aupro: Result<f64, MetricError>,
    /// The variant with 200 thresholds and stretched FPR that AnomalyCLIP and VAND print.
    pub aupro_200_steps: Result<f64, MetricError>,
}

impl PixelMetrics {
    /// Computes all metrics over the pixels of all maps together. Maps may differ in size.
    ///
    /// Beyond the maps it takes 4 bytes per normal and 8 per anomalous pixel, and 32 kB per map.
    ///
    /// # Errors
    /// No maps, a NaN in a map, or an FPR limit that is none.
    pub fn compute(maps: &[ScoredMask<'_>], options: &PixelOptions) -> Result<Self, MetricError> {
        let limit = options.fpr_limit;
        if !(limit > 0.0 && limit <= 1.0) {
            return Err(MetricError::FprLimit { limit });
        }
        let (lowest, highest) = key_range(maps)?;
        let bucketing = Bucketing::new(lowest, highest);
        let dealt: Vec<DealtMap> = maps
            .par_iter()
            .map(|map| DealtMap::new(map, bucketing))
            .collect();

        let above = counts_above_buckets(&dealt);
        let total = above[0].plus(counts_in_bucket(&dealt, 0));
        let steps = thresholds(key_score(lowest), key_score(highest), options.numpy_rules);
        // A last threshold above every score is met by no pixel, as the highest score is.
        let step_keys: Vec<u32> = steps
            .iter()
            .flatten()
            .map(|&threshold| score_key(threshold).min(highest))
            .collect();

        let shares: Vec<Share> = (0..BUCKETS)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, bucket| {
                let in_bucket = |key: u32| bucketing.bucket_of(key).cmp(&bucket);
                let first = step_keys.partition_point(|&key| in_bucket(key).is_lt());
                let end = step_keys.partition_point(|&key| in_bucket(key).is_le());
                let context = Context {
                    total,
                    above: above[bucket],
                    limit,
                };
                scratch.share_of(bucket, &dealt, &step_keys[first..end], context)
            })
            .collect();

        let regions: u64 = dealt.iter().map(|map| map.regions).sum();
        let mut tally = Tally::new(total);
        let mut area = 0.0;
        let mut covered = 0.0;
        let mut points = Vec::with_capacity(step_keys.len());
        for share in shares.iter().rev() {
            tally.append(&share.tally);
            area += share.area;
            points.extend(share.steps.iter().map(|step| StepPoint {
                fpr: step.normal_above as f64 / total.normal as f64,
                pro: (covered + step.covered) / regions as f64,
            }));
            covered += share.covered;
        }
        points.reverse();

        let defined = |metric| total.require_both(metric, Level::Pixel);
        Ok(Self {
            anomalous_pixels: total.anomalous,
            normal_pixels: total.normal,
            regions,
            auroc: tally.auroc(Level::Pixel),
            average_precision: tally.average_precision(Level::Pixel),
            f1_max: tally.f1_max(Level::Pixel),
            aupro: defined("AUPRO").map(|()| area / (regions as f64 * limit)),
            aupro_200_steps: defined("AUPRO with 200 steps")
                .and(steps)
                .and_then(|_| stretched_area(&points, limit)),
        })
    }
}

/// The lowest and the highest score key of all maps.
fn key_range(maps: &[ScoredMask<'_>]) -> Result<(u32, u32), MetricError> {
    let ranges = maps.par_iter().enumerate().map(|(map, scored)| {
        if let Some(pixel) = scored.scores.iter().position(|score| score.is_nan()) {
            let (row, column) = (pixel / scored.columns, pixel % scored.columns);
            return Err(MetricError::NanPixel { map, row, column });
        }
        let keys = scored.scores.iter().map(|&score| score_key(score));
        Ok(keys.fold((u32::MAX, 0), |(low, high), key| {
            (low.min(key), high.max(key))
        }))
    });
    // Collected, so that the first NaN is reported whatever thread finds one first.
    let ranges: Vec<Result<(u32, u32), MetricError>> = ranges.collect();
    ranges
        .into_iter()
        .reduce(|a, b| {
            let ((low_a, high_a), (low_b, high_b)) = (a?, b?);
            Ok((low_a.min(low_b), high_a.max(high_b)))
        })
        .unwrap_or(Err(MetricError::Empty {
            level: Level::Pixel,
        }))
}

/// An anomalous pixel: its score key and the area of its region.
///
/// Ordered by key first; by area too, so that sums over equal scores have one order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct AnomalousPixel {
    key: u32,
    area: u32,
}

impl AnomalousPixel {
    /// What the pixel adds to the sum of the regions' overlaps.
    fn weight(self) -> f64 {
        1.0 / f64::from(self.area)
    }
}

/// One map's pixels in buckets.
struct DealtMap {
    normal: Bucketed<u32>,
    anomalous: Bucketed<AnomalousPixel>,
    regions: u64,
}

impl DealtMap {
    fn new(map: &ScoredMask<'_>, bucketing: Bucketing) -> Self {
        let regions = Regions::label(map.columns, map.mask);
        let anomalous_pixels = regions.areas.iter().sum();
        let mut normal = Vec::with_capacity(map.scores.len() - anomalous_pixels);
        let mut anomalous = Vec::with_capacity(anomalous_pixels);
        let mut end_of_last = 0;
        for run in &regions.runs {
            let gap = &map.scores[end_of_last..run.pixels.start];
            normal.extend(gap.iter().map(|&score| score_key(score)));
            // An area is at most the pixels of a map, which fit.
            let area = regions.areas[run.region] as u32;
            anomalous.extend(
                map.scores[run.pixels.clone()]
                    .iter()
                    .map(|&score| AnomalousPixel {
                        key: score_key(score),
                        area,
                    }),
            );
            end_of_last = run.pixels.end;
        }
        normal.extend(
            map.scores[end_of_last..]
                .iter()
                .map(|&score| score_key(score)),
        );

        Self {
            normal: Bucketed::new(&normal, |key| bucketing.bucket_of(key)),
            anomalous: Bucketed::new(&anomalous, |pixel| bucketing.bucket_of(pixel.key)),
            regions: regions.areas.len() as u64,
        }
    }
}

fn counts_in_bucket(dealt: &[DealtMap], bucket: usize) -> Counts {
    dealt.iter().fold(Counts::default(), |sum, map| {
        sum.plus(Counts {
            anomalous: map.anomalous.bucket(bucket).len() as u64,
            normal: map.normal.bucket(bucket).len() as u64,
        })
    })
}

/// For each bucket, the pixels in higher buckets.
fn counts_above_buckets(dealt: &[DealtMap]) -> Vec<Counts> {
    let mut above = vec![Counts::default(); BUCKETS];
    for bucket in (1..BUCKETS).rev() {
        above[bucket - 1] = above[bucket].plus(counts_in_bucket(dealt, bucket));
    }
    above
}

/// What a bucket has to know of the rest.
#[derive(Clone, Copy)]
struct Context {
    /// Pixels of all buckets.
    total: Counts,
    /// Pixels in higher buckets.
    above: Counts,
    /// FPR limit of AUPRO.
    limit: f64,
}

/// What one bucket adds to the metrics.
struct Share {
    tally: Tally,
    /// Area under the sum of the regions' overlaps, up to the FPR limit.
    area: f64,
    /// Sum of the pixels' weights.
    covered: f64,
    /// The thresholds that fall into the bucket, descending.
    steps: Vec<StepCounts>,
}

/// What lies strictly above one of the 200 thresholds.
struct StepCounts {
    /// Normal pixels of all buckets.
    normal_above: u64,
    /// Sum of the weights of this bucket's anomalous pixels.
    covered: f64,
}

/// Buffers for one bucket's pixels, used again for the next.
#[derive(Default)]
struct Scratch {
    normal: Vec<u32>,
    anomalous: Vec<AnomalousPixel>,
}

impl Scratch {
    fn share_of(
        &mut self,
        bucket: usize,
        dealt: &[DealtMap],
        step_keys: &[u32],
        context: Context,
    ) -> Share {
        self.anomalous.clear();
        self.normal.clear();
        for map in dealt {
            self.anomalous
                .extend_from_slice(map.anomalous.bucket(bucket));
        }
        // Among normal pixels alone the order does not matter.
        if !self.anomalous.is_empty() || !step_keys.is_empty() {
            for map in dealt {
                self.normal.extend_from_slice(map.normal.bucket(bucket));
            }
        }
        self.anomalous.sort_unstable();
        self.normal.sort_unstable();

        let mut share = self.ranked(context);
        share.steps = self.steps(step_keys, context.above.normal);
        share
    }

    /// The bucket's share but for the 200 steps.
    fn ranked(
        &self,
        Context {
            total,
            mut above,
            limit,
        }: Context,
    ) -> Share {
        let mut share = Share {
            tally: Tally::new(total),
            area: 0.0,
            covered: 0.0,
            steps: Vec::new(),
        };
        let mut normal = self.normal.as_slice();
        for group in self.anomalous.chunk_by(|a, b| a.key == b.key).rev() {
            let key = group[0].key;
            let higher = pop_while(&mut normal, |other| other > key);
            let equal = pop_while(&mut normal, |other| other == key);
            above.normal += higher;
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
            let fpr = |normal: u64| normal as f64 / total.normal as f64;
            share.area += weight * ramp_area(fpr(above.normal), fpr(above.normal + equal), limit);
            share.covered += weight;
            above = above.plus(here);
        }
        share
    }

    fn steps(&self, step_keys: &[u32], normal_above: u64) -> Vec<StepCounts> {
        let mut anomalous = self.anomalous.as_slice();
        let mut covered = 0.0;
        let steps = step_keys.iter().rev().map(|&step| {
            let at_or_below = anomalous.partition_point(|pixel| pixel.key <= step);
            let (rest, passed) = anomalous.split_at(at_or_below);
            anomalous = rest;
            covered += passed.iter().map(|pixel| pixel.weight()).sum::<f64>();
            let normal = self.normal.len() - self.normal.partition_point(|&key| key <= step);
            StepCounts {
                normal_above: normal_above + normal as u64,
                covered,
            }
        });
        steps.collect()
    }
}

/// Takes keys off the end of `keys` while they satisfy `condition`, and counts them.
fn pop_while(keys: &mut &[u32], condition: impl Fn(u32) -> bool) -> u64 {
    let before = keys.len();
    while let [rest @ .., last] = *keys
        && condition(*last)
    {
        *keys = rest;
    }
    (before - keys.len()) as u64
}
