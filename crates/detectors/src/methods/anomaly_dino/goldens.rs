//! Every step against an independent implementation with the real weights of DINOv2-S
//! (`tests/goldens/anomaly_dino.py`).
//!
//! Rotations and masks are equal. Tokens differ by what float32 leaves of twelve blocks, some 1e-5 of the
//! largest, which is what the tolerances of everything after them come from.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use anomalens_backbones::{Grid, ImageEncoder};
use anomalens_vision::Image;
use candle_core::DType;

use super::*;
use crate::testing::{Goldens, close, dinov2_s, flat};
use crate::{ImageSource, MethodSettings, Prediction, ReferenceImage, StreamOptions, predict};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("anomaly_dino.safetensors"));

/// Every so many tokens are in the file.
const TOKEN_STEP: usize = 37;

const QUERIES: [&str; 3] = ["wide", "tall", "bright"];

fn image(name: &str) -> Image {
    let pixels = GOLDENS.get(name);
    let (height, width, _) = pixels.dims3().unwrap();
    let bytes = pixels.flatten_all().unwrap().to_vec1().unwrap();
    Image::new(width as u32, height as u32, bytes).unwrap()
}

fn query(name: &str) -> Image {
    image(&format!("{name}.pixels"))
}

/// Values that are stored as integers.
fn integers(name: &str) -> Vec<f32> {
    flat(&GOLDENS.get(name).to_dtype(DType::F32).unwrap())
}

/// A detector fitted on the first `references`.
fn fitted(references: usize, settings: serde_json::Value) -> Box<dyn Detector> {
    let names = ["reference", "other"];
    let references: Vec<ReferenceImage> = names[..references]
        .iter()
        .map(|name| ReferenceImage::new(*name, query(name)))
        .collect();
    let settings: MethodSettings = serde_json::from_value(settings).unwrap();
    let context = FitContext::new(&settings, dinov2_s()).with_references(&references);
    AnomalyDino.fit(&context).unwrap()
}

fn predicted(detector: &dyn Detector, name: &str) -> Prediction {
    let source = ImageSource::Memory {
        name: name.to_owned(),
        image: Arc::new(query(name)),
    };
    let mut found = None;
    predict(
        dinov2_s(),
        &[detector],
        &[source],
        &HashSet::new(),
        &StreamOptions::default(),
        &mut |outcome| {
            found = Some(outcome.result.unwrap());
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    found.unwrap()
}

#[test]
fn rotations_are_those_of_opencv() {
    let found = rotations(&query("reference"));
    assert_eq!(found.len(), ROTATIONS as usize);
    for (i, found) in found.into_iter().enumerate() {
        let name = format!("reference.rotated{}", i * 45);
        assert!(found == image(&name), "{name}");
    }
}

#[test]
fn inputs_tokens_and_masks_are_the_originals() {
    let settings = Settings::defaults(dinov2_s().spec());
    let profile = settings.profile().unwrap();
    for name in QUERIES {
        let golden = |part: &str| format!("{name}.{part}");
        let image = query(name);
        let input = profile.input.preprocess.apply(&image).unwrap();
        let columns = (0..3 * input.width).map(|i| {
            let plane = &input.values[i / input.width * input.height * input.width..];
            let column = plane.iter().skip(i % input.width).step_by(input.width);
            column.take(input.height).sum()
        });
        let columns: Vec<f32> = columns.collect();
        let expected = GOLDENS.values(&golden("input_sums"));
        close(&golden("input"), &columns, &expected, 1e-5);

        let features = dinov2_s().encode(&[input], &profile.input.request).unwrap();
        let map = after(&features[0], settings.block).unwrap();
        let Grid { rows, columns } = map.grid;
        assert_eq!(integers(&golden("grid")), [rows as f32, columns as f32]);
        let rows = map.tokens.chunks_exact(map.dim).step_by(TOKEN_STEP);
        let expected = GOLDENS.values(&golden("tokens"));
        close(
            &golden("tokens"),
            &rows.collect::<Vec<_>>().concat(),
            &expected,
            1e-4,
        );

        let component = foreground::first_component(&map.tokens, map.dim);
        let component: Vec<f32> = component.into_iter().map(|x| x as f32).collect();
        let expected = GOLDENS.values(&golden("component"));
        close(&golden("component"), &component, &expected, 1e-4);

        let kept = foreground::foreground(&map.tokens, map.dim, map.grid);
        let kept: Vec<f32> = kept
            .into_iter()
            .map(|kept| f32::from(u8::from(kept)))
            .collect();
        assert!(kept == integers(&golden("mask")), "{name}: mask");
    }
}

#[test]
fn distances_scores_and_maps_are_the_originals() {
    // (prefix in the file, references, settings)
    let cases = [
        ("", 2, serde_json::json!({})),
        ("one.", 1, serde_json::json!({})),
        ("upright.", 2, serde_json::json!({"rotation": false})),
        ("masked", 2, serde_json::json!({})),
    ];
    let mut both: Option<State> = None;
    for (prefix, references, settings) in cases {
        let detector = match (prefix, both.take()) {
            // The same references, so that they are not encoded again.
            ("masked", Some(mut state)) => {
                state.config["masking"] = "on".into();
                AnomalyDino.load(state).unwrap()
            }
            (_, kept) => {
                let detector = fitted(references, settings);
                both = kept.or_else(|| Some(detector.state()));
                detector
            }
        };
        for name in QUERIES {
            let found = predicted(detector.as_ref(), name);
            let mask = integers(&format!("{name}.mask"));
            let (distances, score, map) = match prefix {
                "masked" => (
                    "distances".to_owned(),
                    "masked_score".to_owned(),
                    "masked_map",
                ),
                _ => (
                    format!("{prefix}distances"),
                    format!("{prefix}score"),
                    "map",
                ),
            };
            let mut expected = GOLDENS.values(&format!("{name}.{distances}"));
            if prefix == "masked" {
                expected
                    .iter_mut()
                    .zip(mask)
                    .for_each(|(x, kept)| *x *= kept);
            }
            let case = format!("{prefix} {name}");
            close(&case, found.map.values(), &expected, 1e-4);
            let expected = GOLDENS.values(&format!("{name}.{score}"));
            close(&case, &[found.score], &expected, 1e-4);
            if references == 2 && !prefix.starts_with("upright") {
                let pixels = query(name);
                let (width, height) = (pixels.width(), pixels.height());
                let seen = found.size.footprint;
                assert_eq!((seen.width, seen.height), (width as f32, height as f32));
                let large = found.smooth_map(height as usize, width as usize).unwrap();
                let expected = GOLDENS.values(&format!("{name}.{map}"));
                close(&case, large.values(), &expected, 1e-4);
            }
        }
    }
}
