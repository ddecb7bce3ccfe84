//! Variants of a method side by side, on a tiny CLIP with seeded weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, Engine, Kernels, Precision};
use anomalens_benchmark::ablation::{Ablation, AblationEvent, tables};
use anomalens_datasets::{DataRef, DataSet};
use anomalens_detectors::find;
use anomalens_detectors::training::{Cache, TrainEvent, TrainOptions};
use anomalens_evaluation::{Resolution, RunOptions, training_samples};
use anomalens_vision::Image;
use serde_json::json;

/// Four blocks of each tower.
fn network() -> ClipVision {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 64,
            blocks: 4,
            heads: 1,
            patch: 14,
            position_side: 4,
            embedding: 32,
        },
        text: TextConfig {
            width: 64,
            blocks: 4,
            heads: 1,
            context: 77,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    };
    let checkpoint = Checkpoint::seeded(7, architecture.shapes());
    let activation = Some(architecture.activation);
    let kernels = Kernels::new(Engine::detect(), Precision::F32);
    ClipVision::new(Arc::new(checkpoint), activation, &kernels).unwrap()
}

/// Two classes of plain plates, some with a bright spot and its mask.
fn data(root: &Path) -> DataSet {
    let picture = |name: String, pixel: &dyn Fn(u32, u32) -> [u8; 3]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixels = (0..56 * 56).flat_map(|i| pixel(i % 56, i / 56)).collect();
        Image::new(56, 56, pixels).unwrap().save_png(&path).unwrap();
    };
    let spot = |x, y| (14..28).contains(&x) && (28..42).contains(&y);
    for (class, shade) in [("nut", 90), ("bolt", 140)] {
        for i in 0..2_u8 {
            let plain = move |_, _| [shade + i, shade, shade];
            let spotted = move |x, y| if spot(x, y) { [250; 3] } else { plain(x, y) };
            picture(format!("{class}/train/good/{i}.png"), &plain);
            picture(format!("{class}/test/good/{i}.png"), &plain);
            picture(format!("{class}/test/spot/{i}.png"), &spotted);
            let mask = |x, y| if spot(x, y) { [255; 3] } else { [0; 3] };
            picture(format!("{class}/ground_truth/spot/{i}_mask.png"), &mask);
        }
    }
    let reference = format!("folder:{}", root.display());
    DataSet::open(&reference.parse::<DataRef>().unwrap()).unwrap()
}

#[test]
fn every_variant_of_anomalyclip_is_learned_and_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(&folder.path().join("data"));
    let network = network();
    let method = find("anomalyclip").unwrap();
    let samples = training_samples(&data, None, false);
    let settings = json!({ "image_size": 28 });
    let tests = [("plates".to_owned(), data)];
    let output = folder.path().join("ablation");
    let ablation = Ablation {
        method,
        settings: settings.as_object().unwrap().clone(),
        variants: method
            .require_trainer()
            .unwrap()
            .variants(&network)
            .unwrap(),
        start: None,
        encoder: &network,
        samples: &samples,
        tests: &tests,
        training: TrainOptions {
            epochs: Some(1),
            cache: Cache::Disk,
            ..TrainOptions::default()
        },
        measuring: RunOptions {
            resolution: Resolution::Square(28),
            ..RunOptions::default()
        },
        folder: output.clone(),
    };
    let identity = json!({ "test": true });
    // Cancelled in the middle of measuring: what is trained and measured stays.
    let mut measured = 0;
    let stopped = ablation.run(&identity, &mut |event| match event {
        AblationEvent::Measuring(..) if measured == 20 => ControlFlow::Break(()),
        AblationEvent::Measuring(..) => {
            measured += 1;
            ControlFlow::Continue(())
        }
        AblationEvent::Training(..) => ControlFlow::Continue(()),
    });
    assert!(stopped.unwrap().is_none());
    let mut steps = 0;
    let records = ablation.run(&identity, &mut |event| {
        if let AblationEvent::Training(_, TrainEvent::Step { .. }) = event {
            steps += 1;
        }
        ControlFlow::Continue(())
    });
    let records = records.unwrap().unwrap();
    assert_eq!(steps, 0, "nothing is trained twice");
    let names: Vec<&str> = records.iter().map(|r| r.variant.as_str()).collect();
    assert_eq!(
        names,
        [
            "default",
            "global-only",
            "local-only",
            "dpam-none",
            "dpam-qq",
            "dpam-kk",
            "block-1",
            "block-2",
            "block-3",
            "blocks-quarters",
            "score-map",
            "score-both",
            "context-4",
            "context-8",
            "context-16",
            "depth-1",
            "depth-5",
            "depth-12",
            "deep-1",
            "deep-2",
            "deep-8",
            "object-aware",
            "ensemble",
        ]
    );
    for record in &records {
        assert!(record.metrics.image_auroc.is_some(), "{record:?}");
        assert!(record.metrics.aupro_200_steps.is_some(), "{record:?}");
        assert!(record.loss.is_some_and(f64::is_finite), "{record:?}");
    }
    // What a variant changes, changes what is learned.
    let loss = |name: &str| records.iter().find(|r| r.variant == name).unwrap().loss;
    for name in [
        "global-only",
        "dpam-qq",
        "block-2",
        "object-aware",
        "ensemble",
    ] {
        assert_ne!(loss(name), loss("default"), "{name}");
    }
    let lines = std::fs::read_to_string(output.join("results.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), records.len());
    assert!(!output.join("features").exists());
    let markdown = |records: &[_]| tables(records)[0].markdown();
    let table = markdown(&records);
    assert!(table.starts_with("## plates\n"), "{table}");
    assert!(table.contains("| dpam-qq | `dpam=\"qq\"` | "), "{table}");
    let again = ablation
        .run(&identity, &mut |_| panic!("all is done"))
        .unwrap();
    assert_eq!(markdown(&again.unwrap()), table);
    let other = ablation.run(
        &json!({ "test": false }),
        &mut |_| ControlFlow::Continue(()),
    );
    assert!(other.unwrap_err().to_string().contains("another"));
}
