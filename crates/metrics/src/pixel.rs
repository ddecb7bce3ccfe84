//! Pixel-level metrics over all maps of a class, from two passes over them.
//!
//! Every metric here depends on the normal pixels only through how many lie above (or at) each
//! anomalous pixel's score. The first pass collects the anomalous pixels and the range of the
//! scores, the second counts the normal pixels between them (`buckets.rs`); the buckets' shares
//! are added from the highest down. No map is kept, so sets that do not fit in memory are no harder.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::aupro::{ProPoint, cut};
use crate::buckets::{AnomalousPixel, BUCKETS, Bucket, Bucketing, Dealt};
use crate::curves::thin;
use crate::error::{Level, MetricError};
use crate::ranking::{Counts, F1Max, Tally, key_score, score_key};
use crate::regions::Regions;
use crate::steps::{stretched_area, thresholds};

/// FPR limit of AUPRO in the MVTec AD paper and everywhere since.
pub const DEFAULT_FPR_LIMIT: f64 = 0.3;

/// One image's anomaly map and its ground truth, at the same size.
#[derive(Debug, Clone)]
pub struct ScoredMask<'a> {
    pub(crate) columns: usize,
    pub(crate) scores: Cow<'a, [f32]>,
    pub(crate) mask: Cow<'a, [bool]>,
}

impl<'a> ScoredMask<'a> {
    /// Pairs a map with its mask, both row-major `[rows, columns]` (slices or vectors); `true` is
    /// anomalous.
    ///
    /// # Errors
    /// No pixels, more than 2^32 - 1 of them, or a length other than `rows * columns`.
    pub fn new(
        rows: usize,
        columns: usize,
        scores: impl Into<Cow<'a, [f32]>>,
        mask: impl Into<Cow<'a, [bool]>>,
    ) -> Result<Self, MetricError> {
        let (scores, mask) = (scores.into(), mask.into());
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

    /// The same map and mask, not copied.
    fn borrowed(&self) -> ScoredMask<'_> {
        ScoredMask {
            columns: self.columns,
            scores: Cow::Borrowed(&self.scores),
            mask: Cow::Borrowed(&self.mask),
        }
    }

    /// Where its first NaN is, as an error of the map `map`.
    pub(crate) fn require_numbers(&self, map: usize) -> Result<(), MetricError> {
        match self.scores.iter().position(|score| score.is_nan()) {
            None => Ok(()),
            Some(pixel) => Err(MetricError::NanPixel {
                map,
                row: pixel / self.columns,
                column: pixel % self.columns,
            }),
        }
    }
}

/// Choices of the two AUPRO variants and their curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelOptions {
    /// False-positive rate up to which both variants integrate: above 0, at most 1.
    pub fpr_limit: f64,
    /// Points of the curve are left out that are nearer to another than this part of its width
    /// (the FPR limit) and height (1). With 0 all stay, two for each distinct anomalous score.
    pub curve_tolerance: f64,
}

