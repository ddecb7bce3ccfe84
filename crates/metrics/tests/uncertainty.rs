//! How sure image-level metrics are: DeLong's test and bootstrap intervals against values made with
//! NumPy, SciPy and scikit-learn by other formulas, errors, and properties on scores full of ties.
#![allow(clippy::unwrap_used, reason = "a test may fail in its helpers")]

mod common;

use anomalens_metrics::{
    DeLong, ImageMetric, Interval, MetricError, auroc, auroc_interval, auroc_standard_error,
    bootstrap, bootstrap_values, delong,
};
use common::made_up;
use proptest::prelude::*;

#[track_caller]
fn assert_near(name: &str, actual: f64, expected: f64) {
    let near = (actual - expected).abs() <= 1e-13;
    assert!(near, "{name}: {actual}, expected {expected}");
}

/// From the matrix of all pairs and `numpy.cov`; p by `scipy.stats.norm.sf`.
#[test]
fn delong_equals_the_pairwise_definition() {
    let cases = [
        (
            60,
            1000,
            [0.759_316_770_186_335_4, 0.664_596_273_291_925_5],
            0.112_674_358_432_600_18,
            0.400_540_072_854_757_46,
            [0.596_859_825_105_442_1, 0.921_773_715_267_228_5],
        ),
        (
            60,
            8,
            [0.667_701_863_354_037_3, 0.702_639_751_552_795],
            0.119_199_936_141_216_5,
            0.769_443_235_776_852_1,
            [0.488_631_277_544_394_4, 0.846_772_449_163_680_1],
        ),
        (
            500,
            40,
            [0.739_899_424_463_182_8, 0.601_617_621_751_85],
            0.035_109_617_747_925_745,
            8.196_755_698_468_294e-5,
            [0.695_584_104_264_050_8, 0.784_214_744_662_314_8],
        ),
    ];
    for (images, grid, expected, standard_error, p_value, [low, high]) in cases {
        let name = format!("{images} images, {grid} scores");
        let (labels, a, b) = made_up(images, grid);
        let test = delong(&labels, &a, &b).unwrap();
        assert_near(&name, test.auroc[0], expected[0]);
        assert_near(&name, test.auroc[1], expected[1]);
        assert_near(&name, test.difference, expected[0] - expected[1]);
        assert_near(&name, test.standard_error, standard_error);
        assert_near(&name, test.p_value, p_value);
        let interval = auroc_interval(&a, &labels, 0.95).unwrap();
        assert_near(&name, interval.low, low);
        assert_near(&name, interval.high, high);
    }
}

#[test]
fn delong_without_spread() {
    let labels = [true, true, false, false];
    let (perfect, inverted) = ([3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]);
    let cases = [
        ("the same scores", perfect, perfect, [1.0, 1.0], 1.0),
        (
            "scores that rank alike",
            perfect,
            [9.0, 8.0, 7.0, -5.0],
            [1.0, 1.0],
            1.0,
        ),
        (
            "equal scores everywhere",
            [0.5; 4],
            [0.1; 4],
            [0.5, 0.5],
            1.0,
        ),
        ("perfect and inverted", perfect, inverted, [1.0, 0.0], 0.0),
    ];
    for (name, a, b, auroc, p_value) in cases {
        let expected = DeLong {
            auroc,
            difference: auroc[0] - auroc[1],
            standard_error: 0.0,
            p_value,
        };
        assert_eq!(delong(&labels, &a, &b), Ok(expected), "{name}");
    }
    let whole = Interval {
        low: 1.0,
        high: 1.0,
    };
    assert_eq!(auroc_interval(&perfect, &labels, 0.95), Ok(whole));
}

/// From `roc_auc_score`, `average_precision_score` and `precision_recall_curve` on images drawn by
/// `numpy.random.RandomState([seed, draw])`: 200 draws, seed 3, `numpy.quantile`.
#[test]
fn bootstrap_equals_metrics_of_drawn_images() {
    use ImageMetric::{Auroc, AveragePrecision, F1Max};
    let cases = [
        (
            60,
            1000,
            Auroc,
            [0.574_378_881_987_577_7, 0.907_026_397_515_528_2],
        ),
        (
            60,
            1000,
            AveragePrecision,
            [0.452_034_378_319_886_1, 0.880_292_273_255_149],
        ),
        (
            60,
            1000,
            F1Max,
            [0.474_530_046_224_961_5, 0.880_222_222_222_222_2],
        ),
        (
            60,
            8,
            Auroc,
            [0.495_982_142_857_142_9, 0.821_447_981_366_459_6],
        ),
        (
            60,
            8,
            AveragePrecision,
            [0.304_066_739_013_244_55, 0.699_983_129_038_835_5],
        ),
        (
            60,
            8,
            F1Max,
            [0.405_797_101_449_275_4, 0.690_155_728_587_319_3],
        ),
        (
            500,
            40,
            Auroc,
            [0.695_803_457_045_067_9, 0.782_351_957_016_386_5],
        ),
        (
            500,
            40,
            AveragePrecision,
            [0.528_535_158_799_251_1, 0.642_137_851_584_341_6],
        ),
        (
            500,
            40,
            F1Max,
            [0.544_705_553_089_231_5, 0.608_315_375_349_489_9],
        ),
    ];
    for (images, grid, metric, [low, high]) in cases {
        let name = format!("{metric:?}, {images} images, {grid} scores");
        let (labels, scores, _) = made_up(images, grid);
        let interval = bootstrap(&scores, &labels, metric, 200, 0.95, 3).unwrap();
        assert_near(&name, interval.low, low);
        assert_near(&name, interval.high, high);
    }
}

