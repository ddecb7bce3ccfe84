//! Image-level metrics and curves: known values, errors, and properties on scores full of ties.
#![allow(clippy::unwrap_used, reason = "a test may fail in its helpers")]

use anomalens_metrics::{
    Confusion, F1Max, MetricError, RocPoint, auroc, average_precision, f1_max,
    precision_recall_curve, roc_curve, thin,
};
use proptest::prelude::*;

/// Scores and labels (1 = anomalous).
type Items<'a> = (&'a [f32], &'a [u8]);

#[test]
fn known_values() {
    let third = 1.0 / 3.0;
    let cases: [(&str, Items<'_>, f64, f64, f64); 6] = [
        (
            "scikit-learn's example",
            (&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1]),
            0.75,
            5.0 / 6.0,
            0.8,
        ),
        ("all equal", (&[0.5; 3], &[1, 0, 0]), 0.5, third, 0.5),
        (
            "zeros of both signs",
            (&[0.0, -0.0], &[0, 1]),
            0.5,
            0.5,
            2.0 * third,
        ),
        ("perfect", (&[-1.0, 2.0], &[0, 1]), 1.0, 1.0, 1.0),
        ("inverted", (&[2.0, -1.0], &[0, 1]), 0.0, 0.5, 2.0 * third),
        (
            "infinities",
            (&[f32::NEG_INFINITY, f32::INFINITY], &[0, 1]),
            1.0,
            1.0,
            1.0,
        ),
    ];
    for (name, (scores, labels), roc, precision, f1) in cases {
        let labels: Vec<bool> = labels.iter().map(|&label| label == 1).collect();
        let near = |actual: f64, expected: f64| {
            assert!(
                (actual - expected).abs() < 1e-15,
                "{name}: {actual}, expected {expected}"
            );
        };
        near(auroc(scores, &labels).unwrap(), roc);
        near(average_precision(scores, &labels).unwrap(), precision);
        near(f1_max(scores, &labels).unwrap().value, f1);
    }
}

#[test]
fn f1_max_takes_the_lowest_of_equal_thresholds() {
    // F1 is 2/3 at 0.9 (1 of 2 found) and again at 0.3 (2 of 2 found, 2 false).
    let f1 = f1_max(&[0.9, 0.6, 0.5, 0.3], &[true, false, false, true]);
    assert_eq!(
        f1,
        Ok(F1Max {
            value: 2.0 / 3.0,
            threshold: 0.3
        })
    );
}

#[test]
fn confusion_counts_the_threshold_as_anomalous() {
    let confusion = |threshold| {
        Confusion::at(
            &[0.1, 0.4, 0.4, 0.8],
            &[false, false, true, true],
            threshold,
        )
        .unwrap()
    };
    let counts = |c: Confusion| {
        [
            c.true_positives,
            c.false_positives,
            c.false_negatives,
            c.true_negatives,
        ]
    };
    assert_eq!(counts(confusion(0.4)), [2, 1, 0, 1]);
    assert_eq!(counts(confusion(0.5)), [1, 0, 1, 2]);
    assert_eq!(counts(confusion(f32::INFINITY)), [0, 0, 2, 2]);
}

#[test]
fn errors_tell_what_to_do() {
    let cases: [(&str, Result<f64, MetricError>, &str); 5] = [
        (
            "length",
            auroc(&[0.1, 0.2], &[true]),
            "there are 2 scores but 1 labels: give exactly one label per score",
        ),
        (
            "empty",
            average_precision(&[], &[]),
            "there are no images to evaluate: give at least one",
        ),
        (
            "NaN",
            auroc(&[0.1, f32::NAN], &[true, false]),
            "the score at index 1 is not a number: remove this image or repair its score",
        ),
        (
            "normal only",
            auroc(&[0.1, 0.2], &[false; 2]),
            "AUROC is undefined: all 2 images are normal; add anomalous ones to the evaluation",
        ),
        (
            "anomalous only",
            auroc(&[0.1, 0.2], &[true; 2]),
            "AUROC is undefined: all 2 images are anomalous; add normal ones to the evaluation",
        ),
    ];
    for (name, result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message, "{name}");
    }
    let confusion = Confusion::at(&[0.1], &[true], f32::NAN);
    assert_eq!(confusion, Err(MetricError::NanThreshold));
    assert!(roc_curve(&[0.1], &[true]).is_err());
    assert!(precision_recall_curve(&[0.1], &[false]).is_err());
}