impl Default for PixelOptions {
    fn default() -> Self {
        Self {
            fpr_limit: DEFAULT_FPR_LIMIT,
            curve_tolerance: 0.001,
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
    /// The per-region-overlap curve from (0, 0) to the FPR limit, thinned; `aupro` is not computed
    /// from it.
    pub pro_curve: Result<Vec<ProPoint>, MetricError>,
}

impl PixelMetrics {
    /// Computes all metrics over the pixels of all maps together. Maps may differ in size.
    ///
    /// # Errors
    /// No maps, a NaN in a map, or an FPR limit that is none.
    pub fn compute(maps: &[ScoredMask<'_>], options: &PixelOptions) -> Result<Self, MetricError> {
        Self::compute_each(maps.len(), |map| Ok(maps[map].borrowed()), options)
    }

    /// The same over `count` maps that `map` gives by their index, for sets that do not fit in
    /// memory. It is called twice for each, on several threads, and must give the same both times.
    ///
    /// Beyond the maps that the threads are at it takes at most 28 bytes per anomalous pixel and
    /// 150 MB.
    ///
    /// # Errors
    /// As [`Self::compute`], or what `map` fails with; the first map's error if several fail.
    pub fn compute_each<'a, E: From<MetricError> + Send>(
        count: usize,
        map: impl Fn(usize) -> Result<ScoredMask<'a>, E> + Sync,
        options: &PixelOptions,
    ) -> Result<Self, E> {
        Self::compute_in_chunks(count, map, options, COUNTED_AT_ONCE)
    }

    fn compute_in_chunks<'a, E: From<MetricError> + Send>(
        count: usize,
        map: impl Fn(usize) -> Result<ScoredMask<'a>, E> + Sync,
        options: &PixelOptions,
        counted_at_once: usize,
    ) -> Result<Self, E> {
        let limit = options.fpr_limit;
        if !(limit > 0.0 && limit <= 1.0) {
            return Err(MetricError::FprLimit { limit }.into());
        }
        let surveys = first_error((0..count).into_par_iter().map(|index| {
            let scored = map(index)?;
            scored.require_numbers(index)?;
            Ok::<_, E>(Survey::new(&scored))
        }))?;
        let (lowest, highest) = surveys
            .iter()
            .map(|survey| survey.range)
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .ok_or(MetricError::Empty {
                level: Level::Pixel,
            })?;
        let regions: u64 = surveys.iter().map(|survey| survey.regions).sum();
        let steps = thresholds(key_score(lowest), key_score(highest));
        // A last threshold above every score is met by no pixel, as the highest score is.
        let step_keys: Vec<u32> = steps
            .iter()
            .flatten()
            .map(|&threshold| score_key(threshold).min(highest))
            .collect();

        // A dealt map holds its keys and the ends of its buckets.
        let sizes = surveys.iter().map(|survey| survey.normal + BUCKETS);
        let chunks = chunks(sizes, counted_at_once);
        let anomalous = surveys.into_iter().map(|survey| survey.anomalous);
        let bucketing = Bucketing::new(lowest, highest);
        let mut buckets = Bucket::all(anomalous.collect(), &step_keys, bucketing);
        for chunk in chunks {
            let dealt = first_error(chunk.into_par_iter().map(|index| {
                let keys = normal_keys(&map(index)?);
                Ok::<_, E>(Dealt::new(&keys, bucketing))
            }))?;
            Bucket::count(&mut buckets, &dealt);
        }
        Ok(Self::of_buckets(&buckets, regions, steps, options))
    }

    fn of_buckets(
        buckets: &[Bucket],
        regions: u64,
        steps: Result<Vec<f32>, MetricError>,
        options: &PixelOptions,
    ) -> Self {
        let limit = options.fpr_limit;
        let counts: Vec<Counts> = buckets.iter().map(Bucket::counts).collect();
        let total = counts
            .iter()
            .fold(Counts::default(), |sum, here| sum.plus(*here));
        let mut above: Vec<Counts> = counts
            .iter()
            .rev()
            .scan(Counts::default(), |seen, here| {
                let above = *seen;
                *seen = above.plus(*here);
                Some(above)
            })
            .collect();
        above.reverse();
        // Each bucket thins its points, then all of them are thinned together.
        let tolerance = [limit, 1.0].map(|side| side * options.curve_tolerance / 2.0);
        let of_sum = [tolerance[0], tolerance[1] * regions as f64];
        let shares: Vec<_> = (buckets, above)
            .into_par_iter()
            .map(|(bucket, above)| bucket.share(total, above, limit, of_sum))
            .collect();

        let mut tally = Tally::new(total);
        let mut area = 0.0;
        let mut covered = 0.0;
        let mut points = Vec::new();
        let mut curve = Vec::new();
        for share in shares.iter().rev() {
            tally.append(&share.tally);
            area += share.area;
            points.extend(share.steps.iter().map(|step| ProPoint {
                false_positive_rate: step.normal_above as f64 / total.normal as f64,
                overlap: (covered + step.covered) / regions as f64,
            }));
            curve.extend(share.curve.iter().map(|point| ProPoint {
                overlap: (covered + point.overlap) / regions as f64,
                ..*point
            }));
            covered += share.covered;
        }
        points.reverse();
        curve.push(ProPoint {
            false_positive_rate: 1.0,
            overlap: 1.0,
        });

        let defined = |metric| total.require_both(metric, Level::Pixel);
        Self {
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
            pro_curve: defined("the PRO curve")
                .map(|()| thin(cut(curve.into_iter(), limit), tolerance)),
        }
    }
}

/// All results in order, or the first error, whatever thread finds one first.
pub(crate) fn first_error<T: Send, E: Send>(
    results: impl IndexedParallelIterator<Item = Result<T, E>>,
) -> Result<Vec<T>, E> {
    let results: Vec<Result<T, E>> = results.collect();
    results.into_iter().collect()
}

/// What the first pass takes from a map.
struct Survey {
    /// The lowest and the highest score key.
    range: (u32, u32),
    anomalous: Vec<AnomalousPixel>,
    /// How many normal pixels there are.
    normal: usize,
    regions: u64,
}

impl Survey {
    fn new(map: &ScoredMask<'_>) -> Self {
        let keys = map.scores.iter().map(|&score| score_key(score));
        let range = keys.fold((u32::MAX, 0), |(low, high), key| {
            (low.min(key), high.max(key))
        });
        let regions = Regions::label(map.columns, &map.mask);
        let mut anomalous = Vec::with_capacity(regions.areas.iter().sum());
        for run in &regions.runs {
            // An area is at most the pixels of a map, which fit.
            let area = regions.areas[run.region] as u32;
            let scores = map.scores[run.pixels.clone()].iter();
            anomalous.extend(scores.map(|&score| AnomalousPixel {
                key: score_key(score),
                area,
            }));
        }
        Self {
            range,
            normal: map.scores.len() - anomalous.len(),
            anomalous,
            regions: regions.areas.len() as u64,
        }
    }
}

fn normal_keys(map: &ScoredMask<'_>) -> Vec<u32> {
    let pixels = map.scores.iter().zip(map.mask.iter());
    let normal = pixels.filter(|&(_, &anomalous)| !anomalous);
    normal.map(|(&score, _)| score_key(score)).collect()
}

/// Keys and ends of buckets that are held together: 128 MiB.
const COUNTED_AT_ONCE: usize = 1 << 25;

/// The maps in stretches of at most `full` where they allow it, from the size of each.
fn chunks(sizes: impl Iterator<Item = usize>, full: usize) -> Vec<Range<usize>> {
    let mut chunks = vec![];
    let (mut start, mut end, mut taken) = (0, 0, 0);
    for size in sizes {
        if taken + size > full && end > start {
            chunks.push(start..end);
            (start, taken) = (end, 0);
        }
        end += 1;
        taken += size;
    }
    chunks.push(start..end);
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_cover_all_maps_in_order() {
        let cases: [(&str, &[usize], &[usize]); 5] = [
            ("one", &[7], &[1]),
            ("exactly full", &[5, 5, 1], &[2, 3]),
            ("each too large", &[11, 11], &[1, 2]),
            ("large among small", &[1, 20, 1, 1], &[1, 2, 4]),
            ("without normal pixels", &[0, 0], &[2]),
        ];
        for (name, pixels, ends) in cases {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let expected: Vec<Range<usize>> = starts.zip(ends).map(|(a, &b)| a..b).collect();
            assert_eq!(chunks(pixels.iter().copied(), 10), expected, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_do_not_matter(
            pixels in prop::collection::vec(((-9_i8..9), any::<bool>()), 2..200),
            columns in 1_usize..9,
            at_once in 0_usize..20 * BUCKETS,
        ) {
            let maps: Vec<ScoredMask<'_>> = pixels
                .chunks(columns)
                .map(|row| {
                    let scores: Vec<f32> = row.iter().map(|(score, _)| f32::from(*score)).collect();
                    let mask: Vec<bool> = row.iter().map(|(_, label)| *label).collect();
                    ScoredMask::new(1, row.len(), scores, mask).unwrap()
                })
                .collect();
            let options = PixelOptions::default();
            let map = |index: usize| Ok::<_, MetricError>(maps[index].borrowed());
            prop_assert_eq!(
                PixelMetrics::compute_in_chunks(maps.len(), map, &options, at_once),
                PixelMetrics::compute(&maps, &options)
            );
        }
    }
}
