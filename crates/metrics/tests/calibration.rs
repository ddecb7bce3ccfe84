//! Thresholds and probabilities: tables of rules, the promises of conformal thresholds checked by
//! leaving each image out, and Platt's curve against SciPy's minimiser.
#![allow(clippy::unwrap_used, reason = "a test may fail in its helpers")]

mod common;

use anomalens_metrics::{
    Bin, Class, Confusion, MetricError, Platt, Reliability, Rule, Threshold, f1_max,
};
use common::made_up;
use proptest::prelude::*;

#[test]
fn rules_are_read_and_written() {
    for text in ["f1", "fpr=0.01", "recall=0.995", "cost=10:0.5"] {
        let rule: Rule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
    }
    let cases = [
        (
            "f2",
            "there is no rule `f2`; the rules are f1, fpr=RATE, recall=RATE, cost=MISS:ALARM",
        ),
        (
            "f1=3",
            "there is no rule `f1=3`; the rules are f1, fpr=RATE, recall=RATE, cost=MISS:ALARM",
        ),
        (
            "fpr=1%",
            "`1%` is no rate: give a number above 0 and below 1",
        ),
        ("fpr=0", "`0` is no rate: give a number above 0 and below 1"),
        (
            "recall=1",
            "`1` is no rate: give a number above 0 and below 1",
        ),
        (
            "recall=nan",
            "`nan` is no rate: give a number above 0 and below 1",
        ),
        (
            "cost=10",
            "`cost=10` lacks a cost: write it as cost=MISS:ALARM, such as cost=10:1",
        ),
        ("cost=-1:1", "`-1` is no cost: give a number above 0"),
        ("cost=1:inf", "`inf` is no cost: give a number above 0"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<Rule>().unwrap_err(), message, "{text}");
    }
}

/// Nine normal images of scores 1 to 9, and anomalous ones.
fn nine_normal(anomalous: &[f32]) -> (Vec<f32>, Vec<bool>) {
    let normal = (1..10_u8).map(|score| (f32::from(score), false));
    normal
        .chain(anomalous.iter().map(|&score| (score, true)))
        .unzip()
}

#[test]
fn thresholds_by_rule() {
    let (scores, labels) = nine_normal(&[4.5, 7.5, 8.5, 11.0]);
    let cost = |miss, alarm| Rule::Cost { miss, alarm };
    let cases = [
        ("F1", Rule::F1, 7.25),
        (
            "at most a tenth: none of nine",
            Rule::FalsePositiveRate(0.1),
            9.0_f32.next_up(),
        ),
        (
            "at most a fifth: one of nine",
            Rule::FalsePositiveRate(0.2),
            8.0_f32.next_up(),
        ),
        (
            "at most 0.29: one of nine",
            Rule::FalsePositiveRate(0.29),
            8.0_f32.next_up(),
        ),
        ("four fifths of the anomalous", Rule::Recall(0.8), 4.5),
        ("three fifths of them", Rule::Recall(0.6), 7.5),
        ("misses are dear", cost(10.0, 1.0), 4.25),
        ("alarms are dear", cost(1.0, 10.0), 10.0),
        (
            "the lowest of three that cost the same",
            cost(1.0, 1.0),
            7.25,
        ),
    ];
    for (name, rule, expected) in cases {
        let threshold = Threshold::choose(&scores, &labels, rule).unwrap();
        assert_eq!(threshold.value, expected, "{name}");
    }
    let nothing = Threshold::choose(&[1.0, 2.0], &[true, false], cost(1.0, 10.0)).unwrap();
    assert_eq!(nothing.value, 2.0_f32.next_up(), "nothing is called");
    let neighbours = [1.0, 1.0_f32.next_up()];
    let between = Threshold::choose(&neighbours, &[false, true], Rule::F1).unwrap();
    assert_eq!(between.value, neighbours[1]);
}

#[test]
fn whether_a_rule_can_be_met_follows_from_the_labels() {
    let cost = Rule::Cost {
        miss: 1.0,
        alarm: 1.0,
    };
    for (name, rule, normal, anomalous, possible) in [
        ("F1", Rule::F1, 1, 1, true),
        ("F1 without anomalous images", Rule::F1, 9, 0, false),
        ("costs without normal images", cost, 0, 9, false),
        ("a tenth of nine", Rule::FalsePositiveRate(0.1), 9, 0, true),
        (
            "a tenth of eight",
            Rule::FalsePositiveRate(0.1),
            8,
            5,
            false,
        ),
        ("all but a tenth of nine", Rule::Recall(0.9), 1, 9, true),
        ("all but a tenth of eight", Rule::Recall(0.9), 1, 8, false),
        (
            "a recall without normal images",
            Rule::Recall(0.9),
            0,
            9,
            false,
        ),
        ("no images", Rule::FalsePositiveRate(0.1), 0, 0, false),
    ] {
        let labels: Vec<bool> = (0..normal + anomalous).map(|i| i >= normal).collect();
        let scores: Vec<f32> = (0..labels.len()).map(|i| i as f32).collect();
        let answer = rule.require_possible(&labels);
        assert_eq!(answer.is_ok(), possible, "{name}: {answer:?}");
        let chosen = Threshold::choose(&scores, &labels, rule);
        assert_eq!(chosen.map(drop), answer, "{name}");
    }
}

