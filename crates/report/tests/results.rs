//! Pages of images without labels.

// A helper that cannot do its work is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use anomalens_evaluation::picture::{AnomalousArea, Area};
use anomalens_report::{Decider, Heading, ResultImage, ResultsContext, write_results_report};
use anomalens_vision::{DecodeOptions, Image};
use common::{all_text, elements, parse, texts};
use scraper::Html;

fn picture(path: &Path) -> PathBuf {
    let grey = vec![120; 3 * 64 * 32];
    Image::new(64, 32, grey).unwrap().save_png(path).unwrap();
    path.to_owned()
}

fn scored(name: &str, score: f32) -> ResultImage {
    ResultImage {
        name: name.to_owned(),
        score: Some(score),
        ..ResultImage::default()
    }
}

fn context(decider: Option<Decider>) -> ResultsContext {
    ResultsContext {
        heading: Heading {
            title: "Results of photos/".to_owned(),
            command: "anomalens detect photos/ --report r.html".to_owned(),
            notes: vec!["2 files have formats that are not read: 2 .heic".to_owned()],
            ..Heading::default()
        },
        detector: "lens, 4 reference images".to_owned(),
        decider,
        decode: DecodeOptions::default(),
    }
}

fn page(images: &[ResultImage], context: &ResultsContext) -> Html {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.html");
    write_results_report(&path, images, context).unwrap();
    parse(&path)
}

fn threshold(threshold: f32) -> Option<Decider> {
    Some(Decider {
        threshold,
        origin: "fpr=0.05, from 40 normal images".to_owned(),
    })
}

#[test]
fn images_come_by_score_with_pictures_and_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| picture(&folder.path().join(name));
    let region = AnomalousArea {
        x: 10,
        y: 4,
        width: 20,
        height: 8,
        area: 100,
        peak: 2.0,
        outer: Area {
            x: 8,
            y: 2,
            width: 30,
            height: 12,
        },
    };
    let images = [
        scored("low.png", 0.5),
        ResultImage {
            regions: vec![region],
            source: Some(file("a.png").into()),
            heat_map: Some(file("heat.png")),
            overlay: Some(file("overlay.png")),
            ..scored("high.png", 2.0)
        },
        ResultImage {
            regions: vec![region],
            source: Some(file("b.png").into()),
            notes: vec!["the image is blank".to_owned()],
            ..scored("alone.png", 1.0)
        },
        ResultImage {
            source: Some(folder.path().join("gone.png").into()),
            ..scored("gone.png", 0.7)
        },
        ResultImage {
            name: "broken.png".to_owned(),
            error: Some("broken.png is empty".to_owned()),
            ..ResultImage::default()
        },
    ];
    let page = page(&images, &context(None));
    let gone = folder.path().join("gone.png");
    assert_eq!(
        texts(&page, ".images tbody tr"),
        [
            "image heat map overlay high.png 2.000 1 1".to_owned(),
            "image alone.png the image is blank 1.000 2 1".to_owned(),
            format!(
                "This image cannot be shown: {} does not exist; check the path gone.png 0.700 3 0",
                gone.display()
            ),
            "low.png 0.500 4 0".to_owned(),
        ]
    );
    // Boxes lie over the last picture, in pixels of the image.
    let boxes = elements(&page, "figure:last-child .boxes");
    assert_eq!(boxes.len(), 2);
    assert_eq!(
        boxes[0].attr("viewbox").or(boxes[0].attr("viewBox")),
        Some("0 0 64 32")
    );
    let rect = elements(&page, ".boxes rect")[0];
    let sides = ["x", "y", "width", "height"].map(|side| rect.attr(side).unwrap());
    assert_eq!(sides, ["10", "4", "20", "8"]);
    assert_eq!(
        texts(&page, ".counts li"),
        [
            "4 images scored",
            "1 could not be used",
            "1 to look at again"
        ]
    );
    assert_eq!(
        texts(&page, "#not-scored-1 tbody tr"),
        ["broken.png broken.png is empty"]
    );
    assert_eq!(
        texts(&page, "#flagged li"),
        ["alone.png : the image is blank"]
    );
    assert!(elements(&page, "input").is_empty(), "no threshold to move");
    assert!(all_text(&page).contains("There is no threshold"));
    assert_eq!(
        texts(&page, ".notice"),
        ["2 files have formats that are not read: 2 .heic"]
    );
    assert!(texts(&page, "dd").contains(&"lens, 4 reference images".to_owned()));
    for link in elements(&page, "a") {
        assert_eq!(elements(&page, link.attr("href").unwrap()).len(), 1);
    }
}

