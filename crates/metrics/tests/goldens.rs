//! Values of scikit-learn, scikit-image and the published AUPRO codes (`tests/goldens/metrics.*`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail in its helpers"
)]

use anomalens_metrics::{
    Class, Level, MetricError, PixelMetrics, PixelOptions, ScoredMask, auroc, average_precision,
    f1_max, precision_recall_curve,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const TENSORS: &[u8] = include_bytes!("../../../tests/goldens/metrics.safetensors");
const VALUES: &str = include_str!("../../../tests/goldens/metrics.json");
const SKLEARN_TOLERANCE: f64 = 1e-12;
const AUPRO_TOLERANCE: f64 = 1e-12;

fn floats(name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(TENSORS).unwrap();
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    let (numbers, _) = view.data().as_chunks();
    numbers
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

fn bytes(name: &str) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(TENSORS).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

fn flags(name: &str) -> Vec<bool> {
    bytes(name).into_iter().map(|byte| byte > 0).collect()
}

fn cases(prefix: &str) -> Vec<(String, Value)> {
    let json: Value = serde_json::from_str(VALUES).unwrap();
    let values = json["values"].as_object().unwrap();
    let cases = values.iter().filter(|(name, _)| name.starts_with(prefix));
    cases
        .map(|(name, expected)| (name.clone(), expected.clone()))
        .collect()
}

#[track_caller]
fn assert_near(case: &str, key: &str, actual: f64, expected: &Value, tolerance: f64) {
    let expected = expected[key].as_f64().unwrap();
    assert!(
        (actual - expected).abs() <= tolerance,
        "{case} {key}: {actual}, expected {expected}"
    );
}

fn one_class(metric: &'static str, present: Class, count: u64) -> MetricError {
    MetricError::OneClass {
        metric,
        level: Level::Image,
        present,
        count,
    }
}

#[test]
fn image_metrics() {
    let cases = cases("image.");
    assert_eq!(cases.len(), 12);
    for (case, expected) in cases {
        let scores = floats(&format!("{case}.scores"));
        let labels = flags(&format!("{case}.labels"));
        let roc = auroc(&scores, &labels);
        // scikit-learn warns and gives NaN or 0 on one class; here the reason is given instead.
        if case == "image.all_normal" {
            assert_eq!(roc, Err(one_class("AUROC", Class::Normal, 4)));
            let precision = average_precision(&scores, &labels);
            assert_eq!(
                precision,
                Err(one_class("average precision", Class::Normal, 4))
            );
            let f1 = f1_max(&scores, &labels);
            assert_eq!(f1, Err(one_class("F1-max", Class::Normal, 4)));
            continue;
        }
        if case == "image.all_anomalous" {
            assert_eq!(roc, Err(one_class("AUROC", Class::Anomalous, 3)));
        } else {
            assert_near(
                &case,
                "sklearn_auroc",
                roc.unwrap(),
                &expected,
                SKLEARN_TOLERANCE,
            );
        }
        let precision = average_precision(&scores, &labels).unwrap();
        assert_near(&case, "sklearn_ap", precision, &expected, SKLEARN_TOLERANCE);
        let f1 = f1_max(&scores, &labels).unwrap();
        assert_near(&case, "f1_max", f1.value, &expected, SKLEARN_TOLERANCE);
        assert_near(
            &case,
            "f1_max_threshold",
            f1.threshold.into(),
            &expected,
            SKLEARN_TOLERANCE,
        );
    }
}

#[test]
fn precision_recall_curves() {
    for (case, _) in cases("image.") {
        if ["image.all_normal", "image.all_anomalous"].contains(&case.as_str()) {
            continue; // no curve is stored for one class
        }
        let scores = floats(&format!("{case}.scores"));
        let labels = flags(&format!("{case}.labels"));
        // scikit-learn's thresholds ascend, and its curve ends in an added point.
        let ours = precision_recall_curve(&scores, &labels).unwrap();
        let ours: Vec<_> = ours.iter().rev().collect();
        let thresholds: Vec<f32> = ours.iter().map(|point| point.threshold).collect();
        assert_eq!(
            thresholds,
            floats(&format!("{case}.pr_thresholds")),
            "{case}"
        );
        let precisions: Vec<f32> = ours.iter().map(|point| point.precision as f32).collect();
        assert_eq!(
            precisions,
            floats(&format!("{case}.pr_precision"))[..ours.len()],
            "{case}"
        );
        let recalls: Vec<f32> = ours.iter().map(|point| point.recall as f32).collect();
        assert_eq!(
            recalls,
            floats(&format!("{case}.pr_recall"))[..ours.len()],
            "{case}"
        );
    }
}

#[test]
fn pixel_metrics() {
    let mask = flags("pixel.masks");
    let cases = cases("pixel.");
    assert_eq!(cases.len(), 5);
    for (case, expected) in cases {
        let maps = floats(&format!("{case}.maps"));
        let scored: Vec<ScoredMask<'_>> = maps
            .chunks(64 * 64)
            .zip(mask.chunks(64 * 64))
            .map(|(scores, mask)| ScoredMask::new(64, 64, scores, mask).unwrap())
            .collect();

        let metrics = PixelMetrics::compute(&scored, &PixelOptions::default()).unwrap();
        let near = |key: &str, value: f64, tolerance: f64| {
            assert_near(&case, key, value, &expected, tolerance);
        };
        near(
            "sklearn_pixel_auroc",
            metrics.auroc.unwrap(),
            SKLEARN_TOLERANCE,
        );
        near(
            "sklearn_pixel_ap",
            metrics.average_precision.unwrap(),
            SKLEARN_TOLERANCE,
        );
        let f1 = metrics.f1_max.unwrap();
        near("pixel_f1_max", f1.value, SKLEARN_TOLERANCE);
        near(
            "pixel_f1_max_threshold",
            f1.threshold.into(),
            SKLEARN_TOLERANCE,
        );
        near(
            "exact_aupro_f64_0.3",
            metrics.aupro.unwrap(),
            AUPRO_TOLERANCE,
        );
        let steps = metrics.aupro_200_steps.unwrap();
        near("anomalyclip_aupro_200steps_numpy1", steps, AUPRO_TOLERANCE);

        let narrow = PixelOptions {
            fpr_limit: 0.05,
            ..PixelOptions::default()
        };
        let metrics = PixelMetrics::compute(&scored, &narrow).unwrap();
        near(
            "exact_aupro_f64_0.05",
            metrics.aupro.unwrap(),
            AUPRO_TOLERANCE,
        );
    }
}

#[test]
fn regions_of_each_mask() {
    let masks = flags("pixel.masks");
    let expected = bytes("pixel.components8");
    let zeros = [0.0; 64 * 64];
    for (mask, regions) in masks.chunks(64 * 64).zip(expected) {
        let scored = ScoredMask::new(64, 64, &zeros, mask).unwrap();
        let metrics = PixelMetrics::compute(&[scored], &PixelOptions::default()).unwrap();
        assert_eq!(metrics.regions, u64::from(regions));
    }
}
