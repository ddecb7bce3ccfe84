//! AUPIMO: values of anomalib (`tests/goldens/pimo.safetensors`), the definition written plainly,
//! and errors.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail in its helpers"
)]

use anomalens_metrics::{Aupimo, MetricError, PimoOptions, ScoredMask};
use proptest::prelude::*;
use safetensors::SafeTensors;

const TENSORS: &[u8] = include_bytes!("../../../tests/goldens/pimo.safetensors");

/// A square map and its mask.
type Map = (Vec<f32>, Vec<bool>);

fn compute(maps: &[Map], options: &PimoOptions) -> Result<Aupimo, MetricError> {
    let map = |index: usize| {
        let (scores, mask) = &maps[index];
        let side = scores.len().isqrt();
        ScoredMask::new(side, side, scores.as_slice(), mask.as_slice())
    };
    Aupimo::compute_each(maps.len(), map, options)
}

fn golden() -> Vec<Map> {
    let tensors = SafeTensors::deserialize(TENSORS).unwrap();
    let (words, _) = tensors.tensor("maps").unwrap().data().as_chunks();
    let scores: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    let masks = tensors.tensor("masks").unwrap().data();
    let masks: Vec<bool> = masks.iter().map(|&byte| byte == 1).collect();
    let maps = scores.chunks(64 * 64).zip(masks.chunks(64 * 64));
    maps.map(|(scores, mask)| (scores.to_vec(), mask.to_vec()))
        .collect()
}

/// anomalib 2.6.1.dev0, `aupimo_scores`.
#[test]
fn values_of_anomalib() {
    let cases = [
        (
            1000,
            [0.01, 0.1],
            [
                0.805_379_958_5,
                0.165_589_850_3,
                0.878_471_097_0,
                0.671_999_110_8,
            ],
            118,
        ),
        (
            10_000,
            [0.001, 0.1],
            [
                0.656_074_800_8,
                0.086_229_113_8,
                0.767_795_842_4,
                0.523_563_758_9,
            ],
            2147,
        ),
        (
            300_000,
            [0.001, 0.01],
            [
                0.503_218_222_2,
                0.005_630_825_3,
                0.653_325_243_7,
                0.371_723_992_9,
            ],
            29_211,
        ),
    ];
    let maps = golden();
    for (thresholds, fpr_bounds, expected, points) in cases {
        let name = format!("{thresholds} thresholds, {fpr_bounds:?}");
        let options = PimoOptions {
            thresholds,
            fpr_bounds,
        };
        let found = compute(&maps, &options).unwrap();
        for (value, expected) in found.per_image.iter().zip(expected) {
            let near = (value.unwrap() - expected).abs() < 1e-6;
            assert!(near, "{name}: {value:?}, expected {expected}");
        }
        assert_eq!(found.per_image[4..], [None; 4], "{name}");
        assert!((found.mean - expected.iter().sum::<f64>() / 4.0).abs() < 1e-6);
        assert_eq!(found.points, points, "{name}");
        // 16384 normal pixels reach no rate within a hundredth of 0.001.
        assert!(found.is_rough, "{name}");
    }
}

#[test]
fn many_points_between_bounds_that_are_reached_are_not_rough() {
    for (thresholds, is_rough) in [(10_000, false), (500, true)] {
        let options = PimoOptions {
            thresholds,
            fpr_bounds: [0.0625, 0.5],
        };
        let found = compute(&golden(), &options).unwrap();
        assert_eq!(found.is_rough, is_rough, "{found:?}");
    }
}

#[test]
fn errors_tell_what_to_do() {
    let options = PimoOptions::default();
    let with = |thresholds, fpr_bounds| PimoOptions {
        thresholds,
        fpr_bounds,
    };
    let (normal, anomalous) = (
        || ((0..16).map(|x| x as f32).collect(), vec![false; 16]),
        || (vec![3.0; 16], vec![true; 16]),
    );
    let mut with_nan: Map = normal();
    with_nan.0[5] = f32::NAN;
    let both = [normal(), anomalous()];
    let cases = [
        (
            "bounds",
            compute(&both, &with(300, [1e-4, 1e-5])),
            "AUPIMO cannot be computed with 300 thresholds between the false-positive rates 0.0001 \
             and 0.00001: give at least 2 thresholds, and rates above 0, at most 1, the lower first",
        ),
        (
            "only normal",
            compute(&[normal(), normal()], &options),
            "AUPIMO is undefined: all 2 images are normal; add anomalous ones to the evaluation",
        ),
        (
            "only anomalous",
            compute(&[anomalous()], &options),
            "AUPIMO is undefined: all 1 images are anomalous; add normal ones to the evaluation",
        ),
        (
            "NaN",
            compute(&[anomalous(), with_nan], &options),
            "anomaly map 1 is not a number at row 1, column 1: remove this image or repair its map",
        ),
        (
            "small maps",
            compute(&both, &options),
            "AUPIMO is undefined: the false-positive rate of the normal images is never below \
             0.0625, the lower bound is 0.00001; add normal images or take larger maps",
        ),
        (
            "few thresholds",
            compute(&both, &with(20, [0.1, 0.9])),
            "AUPIMO is undefined: 16 thresholds lie between the bounds of the false-positive rate, \
             fewer than 31; add normal images or take larger maps",
        ),
    ];
    for (name, result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message, "{name}");
    }
}