#[test]
fn a_threshold_decides_and_can_be_moved() {
    let mut images: Vec<ResultImage> = (0..4)
        .map(|i| scored(&format!("{i}.png"), i as f32))
        .collect();
    images[3].probability = Some(0.75);
    let page = page(&images, &context(threshold(2.5)));
    assert_eq!(
        texts(&page, ".images tbody tr"),
        [
            "3.png 3.000 1 anomalous 0.750 0",
            "2.png 2.000 2 normal 0",
            "1.png 1.000 3 normal 0",
            "0.png 0.000 4 normal 0"
        ]
    );
    assert_eq!(
        texts(&page, ".counts li"),
        ["4 images scored", "1 of 4 anomalous"]
    );
    assert_eq!(
        texts(&page, ".images p"),
        [
            "Threshold The threshold 2.500 (at first fpr=0.05, from 40 normal images) calls 1 of 4 \
          images anomalous ."
        ]
    );
    let slider = elements(&page, "input[type=range]")[0];
    assert_eq!(
        ["min", "max", "value"].map(|name| slider.attr(name).unwrap()),
        ["0", "3", "2.5"]
    );
    assert_eq!(
        elements(&page, ".images")[0].attr("data-scores"),
        Some("3 2 1 0")
    );
    assert!(texts(&page, ".plots figcaption")[0].ends_with("Dashed line: the threshold 2.500."));
}

#[test]
fn every_kind_of_result_has_a_valid_page() {
    const EVIL: &str = "<script>alert(1)</script>\"'&";
    let failed = ResultImage {
        name: EVIL.to_owned(),
        error: Some(EVIL.to_owned()),
        notes: vec![EVIL.to_owned()],
        ..ResultImage::default()
    };
    for (name, images, plots) in [
        ("none", vec![], 0),
        ("failed", vec![failed], 0),
        ("one", vec![scored(EVIL, 1.0)], 1),
        ("equal", vec![scored("a", 1.0); 3], 1),
        (
            "not a number",
            vec![scored("a", f32::NAN), scored("b", f32::INFINITY)],
            0,
        ),
    ] {
        for decider in [
            None,
            threshold(1.0),
            threshold(100.0),
            threshold(f32::INFINITY),
        ] {
            let page = page(&images, &context(decider));
            assert_eq!(elements(&page, ".plots svg").len(), plots, "{name}");
            let svg: String = elements(&page, "svg")
                .iter()
                .map(|svg| svg.html())
                .collect();
            assert!(
                !svg.contains("NaN") && !svg.contains("inf"),
                "{name}: {svg}"
            );
        }
    }
}

#[test]
fn the_page_of_a_large_folder_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| picture(&folder.path().join(name));
    let image = ResultImage {
        source: Some(file("a.png").into()),
        heat_map: Some(file("heat.png")),
        overlay: Some(file("overlay.png")),
        ..ResultImage::default()
    };
    let image = |i: usize| ResultImage {
        name: format!("{i}.png"),
        score: Some(i as f32),
        ..image.clone()
    };
    for (count, listed, pictures, note) in [
        (1500, 1500, 1500, None),
        (2200, 2200, 2000, Some("200 images have no pictures")),
        (
            10_100,
            10_000,
            2000,
            Some("8000 images have no pictures and 100 are not listed"),
        ),
    ] {
        let images: Vec<ResultImage> = (0..count).map(image).collect();
        let page = page(&images, &context(None));
        assert_eq!(elements(&page, ".images tbody tr").len(), listed);
        assert_eq!(elements(&page, ".images .strip").len(), pictures);
        let found = texts(&page, ".images > .note");
        let expected = note
            .map(|note| format!("To keep this page small, {note}: those with the lowest scores."));
        assert_eq!(found, Vec::from_iter(expected), "{count}");
        // The highest scores are those that are shown.
        assert!(texts(&page, ".images tbody th")[0].starts_with(&format!("{}.png", count - 1)));
    }
}