#[test]
fn normal_images_are_enough_for_a_false_positive_rate() {
    let (scores, labels) = nine_normal(&[]);
    let threshold = Threshold::choose(&scores, &labels, Rule::FalsePositiveRate(0.2)).unwrap();
    let guarantee = threshold.guarantee.unwrap();
    assert_eq!((guarantee.images, guarantee.wrong), (9, 1));
    assert_eq!((guarantee.rate, guarantee.expected), (0.2, 0.2));
    // `scipy.stats.beta(2, 8)`: cdf(0.2), ppf(0.95).
    assert!((guarantee.confidence - 0.563_792_384).abs() < 1e-9);
    assert!((guarantee.bound - 0.429_135_547_0).abs() < 1e-9);
}

#[test]
fn errors_tell_what_to_do() {
    let (scores, labels) = nine_normal(&[11.0]);
    let choose = |rule: &str| Threshold::choose(&scores, &labels, rule.parse().unwrap());
    let (normal_scores, normal_labels) = nine_normal(&[]);
    let cases: [(&str, Result<Threshold, MetricError>, &str); 4] = [
        (
            "too few normal images",
            choose("fpr=0.05"),
            "wrong decisions on at most 5% of the normal images cannot be promised from 9 of \
             them: give at least 19, or allow more",
        ),
        (
            "too few anomalous images",
            choose("recall=0.75"),
            "wrong decisions on at most 25% of the anomalous images cannot be promised from 1 of \
             them: give at least 3, or allow more",
        ),
        (
            "no anomalous images",
            Threshold::choose(&normal_scores, &normal_labels, Rule::F1),
            "a threshold by this rule is undefined: all 9 images are normal; add anomalous ones to \
             the evaluation",
        ),
        (
            "infinite",
            Threshold::choose(&[0.0, f32::INFINITY], &[false, true], Rule::F1),
            "the score at index 1 is infinite: remove this image or repair its score",
        ),
    ];
    for (name, result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message, "{name}");
    }
}

/// Scores and labels (1 = anomalous).
type Scored<'a> = (&'a [f32], &'a [u8]);

#[track_caller]
fn fitted(name: &str, scores: &[f32], labels: &[bool], [slope, offset]: [f64; 2]) -> Platt {
    let platt = Platt::fit(scores, labels).unwrap();
    let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 1e-7;
    let both = near(platt.slope, slope) && near(platt.offset, offset);
    assert!(both, "{name}: {platt:?}, expected {slope} {offset}");
    platt
}

/// SciPy 1.17's `minimize` (trust-exact, gradient below 1e-13) on Platt's loss; Brier score by
/// scikit-learn, expected calibration error by its definition.
#[test]
fn platt_equals_a_general_minimiser() {
    let cases = [
        (
            60,
            1000,
            [0.003_539_203_211_670_713, -3.554_244_553_542_055_5],
            0.141_046_097_182_725_62,
            0.129_984_975_061_664_8,
        ),
        (
            60,
            8,
            [0.295_955_514_307_016_8, -2.527_978_642_627_205],
            0.161_080_116_066_867_42,
            0.144_393_195_926_741_07,
        ),
        (
            500,
            40,
            [0.078_176_383_195_261_17, -2.774_687_488_674_157_3],
            0.177_456_418_504_117_78,
            0.109_075_790_433_732_26,
        ),
    ];
    for (images, grid, curve, brier, expected_error) in cases {
        let name = format!("{images} images, {grid} scores");
        let (labels, scores, _) = made_up(images, grid);
        let platt = fitted(&name, &scores, &labels, curve);
        let probabilities: Vec<f64> = scores.iter().map(|&s| platt.probability(s)).collect();
        let reliability = Reliability::of(&probabilities, &labels).unwrap();
        assert!(
            (reliability.brier - brier).abs() < 1e-8,
            "{name}: {reliability:?}"
        );
        assert!(
            (reliability.expected_error - expected_error).abs() < 1e-6,
            "{name}"
        );
    }
    let cases: [(&str, Scored<'_>, [f64; 2]); 2] = [
        (
            "separable",
            (&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0], &[0, 0, 0, 1, 1, 1]),
            [0.272_877_686_855_320_05, -1.637_266_121_131_920_2],
        ),
        (
            "far from zero",
            (
                &[1000.0, 1001.0, 1002.0, 1010.0, 1011.0, 1012.0, 1013.0],
                &[0, 0, 0, 1, 1, 1, 0],
            ),
            [0.173_708_080_567_344_57, -175.242_279_332_093_46],
        ),
    ];
    for (name, (scores, labels), curve) in cases {
        let labels: Vec<bool> = labels.iter().map(|&label| label == 1).collect();
        fitted(name, scores, &labels, curve);
    }
}

