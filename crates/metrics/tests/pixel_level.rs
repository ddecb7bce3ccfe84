//! Pixel-level metrics: corner cases, errors, and comparison with a plain every-threshold version.
#![allow(clippy::unwrap_used, reason = "a test may fail in its helpers")]

use anomalens_metrics::{
    Class, Level, MetricError, PixelMetrics, PixelOptions, ProPoint, RegionOverlap, ScoredMask,
    region_overlaps,
};
use proptest::prelude::*;

/// A map and its mask, owned.
#[derive(Debug, Clone)]
struct Map {
    rows: usize,
    columns: usize,
    scores: Vec<f32>,
    mask: Vec<bool>,
}

impl Map {
    fn row(scores: &[f32], mask: &[u8]) -> Self {
        let mask = mask.iter().map(|&pixel| pixel == 1).collect();
        Self {
            rows: 1,
            columns: scores.len(),
            scores: scores.to_vec(),
            mask,
        }
    }
}

fn compute(maps: &[Map], options: &PixelOptions) -> Result<PixelMetrics, MetricError> {
    let scored: Vec<ScoredMask<'_>> = maps
        .iter()
        .map(|map| ScoredMask::new(map.rows, map.columns, &*map.scores, &*map.mask).unwrap())
        .collect();
    PixelMetrics::compute(&scored, options)
}

fn metrics(maps: &[Map]) -> PixelMetrics {
    compute(maps, &PixelOptions::default()).unwrap()
}

fn one_class(metric: &'static str, present: Class, count: u64) -> MetricError {
    MetricError::OneClass {
        metric,
        level: Level::Pixel,
        present,
        count,
    }
}

#[test]
fn all_masks_empty() {
    let metrics = metrics(&[Map::row(&[0.1, 0.2], &[0, 0]), Map::row(&[0.3], &[0])]);
    assert_eq!(
        (
            metrics.anomalous_pixels,
            metrics.normal_pixels,
            metrics.regions
        ),
        (0, 3, 0)
    );
    assert_eq!(metrics.auroc, Err(one_class("AUROC", Class::Normal, 3)));
    let undefined = one_class("average precision", Class::Normal, 3);
    assert_eq!(metrics.average_precision, Err(undefined));
    assert_eq!(metrics.f1_max, Err(one_class("F1-max", Class::Normal, 3)));
    assert_eq!(metrics.aupro, Err(one_class("AUPRO", Class::Normal, 3)));
    let undefined = one_class("the PRO curve", Class::Normal, 3);
    assert_eq!(metrics.pro_curve, Err(undefined));
    let undefined = one_class("AUPRO with 200 steps", Class::Normal, 3);
    assert_eq!(metrics.aupro_200_steps, Err(undefined));
}

#[test]
fn all_masks_full() {
    let metrics = metrics(&[Map::row(&[0.1, 0.2], &[1, 1])]);
    assert_eq!(metrics.auroc, Err(one_class("AUROC", Class::Anomalous, 2)));
    assert_eq!(metrics.average_precision, Ok(1.0));
    assert_eq!(metrics.f1_max.unwrap().value, 1.0);
    assert_eq!(metrics.aupro, Err(one_class("AUPRO", Class::Anomalous, 2)));
}

#[test]
fn single_pixel() {
    let metrics = metrics(&[Map::row(&[0.5], &[1])]);
    assert_eq!(metrics.auroc, Err(one_class("AUROC", Class::Anomalous, 1)));
    assert_eq!(metrics.average_precision, Ok(1.0));
}

#[test]
fn constant_map_has_the_values_of_chance() {
    let metrics = metrics(&[Map::row(&[0.5; 8], &[0, 1, 1, 0, 0, 0, 1, 0])]);
    assert_eq!(metrics.auroc, Ok(0.5));
    assert_eq!(metrics.average_precision, Ok(3.0 / 8.0));
    assert!((metrics.aupro.unwrap() - 0.15).abs() < 1e-15);
    let undefined = MetricError::NoSteps {
        lowest: 0.5,
        highest: 0.5,
    };
    assert_eq!(metrics.aupro_200_steps, Err(undefined));
}