#[test]
fn roc_curve_runs_from_corner_to_corner() {
    let points = roc_curve(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]).unwrap();
    let expected = [
        (f32::INFINITY, 0.0, 0.0),
        (0.8, 0.0, 0.5),
        (0.4, 0.5, 0.5),
        (0.35, 0.5, 1.0),
        (0.1, 1.0, 1.0),
    ];
    let expected = expected.map(
        |(threshold, false_positive_rate, true_positive_rate)| RocPoint {
            threshold,
            false_positive_rate,
            true_positive_rate,
        },
    );
    assert_eq!(points, expected);
}

/// Scores with many ties, and labels of which both classes are there.
fn labelled_scores() -> impl Strategy<Value = Vec<(f32, bool)>> {
    let score = (-6_i8..6).prop_map(|step| f32::from(step) / 4.0);
    let rest = prop::collection::vec((score.clone(), any::<bool>()), 0..40);
    (score.clone(), score, rest).prop_map(|(anomalous, normal, mut items)| {
        items.push((anomalous, true));
        items.push((normal, false));
        items
    })
}

fn split(items: &[(f32, bool)]) -> (Vec<f32>, Vec<bool>) {
    items.iter().copied().unzip()
}

/// AUROC by counting pairs.
fn auroc_of_pairs(items: &[(f32, bool)]) -> f64 {
    let (mut won, mut pairs) = (0.0, 0.0);
    for (anomalous, _) in items.iter().filter(|item| item.1) {
        for (normal, _) in items.iter().filter(|item| !item.1) {
            pairs += 1.0;
            won += if anomalous > normal {
                1.0
            } else if anomalous == normal {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

proptest! {
    #[test]
    fn equals_the_definitions(items in labelled_scores()) {
        let (scores, labels) = split(&items);
        prop_assert!((auroc(&scores, &labels).unwrap() - auroc_of_pairs(&items)).abs() < 1e-14);

        let anomalous = labels.iter().filter(|&&label| label).count() as f64;
        let precision_at = |threshold: f32| {
            let confusion = Confusion::at(&scores, &labels, threshold).unwrap();
            let (hits, misses) = (confusion.true_positives, confusion.false_positives);
            hits as f64 / (hits + misses) as f64
        };
        let expected = items.iter().filter(|item| item.1).map(|item| precision_at(item.0));
        let expected = expected.sum::<f64>() / anomalous;
        prop_assert!((average_precision(&scores, &labels).unwrap() - expected).abs() < 1e-14);

        let f1_at = |threshold: f32| {
            let confusion = Confusion::at(&scores, &labels, threshold).unwrap();
            let hits = (2 * confusion.true_positives) as f64;
            hits / (hits + (confusion.false_positives + confusion.false_negatives) as f64)
        };
        let best = f1_max(&scores, &labels).unwrap();
        let expected = scores.iter().map(|&score| f1_at(score)).fold(0.0, f64::max);
        prop_assert_eq!(best.value, expected);
        prop_assert_eq!(f1_at(best.threshold), expected);
    }

    #[test]
    fn order_and_scale_do_not_matter(
        (items, shuffled) in labelled_scores()
            .prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
    ) {
        let (scores, labels) = split(&items);
        let (mut other_scores, other_labels) = split(&shuffled);
        for score in &mut other_scores {
            // Strictly increasing, and exact on quarters this small.
            *score = score.powi(3) + 100.0;
        }
        prop_assert_eq!(auroc(&scores, &labels), auroc(&other_scores, &other_labels));
        prop_assert_eq!(
            average_precision(&scores, &labels),
            average_precision(&other_scores, &other_labels)
        );
        prop_assert_eq!(
            f1_max(&scores, &labels).unwrap().value,
            f1_max(&other_scores, &other_labels).unwrap().value
        );
    }

    #[test]
    fn swapping_the_classes_mirrors_auroc(items in labelled_scores()) {
        let (scores, labels) = split(&items);
        let swapped: Vec<bool> = labels.iter().map(|label| !label).collect();
        let sum = auroc(&scores, &labels).unwrap() + auroc(&scores, &swapped).unwrap();
        prop_assert!((sum - 1.0).abs() < 1e-15);
    }

    #[test]
    fn thinned_curves_keep_their_ends_and_stay_near(items in labelled_scores()) {
        let (scores, labels) = split(&items);
        let points = roc_curve(&scores, &labels).unwrap();
        let thinned = thin(points.iter().copied(), [0.1; 2]);
        prop_assert_eq!(thinned.first(), points.first());
        prop_assert_eq!(thinned.last(), points.last());
        for point in &points {
            let near = thinned.iter().any(|kept| {
                (kept.false_positive_rate - point.false_positive_rate).abs() <= 0.1
                    && (kept.true_positive_rate - point.true_positive_rate).abs() <= 0.1
            });
            prop_assert!(near, "{:?}", point);
        }
        prop_assert_eq!(thin(points.iter().copied(), [0.0; 2]), points);
    }
}