#[test]
fn intervals_interpolate_between_values() {
    let values = || vec![3.0, 0.0, 1.0, 2.0, 4.0];
    let interval = |confidence| Interval::of_values(values(), confidence).unwrap();
    let expected = |low, high| Interval { low, high };
    assert_eq!(interval(0.5), expected(1.0, 3.0));
    assert_eq!(interval(0.75), expected(0.5, 3.5));
}

#[test]
fn errors_tell_what_to_do() {
    let (scores, labels) = ([0.1, 0.2, 0.3], [true, false, false]);
    let cases: [(&str, Result<f64, MetricError>, &str); 6] = [
        (
            "one anomalous image",
            delong(&labels, &scores, &scores).map(|test| test.p_value),
            "DeLong's test needs at least 2 anomalous images, found 1: add more to the evaluation",
        ),
        (
            "one class",
            auroc_standard_error(&scores, &[false; 3]),
            "the standard error of AUROC is undefined: all 3 images are normal; add anomalous ones \
             to the evaluation",
        ),
        (
            "length",
            delong(&[true, true, false, false], &[0.5; 4], &scores).map(|test| test.p_value),
            "there are 3 scores but 4 labels: give exactly one label per score",
        ),
        (
            "confidence",
            auroc_interval(&scores, &labels, 95.0).map(|interval| interval.low),
            "the confidence is 95: give a number above 0 and below 1, such as 0.95",
        ),
        (
            "no draws",
            bootstrap(&scores, &labels, ImageMetric::Auroc, 0, 0.95, 0).map(|i| i.low),
            "a bootstrap interval needs at least one resample: 1000 or more is usual",
        ),
        (
            "no anomalous image to draw",
            bootstrap(&scores, &[false; 3], ImageMetric::F1Max, 9, 0.95, 0).map(|i| i.low),
            "F1-max is undefined: all 3 images are normal; add anomalous ones to the evaluation",
        ),
    ];
    for (name, result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message, "{name}");
    }
}

/// Labels and two scores with many ties; two images of each class are there.
fn scored_twice() -> impl Strategy<Value = Vec<(bool, f32, f32)>> {
    let score = || (-6_i8..6).prop_map(|step| f32::from(step) / 4.0);
    let rest = prop::collection::vec((any::<bool>(), score(), score()), 0..40);
    let of = move |label| (Just(label), score(), score());
    (of(true), of(true), of(false), of(false), rest).prop_map(|(a, b, c, d, mut items)| {
        items.extend([a, b, c, d]);
        items
    })
}

fn split(items: &[(bool, f32, f32)]) -> (Vec<bool>, Vec<f32>, Vec<f32>) {
    let labels = items.iter().map(|item| item.0).collect();
    let a = items.iter().map(|item| item.1).collect();
    (labels, a, items.iter().map(|item| item.2).collect())
}

proptest! {
    #[test]
    fn delong_is_antisymmetric_and_agrees_with_auroc(items in scored_twice()) {
        let (labels, a, b) = split(&items);
        let ab = delong(&labels, &a, &b).unwrap();
        let ba = delong(&labels, &b, &a).unwrap();
        prop_assert_eq!(ab.difference, -ba.difference);
        prop_assert_eq!(ab.standard_error, ba.standard_error);
        prop_assert_eq!(ab.p_value, ba.p_value);
        prop_assert!((0.0..=1.0).contains(&ab.p_value));
        prop_assert_eq!(Ok(ab.auroc[0]), auroc(&a, &labels));
        prop_assert_eq!(Ok(ab.auroc[1]), auroc(&b, &labels));
    }

    #[test]
    fn swapping_the_classes_keeps_the_spread(items in scored_twice()) {
        let (labels, a, _) = split(&items);
        let swapped: Vec<bool> = labels.iter().map(|label| !label).collect();
        let error = auroc_standard_error(&a, &labels).unwrap();
        prop_assert!((auroc_standard_error(&a, &swapped).unwrap() - error).abs() < 1e-15);
    }

    #[test]
    fn a_wider_confidence_holds_a_narrower(items in scored_twice(), seed in any::<u32>()) {
        let (labels, a, _) = split(&items);
        let values = bootstrap_values(&a, &labels, ImageMetric::Auroc, 50, seed).unwrap();
        for pair in [[0.5, 0.8], [0.8, 0.99]] {
            let [narrow, wide] = pair.map(|c| Interval::of_values(values.clone(), c).unwrap());
            prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
            let [narrow, wide] = pair.map(|c| auroc_interval(&a, &labels, c).unwrap());
            prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
        }
    }

    #[test]
    fn thread_count_does_not_matter(items in scored_twice(), seed in any::<u32>()) {
        let (labels, a, _) = split(&items);
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bootstrap_values(&a, &labels, ImageMetric::AveragePrecision, 20, seed))
        };
        prop_assert_eq!(on_threads(1), on_threads(3));
    }
}