#[test]
fn map_equal_to_its_mask() {
    let metrics = metrics(&[Map::row(&[0.0, 1.0, 1.0, 0.0, 1.0], &[0, 1, 1, 0, 1])]);
    assert_eq!(metrics.auroc, Ok(1.0));
    assert_eq!(metrics.average_precision, Ok(1.0));
    assert_eq!(metrics.f1_max.unwrap().value, 1.0);
    assert_eq!(metrics.aupro, Ok(1.0));
    assert_eq!(
        metrics.aupro_200_steps,
        Err(MetricError::FlatSteps { limit: 0.3 })
    );
}

#[test]
fn infinite_scores_rank_but_have_no_steps() {
    let metrics = metrics(&[Map::row(&[f32::NEG_INFINITY, f32::INFINITY], &[0, 1])]);
    assert_eq!(metrics.auroc, Ok(1.0));
    assert_eq!(metrics.aupro, Ok(1.0));
    let undefined = MetricError::NoSteps {
        lowest: f32::NEG_INFINITY,
        highest: f32::INFINITY,
    };
    assert_eq!(metrics.aupro_200_steps, Err(undefined));
}

#[test]
fn diagonal_neighbours_are_one_region() {
    let scores = vec![0.0; 4];
    let mask = vec![true, false, false, true];
    assert_eq!(
        metrics(&[Map {
            rows: 2,
            columns: 2,
            scores,
            mask
        }])
        .regions,
        1
    );
}

#[test]
fn regions_count_alike_whatever_their_size() {
    // The region of one pixel is found at once, the one of four never below the limit.
    let map = Map::row(
        &[9.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0],
        &[1, 0, 0, 0, 1, 1, 1, 1],
    );
    let aupro = metrics(&[map]).aupro.unwrap();
    assert!((aupro - 0.5).abs() < 1e-15, "{aupro}");
}

#[test]
fn errors_tell_what_to_do() {
    let default = PixelOptions::default();
    let unlimited = |fpr_limit| PixelOptions {
        fpr_limit,
        ..default
    };
    let good = || Map::row(&[0.0, 1.0], &[0, 1]);
    let with_nan = Map {
        rows: 2,
        columns: 1,
        ..Map::row(&[0.0, f32::NAN], &[0, 1])
    };
    let cases = [
        (
            "no maps",
            compute(&[], &default).unwrap_err(),
            "there are no pixels to evaluate: give at least one",
        ),
        (
            "NaN",
            compute(&[good(), with_nan], &default).unwrap_err(),
            "anomaly map 1 is not a number at row 1, column 0: remove this image or repair its map",
        ),
        (
            "limit 0",
            compute(&[good()], &unlimited(0.0)).unwrap_err(),
            "the false-positive-rate limit of AUPRO is 0: give a number above 0, at most 1",
        ),
        (
            "limit NaN",
            compute(&[good()], &unlimited(f64::NAN)).unwrap_err(),
            "the false-positive-rate limit of AUPRO is NaN: give a number above 0, at most 1",
        ),
        (
            "map too short",
            ScoredMask::new(2, 2, &[0.0; 3], &[false; 4]).unwrap_err(),
            "a map of 2 x 2 pixels needs 2 * 2 values, found 3",
        ),
        (
            "mask too long",
            ScoredMask::new(2, 2, &[0.0; 4], &[false; 5]).unwrap_err(),
            "a mask of 2 x 2 pixels needs 2 * 2 values, found 5",
        ),
        (
            "no pixels",
            ScoredMask::new(0, 2, &[], &[]).unwrap_err(),
            "there are no pixels to evaluate: give at least one",
        ),
        (
            "too large",
            ScoredMask::new(usize::MAX, 2, &[], &[]).unwrap_err(),
            "a map of 18446744073709551615 x 2 pixels is too large: the limit is 4294967295 pixels",
        ),
    ];
    for (name, error, message) in cases {
        assert_eq!(error.to_string(), message, "{name}");
    }
}