/// The definition, one threshold after the other; the bounds are those that are reached.
fn naive(maps: &[Map], thresholds: usize, reached: [f64; 2], bounds: [f64; 2]) -> Vec<f64> {
    let is_normal = |map: &&Map| !map.1.contains(&true);
    let normal: Vec<&Map> = maps.iter().filter(is_normal).collect();
    let scores = || normal.iter().flat_map(|map| &map.0).copied();
    let (low, high) = (
        scores().reduce(f32::min).unwrap(),
        scores().reduce(f32::max).unwrap(),
    );
    let step = (high - low) / (thresholds - 1) as f32;
    let part = |map: &Map, t: f32, of: bool| {
        let pixels = map.0.iter().zip(&map.1).filter(|(_, label)| **label == of);
        let hit = pixels.clone().filter(|(score, _)| **score >= t).count();
        hit as f64 / pixels.count() as f64
    };
    let anomalous = maps.iter().filter(|map| !is_normal(map));
    let area = |map: &Map| {
        let curve: Vec<(f64, f64)> = (0..thresholds)
            .map(|k| match k < thresholds / 2 {
                true => low + step * k as f32,
                false => high - step * (thresholds - 1 - k) as f32,
            })
            .map(|t| {
                let fpr = normal.iter().map(|map| part(map, t, false)).sum::<f64>();
                (fpr / normal.len() as f64, part(map, t, true))
            })
            .filter(|(fpr, _)| (reached[0] - 1e-12..=reached[1] + 1e-12).contains(fpr))
            .collect();
        let pieces = curve.windows(2);
        let area: f64 = pieces
            .map(|p| (p[0].0 / p[1].0).ln() * (p[0].1 + p[1].1) / 2.0)
            .sum();
        (area / (bounds[1] / bounds[0]).ln()).clamp(0.0, 1.0)
    };
    anomalous.map(area).collect()
}

/// Square maps of either size, the first two normal and the third anomalous.
fn maps() -> impl Strategy<Value = Vec<Map>> {
    let map = || {
        let side = prop_oneof![Just(4_usize), Just(7)];
        side.prop_flat_map(|side| {
            let pixel = (-1.0_f32..1.0, any::<bool>());
            prop::collection::vec(pixel, side * side)
        })
        .prop_map(|pixels| pixels.into_iter().unzip::<f32, bool, Vec<f32>, Vec<bool>>())
    };
    prop::collection::vec((map(), any::<bool>()), 3..8).prop_map(|mut maps| {
        for (index, ((_, mask), is_normal)) in maps.iter_mut().enumerate() {
            if index < 2 || (*is_normal && index > 2) {
                mask.fill(false);
            } else {
                mask[3] = true;
            }
        }
        maps.into_iter().map(|(map, _)| map).collect()
    })
}

proptest! {
    #[test]
    fn equals_the_definition(maps in maps()) {
        let options = PimoOptions { thresholds: 400, fpr_bounds: [0.2, 0.8] };
        let found = compute(&maps, &options).unwrap();
        let expected = naive(&maps, 400, found.fpr_reached, options.fpr_bounds);
        let values: Vec<f64> = found.per_image.iter().flatten().copied().collect();
        prop_assert_eq!(values.len(), expected.len());
        for (value, expected) in values.iter().zip(&expected) {
            prop_assert!((value - expected).abs() < 1e-12, "{} {}", value, expected);
        }
    }

    #[test]
    fn thread_count_does_not_matter(maps in maps()) {
        let options = PimoOptions { thresholds: 100, fpr_bounds: [0.1, 0.9] };
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| compute(&maps, &options))
        };
        prop_assert_eq!(on_threads(1), on_threads(3));
    }
}