#[test]
fn no_probability_from_scores_that_do_not_rise() {
    for (name, scores) in [("falling", [3.0, 2.0, 1.0]), ("equal", [5.0; 3])] {
        let fitted = Platt::fit(&scores, &[false, true, true]);
        assert_eq!(fitted, Err(MetricError::NotRising), "{name}");
    }
}

#[test]
fn reliability_counts_every_image_once() {
    let probabilities = [0.0, 0.05, 0.5, 0.59, 1.0];
    let labels = [false, true, true, false, true];
    let reliability = Reliability::of(&probabilities, &labels).unwrap();
    let bin = |images, probability, anomalous| Bin {
        images,
        probability,
        anomalous,
    };
    let expected = [
        bin(2, 0.025, 0.5),
        bin(2, (0.5 + 0.59) / 2.0, 0.5),
        bin(1, 1.0, 1.0),
    ];
    assert_eq!(reliability.bins, expected);
    assert!(Reliability::of(&[], &[]).is_err());
    assert!(Reliability::of(&[0.5], &[]).is_err());
}

/// Scores with ties, and labels of which both classes are there.
fn labelled() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
    let item = || ((-9_i8..9).prop_map(f32::from), any::<bool>());
    prop::collection::vec(item(), 2..40).prop_map(|items| {
        let (scores, mut labels): (Vec<f32>, Vec<bool>) = items.into_iter().unzip();
        (labels[0], labels[1]) = (false, true);
        (scores, labels)
    })
}

proptest! {
    #[test]
    fn f1_and_cost_are_the_best_of_all_thresholds(
        (scores, labels) in labelled(),
        miss in 0.1_f64..10.0,
        alarm in 0.1_f64..10.0,
    ) {
        let f1 = Threshold::choose(&scores, &labels, Rule::F1).unwrap();
        prop_assert_eq!(
            Confusion::at(&scores, &labels, f1.value),
            Confusion::at(&scores, &labels, f1_max(&scores, &labels).unwrap().threshold)
        );
        let cost = |threshold: f32| {
            let made = Confusion::at(&scores, &labels, threshold).unwrap();
            miss * made.false_negatives as f64 + alarm * made.false_positives as f64
        };
        let chosen = Threshold::choose(&scores, &labels, Rule::Cost { miss, alarm }).unwrap();
        for &other in scores.iter().chain(&[f32::INFINITY]) {
            prop_assert!(cost(chosen.value) <= cost(other) + 1e-9);
        }
    }

    /// Of images drawn alike each is equally likely to be the later one; so a promise holds if the
    /// images that are wrong when left out are few enough.
    #[test]
    fn rates_hold_for_images_left_out(
        (scores, _) in labelled(),
        rate in 0.02_f64..0.98,
    ) {
        for class in [Class::Normal, Class::Anomalous] {
            let anomalous = class == Class::Anomalous;
            let rule = match class {
                Class::Normal => Rule::FalsePositiveRate(rate),
                Class::Anomalous => Rule::Recall(1.0 - rate),
            };
            let mut wrong = 0;
            let mut promised = true;
            for left_out in 0..scores.len() {
                let mut others = scores.clone();
                let score = others.remove(left_out);
                let mut labels = vec![anomalous; others.len()];
                // An image of the other class, which the rule does not look at.
                others.push(0.0);
                labels.push(!anomalous);
                match Threshold::choose(&others, &labels, rule) {
                    Ok(threshold) => {
                        wrong += usize::from((score >= threshold.value) != anomalous);
                    }
                    Err(MetricError::TooFewForRate { .. }) => promised = false,
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
            if promised {
                prop_assert!(wrong as f64 <= rate * scores.len() as f64 + 1e-6, "{wrong}");
            }
        }
    }

    #[test]
    fn probabilities_rise_with_the_score((scores, labels) in labelled()) {
        if let Ok(platt) = Platt::fit(&scores, &labels) {
            for pair in [[-9.0, -1.5], [-1.5, 0.0], [0.0, 9.0]] {
                let [low, high] = pair.map(|score| platt.probability(score));
                prop_assert!(0.0 <= low && low <= high && high <= 1.0);
            }
        }
    }
}