#[test]
fn maps_need_not_be_kept() {
    let row = |index: usize| {
        let scores: Vec<f32> = (0..7).map(|x| ((x * 5 + index * 3) % 11) as f32).collect();
        let mask: Vec<u8> = (0..7).map(|x| u8::from((x + index) % 5 < 2)).collect();
        Map::row(&scores, &mask)
    };
    let made = |index: usize| {
        let map = row(index);
        ScoredMask::new(map.rows, map.columns, map.scores, map.mask)
    };
    let options = PixelOptions::default();
    let kept: Vec<Map> = (0..9).map(row).collect();
    assert_eq!(
        PixelMetrics::compute_each(9, made, &options),
        compute(&kept, &options)
    );
    let failing = |index: usize| match index {
        4 => ScoredMask::new(1, 7, vec![], vec![]),
        7 => ScoredMask::new(0, 0, vec![], vec![]),
        _ => made(index),
    };
    let first = MetricError::Shape {
        what: "map",
        rows: 1,
        columns: 7,
        found: 0,
    };
    assert_eq!(PixelMetrics::compute_each(9, failing, &options), Err(first));
}

#[test]
fn overlaps_of_regions() {
    let map = Map::row(&[0.9, 0.1, 0.4, 0.8, 0.5, 0.5, 0.2], &[1, 0, 1, 1, 1, 0, 1]);
    let map = ScoredMask::new(map.rows, map.columns, map.scores, map.mask).unwrap();
    let overlaps = region_overlaps(&map, 0.5).unwrap();
    let expected = [(1, 1), (3, 2), (1, 0)].map(|(area, found)| RegionOverlap { area, found });
    assert_eq!(overlaps, expected);
    assert_eq!(overlaps[1].share(), 2.0 / 3.0);
    assert_eq!(
        region_overlaps(&map, f32::NAN),
        Err(MetricError::NanThreshold)
    );
}

/// Areas of the regions by spreading the smallest pixel index, and the region per pixel.
fn regions_by_spreading(map: &Map) -> Vec<Option<usize>> {
    let mut region: Vec<Option<usize>> = map
        .mask
        .iter()
        .enumerate()
        .map(|(pixel, &anomalous)| anomalous.then_some(pixel))
        .collect();
    loop {
        let before = region.clone();
        for pixel in 0..region.len() {
            let (row, column) = (pixel / map.columns, pixel % map.columns);
            for other in 0..region.len() {
                let (other_row, other_column) = (other / map.columns, other % map.columns);
                let touching = row.abs_diff(other_row) <= 1 && column.abs_diff(other_column) <= 1;
                if touching && region[pixel].is_some() && region[other].is_some() {
                    region[pixel] = region[pixel].min(region[other]);
                }
            }
        }
        if region == before {
            return region;
        }
    }
}

/// One pixel: score, and number and area of its region if it is anomalous.
type Pixel = (f32, Option<(usize, f64)>);

fn flattened(maps: &[Map]) -> (Vec<Pixel>, usize) {
    let mut pixels = Vec::new();
    let mut regions = 0;
    for map in maps {
        let region = regions_by_spreading(map);
        let mut roots: Vec<usize> = region.iter().flatten().copied().collect();
        roots.sort_unstable();
        roots.dedup();
        for (&score, root) in map.scores.iter().zip(&region) {
            pixels.push((
                score,
                root.map(|root| {
                    let area = region.iter().filter(|&&other| other == Some(root)).count();
                    (regions + roots.binary_search(&root).unwrap(), area as f64)
                }),
            ));
        }
        regions += roots.len();
    }
    (pixels, regions)
}

/// FPR and PRO of one set of predicted pixels, straight from the definition.
fn fpr_and_pro(pixels: &[Pixel], regions: usize, predicted: impl Fn(f32) -> bool) -> (f64, f64) {
    let normal = pixels.iter().filter(|pixel| pixel.1.is_none());
    let hit = normal.clone().filter(|pixel| predicted(pixel.0)).count();
    let fpr = hit as f64 / normal.count() as f64;
    let overlap = |region: usize| {
        let members = pixels.iter().filter_map(|pixel| Some((pixel.0, pixel.1?)));
        let members: Vec<_> = members
            .filter(|(_, (number, _))| *number == region)
            .collect();
        let hit = members
            .iter()
            .filter(|(score, _)| predicted(*score))
            .count();
        hit as f64 / members[0].1.1
    };
    let pro = (0..regions).map(overlap).sum::<f64>() / regions as f64;
    (fpr, pro)
}

/// Trapezoid up to `limit`, interpolated there, divided by it.
fn naive_aupro(pixels: &[Pixel], regions: usize, limit: f64) -> f64 {
    let mut thresholds: Vec<f32> = pixels.iter().map(|pixel| pixel.0).collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let mut last = (0.0, 0.0);
    let mut area = 0.0;
    for threshold in thresholds {
        let next = fpr_and_pro(pixels, regions, |score| score >= threshold);
        if next.0 > limit {
            let part = (limit - last.0) / (next.0 - last.0);
            let at_limit = last.1 + part * (next.1 - last.1);
            area += (limit - last.0) * (last.1 + at_limit) / 2.0;
            return area / limit;
        }
        area += (next.0 - last.0) * (last.1 + next.1) / 2.0;
        last = next;
    }
    area / limit
}

/// The rule of the published codes, one threshold after the other.
fn naive_steps(pixels: &[Pixel], regions: usize, limit: f64) -> Option<f64> {
    let lowest = pixels
        .iter()
        .map(|pixel| pixel.0)
        .fold(f32::INFINITY, f32::min);
    let highest = pixels
        .iter()
        .map(|pixel| pixel.0)
        .fold(f32::NEG_INFINITY, f32::max);
    let start = f64::from(lowest);
    let range = highest - lowest;
    let step = f64::from(range) / 200.0;
    let (count, second) = ((f64::from(range) / step).ceil(), start + step);
    if count.is_nan() {
        return None;
    }
    let mut kept = Vec::new();
    for index in 0..count as u32 {
        let threshold = start + f64::from(index) * (second - start);
        let (fpr, pro) = fpr_and_pro(pixels, regions, |score| score > threshold as f32);
        if fpr < limit {
            kept.push((fpr, pro));
        }
    }
    let (widest, narrowest) = (kept.first()?.0, kept.last()?.0);
    let stretch = |fpr: f64| (fpr - narrowest) / (widest - narrowest);
    let area = kept
        .windows(2)
        .map(|pair| (stretch(pair[0].0) - stretch(pair[1].0)) * (pair[0].1 + pair[1].1) / 2.0)
        .sum::<f64>();
    (widest > narrowest).then_some(area)
}

fn map_of(score: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Map> {
    (1_usize..7, 1_usize..7).prop_flat_map(move |(rows, columns)| {
        let pixels = rows * columns;
        let scores = prop::collection::vec(score.clone(), pixels);
        let mask = prop::collection::vec(prop::bool::weighted(0.3), pixels);
        (scores, mask).prop_map(move |(scores, mask)| Map {
            rows,
            columns,
            scores,
            mask,
        })
    })
}

/// Maps whose pixels are of both classes.
fn maps_of(score: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Vec<Map>> {
    (
        score.clone(),
        score.clone(),
        prop::collection::vec(map_of(score), 0..4),
    )
        .prop_map(|(anomalous, normal, mut maps)| {
            maps.push(Map::row(&[anomalous, normal], &[1, 0]));
            maps
        })
}

/// A dozen different scores.
fn tied() -> impl Strategy<Value = f32> + Clone {
    (-6_i8..6).prop_map(|step| f32::from(step) / 8.0)
}

/// Tied scores, close ones and far ones, zeros of both signs.
fn any_score() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![
        tied(),
        -1.0_f32..1.0,
        1000.0_f32..1000.01,
        Just(0.0),
        Just(-0.0)
    ]
}

proptest! {
    #[test]
    fn equals_the_definitions(maps in maps_of(any_score()), limit in 0.05_f64..=1.0) {
        let (pixels, regions) = flattened(&maps);
        let scores: Vec<f32> = pixels.iter().map(|pixel| pixel.0).collect();
        let labels: Vec<bool> = pixels.iter().map(|pixel| pixel.1.is_some()).collect();
        let options = PixelOptions { fpr_limit: limit, ..PixelOptions::default() };
        let metrics = compute(&maps, &options).unwrap();
        prop_assert_eq!(metrics.regions, regions as u64);
        // The image-level functions are tested against their definitions.
        prop_assert_eq!(metrics.auroc, anomalens_metrics::auroc(&scores, &labels));
        let precision = anomalens_metrics::average_precision(&scores, &labels).unwrap();
        prop_assert!((metrics.average_precision.unwrap() - precision).abs() < 1e-14);
        prop_assert_eq!(metrics.f1_max, anomalens_metrics::f1_max(&scores, &labels));

        let aupro = naive_aupro(&pixels, regions, limit);
        prop_assert!((metrics.aupro.unwrap() - aupro).abs() < 1e-12);
        match naive_steps(&pixels, regions, limit) {
            Some(steps) => {
                prop_assert!((metrics.aupro_200_steps.unwrap() - steps).abs() < 1e-12);
            }
            None => prop_assert!(metrics.aupro_200_steps.is_err()),
        }
    }

    #[test]
    fn order_and_scale_do_not_matter(maps in maps_of(tied())) {
        let expected = metrics(&maps);
        let mut changed = maps;
        changed.reverse();
        for map in &mut changed {
            // Upside down and mirrored; a scale by a power of two rounds nothing.
            map.scores.reverse();
            map.mask.reverse();
            for score in &mut map.scores {
                *score *= 4.0;
            }
        }
        let scaled = metrics(&changed);
        prop_assert_eq!(&scaled.auroc, &expected.auroc);
        prop_assert_eq!(&scaled.average_precision, &expected.average_precision);
        let f1 = |metrics: &PixelMetrics| metrics.f1_max.clone().unwrap();
        prop_assert_eq!(f1(&scaled).value, f1(&expected).value);
        prop_assert_eq!(f1(&scaled).threshold, 4.0 * f1(&expected).threshold);
        prop_assert!((scaled.aupro.unwrap() - expected.aupro.unwrap()).abs() < 1e-14);
        match (scaled.aupro_200_steps, expected.aupro_200_steps) {
            (Ok(scaled), Ok(expected)) => prop_assert!((scaled - expected).abs() < 1e-14),
            (scaled, expected) => prop_assert_eq!(scaled.is_err(), expected.is_err()),
        }
    }

    #[test]
    fn thread_count_does_not_matter(maps in maps_of(any_score())) {
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| metrics(&maps))
        };
        let expected = on_threads(1);
        for threads in [2, 5] {
            prop_assert_eq!(&on_threads(threads), &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn aupro_is_the_area_under_its_curve(maps in maps_of(any_score()), limit in 0.05_f64..=1.0) {
        let options = PixelOptions { fpr_limit: limit, curve_tolerance: 0.0 };
        let metrics = compute(&maps, &options).unwrap();
        let curve = metrics.pro_curve.unwrap();
        let at = |point: &ProPoint| (point.false_positive_rate, point.overlap);
        prop_assert_eq!(at(&curve[0]), (0.0, 0.0));
        prop_assert_eq!(at(&curve[curve.len() - 1]).0, limit);
        let area: f64 = curve
            .windows(2)
            .map(|pair| {
                let ((f0, p0), (f1, p1)) = (at(&pair[0]), at(&pair[1]));
                (f1 - f0) * (p0 + p1) / 2.0
            })
            .sum();
        prop_assert!((area / limit - metrics.aupro.unwrap()).abs() < 1e-12);
        for pair in curve.windows(2) {
            prop_assert!(pair[0].false_positive_rate <= pair[1].false_positive_rate);
            prop_assert!(pair[0].overlap <= pair[1].overlap + 1e-12);
        }
    }

    #[test]
    fn a_thinned_curve_is_near_all_points(
        maps in maps_of(any_score()),
        limit in 0.05_f64..=1.0,
        curve_tolerance in 0.01_f64..0.3,
    ) {
        let curve = |curve_tolerance| {
            let options = PixelOptions { fpr_limit: limit, curve_tolerance };
            compute(&maps, &options).unwrap().pro_curve.unwrap()
        };
        let (all, thinned) = (curve(0.0), curve(curve_tolerance));
        prop_assert!(thinned.len() <= all.len());
        let ends = |curve: &[ProPoint]| [curve[0], curve[curve.len() - 1]].map(|point| point.false_positive_rate);
        prop_assert_eq!(ends(&thinned), [0.0, limit]);
        for point in &all[..all.len() - 1] {
            let near = |kept: &ProPoint| {
                (point.false_positive_rate - kept.false_positive_rate).abs() <= curve_tolerance * limit + 1e-12
                    && (point.overlap - kept.overlap).abs() <= curve_tolerance + 1e-12
            };
            prop_assert!(thinned.iter().any(near), "{point:?} {thinned:?}");
        }
    }
}
