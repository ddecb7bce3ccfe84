//! Reports of generated evaluations, parsed as a browser would parse them.

// A helper that cannot do its work is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use anomalens_datasets::{GOOD, Label, MaskSource, Sample, Split};
use anomalens_detectors::training::EpochLog;
use anomalens_detectors::{Calibration, Enlargement, ImageSize, NormalRange, Prediction};
use anomalens_evaluation::published::Published;
use anomalens_evaluation::{ClassResult, Evaluation, ImageRecord, Metrics};
use anomalens_metrics::{Platt, ProPoint};
use anomalens_report::{Heading, ReportContext, ReportError, write_report};
use anomalens_vision::{DecodeOptions, Image, Map, Rect};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{all_text, elements, parse, texts};
use scraper::{ElementRef, Html};

const RANGE: NormalRange = NormalRange {
    median: 0.2,
    upper_quantile: 0.4,
};

const MIXED: [(Label, f32); 5] = [
    (Label::Normal, 0.21),
    (Label::Normal, 0.35),
    (Label::Anomalous, 0.3),
    (Label::Anomalous, 0.55),
    (Label::Anomalous, 0.9),
];

/// A folder for images and the report.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A grey image of 64 x 32 pixels whose map has its score everywhere.
    fn record(&self, class: &str, id: &str, label: Label, score: f32) -> ImageRecord {
        let (width, height) = (64, 32);
        let path = self.path(&format!("{class}-{}.png", id.replace(['/', '<', '>'], "-")));
        Image::new(width, height, vec![120; 3 * 64 * 32])
            .unwrap()
            .save_png(&path)
            .unwrap();
        let footprint = Rect {
            x: 0.0,
            y: 0.0,
            width: width as f32,
            height: height as f32,
        };
        ImageRecord {
            sample: Sample {
                id: id.to_owned(),
                image: path,
                crop: None,
                label,
                defect_type: if label == Label::Normal {
                    GOOD
                } else {
                    "crack"
                }
                .to_owned(),
                class: class.to_owned(),
                split: Split::Test,
                mask: MaskSource::Unknown,
            },
            prediction: Ok(Prediction {
                enlargement: Enlargement::default(),
                score,
                map: Map::new(2, 4, vec![score; 8]).unwrap(),
                range: RANGE,
                notes: vec![],
                size: ImageSize {
                    width,
                    height,
                    footprint,
                },
            }),
        }
    }

    /// A class with images of these labels and scores, named 0.png, 1.png and so on.
    fn class(&self, class: &str, images: &[(Label, f32)]) -> ClassResult {
        let count = |wanted| images.iter().filter(|(label, _)| *label == wanted).count();
        let records = images
            .iter()
            .enumerate()
            .map(|(i, &(label, score))| self.record(class, &format!("{i}.png"), label, score));
        ClassResult {
            class: class.to_owned(),
            metrics: Metrics::default(),
            normal: count(Label::Normal),
            anomalous: count(Label::Anomalous),
            undefined: vec![],
            breakdown: None,
            pro_curve: None,
            images: records.collect(),
        }
    }

    /// Writes the report, checks that it is valid HTML, and parses it.
    fn report(&self, evaluations: &[Evaluation], context: &ReportContext) -> Html {
        let path = self.path("report.html");
        write_report(&path, evaluations, context).unwrap();
        parse(&path)
    }
}

fn context() -> ReportContext {
    ReportContext {
        heading: Heading {
            title: "Test report".to_owned(),
            command: "anomalens eval --method musc --data sdd:/data/sdd".to_owned(),
            date: "2025-01-31T12:34:56Z".to_owned(),
            program: "anomalens 0.1.0".to_owned(),
            backbone: "dinov2-small".to_owned(),
            notes: vec![],
        },
        backbone_sha256: "0123abcd".to_owned(),
        published: vec![],
        losses: vec![],
        calibration: None,
        decode: DecodeOptions::default(),
    }
}

fn evaluation(classes: Vec<ClassResult>) -> Evaluation {
    let scored: usize = classes
        .iter()
        .map(|class| class.normal + class.anomalous)
        .sum();
    let all: usize = classes.iter().map(|class| class.images.len()).sum();
    Evaluation {
        data: "sdd".to_owned(),
        method: "AnomalyDINO".to_owned(),
        shots: Some(8),
        seed: 3,
        metrics: Metrics::mean(classes.iter().map(|class| &class.metrics)),
        images: scored,
        failed: all - scored,
        seconds: 12.34,
        classes,
    }
}

#[test]
fn every_number_is_there() {
    let folder = Folder::new();
    let mut class = folder.class("solar cell", &MIXED);
    class.metrics = Metrics {
        image_auroc: Some(0.8333),
        image_ap: Some(0.91),
        image_f1_max: Some(0.5),
        pixel_auroc: Some(0.9876),
        pixel_ap: Some(0.123),
        pixel_f1_max: Some(0.4567),
        aupro: Some(0.7774),
        aupro_200_steps: Some(0.7762),
        aupimo: None,
    };
    class.images[2].sample.mask = MaskSource::File(class.images[2].sample.image.clone().into());
    let musc = Evaluation {
        method: "MuSc".to_owned(),
        shots: None,
        ..evaluation(vec![folder.class("solar cell", &MIXED)])
    };
    let page = folder.report(&[evaluation(vec![class]), musc], &context());
    let rows = texts(&page, "section[aria-label=Metrics] tbody tr");
    assert_eq!(
        rows[0],
        "sdd AnomalyDINO 8 3 0.833 0.910 0.500 0.988 0.123 0.457 0.777 0.776 5 0 12.3",
    );
    assert_eq!(rows[1], "sdd MuSc none 3 – – – – – – – – 5 0 12.3");
    assert_eq!(
        texts(&page, "h2"),
        [
            "How many defects are found",
            "Images of AnomalyDINO on sdd, 8 shots, seed 3",
            "Images of MuSc on sdd",
            "Metrics",
            "Curves of AnomalyDINO on sdd, 8 shots, seed 3",
            "Curves of MuSc on sdd",
            "How this report was made"
        ],
    );
    assert_eq!(
        texts(&page, "dd")[..5],
        [
            "anomalens eval --method musc --data sdd:/data/sdd",
            "2025-01-31T12:34:56Z",
            "anomalens 0.1.0",
            "dinov2-small",
            "0123abcd"
        ],
    );
    // Both runs link to their sections.
    for link in elements(&page, "tbody a") {
        assert_eq!(elements(&page, link.attr("href").unwrap()).len(), 1);
    }
}

#[test]
fn every_kind_of_evaluation_has_a_valid_page() {
    let folder = Folder::new();
    let normal = [(Label::Normal, 0.2), (Label::Normal, 0.3)];
    let odd = [f32::NAN, f32::INFINITY, 0.2].map(|score| (Label::Anomalous, score));
    let many = (0..15)
        .map(|i| folder.class(&format!("class {i}"), &MIXED))
        .collect();
    let failed = {
        let mut class = folder.class("bottle", &MIXED);
        class.images[0].prediction = Err("a/0.png is empty".to_owned());
        class.normal -= 1;
        class
    };
    for (name, evaluations, figures) in [
        ("none", vec![], 0),
        ("no class", vec![evaluation(vec![])], 0),
        (
            "no image",
            vec![evaluation(vec![folder.class("a", &[])])],
            0,
        ),
        (
            "one run",
            vec![evaluation(vec![folder.class("a", &MIXED)])],
            5 + 2 + 3,
        ),
        ("many classes", vec![evaluation(many)], 3 * 8),
        ("failed", vec![evaluation(vec![failed])], 4 + 1 + 3),
        (
            "no anomalous",
            vec![evaluation(vec![folder.class("b", &normal)])],
            2 + 2,
        ),
        (
            "not a number",
            vec![evaluation(vec![folder.class("c", &odd)])],
            3 + 3,
        ),
        (
            "infinite",
            vec![evaluation(vec![folder.class("e", &odd[1..])])],
            2 + 2,
        ),
        (
            "equal",
            vec![evaluation(vec![
                folder.class("d", &[(Label::Normal, 0.0); 3]),
            ])],
            3 + 3,
        ),
    ] {
        let page = folder.report(&evaluations, &context());
        assert_eq!(elements(&page, ".gallery figure").len(), figures, "{name}");
        assert_eq!(elements(&page, ".gallery img").len(), 3 * figures, "{name}");
        let svg: String = elements(&page, "svg")
            .iter()
            .map(ElementRef::html)
            .collect();
        assert!(
            !svg.contains("NaN") && !svg.contains("inf"),
            "{name}: {svg}"
        );
    }
}

#[test]
fn text_from_outside_is_escaped() {
    const EVIL: &str = "<script>alert(1)</script>\"'&";
    let folder = Folder::new();
    let mut class = folder.class("a", &MIXED);
    class.class = EVIL.to_owned();
    class.undefined = vec![EVIL.to_owned()];
    class.images[0].prediction = Err(EVIL.to_owned());
    for record in &mut class.images {
        record.sample.id = EVIL.to_owned();
        record.sample.defect_type = EVIL.to_owned();
    }
    class.images[3].sample.image = folder.path("<script>gone.png");
    let other = folder.class("b", &MIXED);
    let mut evil = evaluation(vec![class, other]);
    evil.method = EVIL.to_owned();
    evil.data = EVIL.to_owned();
    let evil_context = ReportContext {
        heading: Heading {
            title: EVIL.to_owned(),
            command: EVIL.to_owned(),
            date: EVIL.to_owned(),
            program: EVIL.to_owned(),
            backbone: EVIL.to_owned(),
            notes: vec![EVIL.to_owned()],
        },
        backbone_sha256: EVIL.to_owned(),
        published: vec![Published {
            method: EVIL.to_owned(),
            data: EVIL.to_owned(),
            image_auroc: Some(0.5),
            note: Some(EVIL.to_owned()),
            source: EVIL,
            ..Published::default()
        }],
        ..context()
    };
    let page = folder.report(&[evil], &evil_context);
    assert_eq!(texts(&page, "h1"), [EVIL]);
    assert_eq!(texts(&page, "dd")[0], EVIL);
    assert!(all_text(&page).contains("<script>gone.png does not exist"));
    assert!(
        elements(&page, "img")
            .iter()
            .any(|image| image.attr("alt") == Some(&format!("image of {EVIL}")))
    );
}

#[test]
fn what_is_undefined_is_a_dash_with_the_reason() {
    let folder = Folder::new();
    let mut class = folder.class("bottle", &[(Label::Normal, 0.2), (Label::Normal, 0.3)]);
    class.undefined = vec!["image AUROC: all 2 images are normal".to_owned()];
    let page = folder.report(&[evaluation(vec![class])], &context());
    assert_eq!(
        texts(&page, "section[aria-label=Metrics] tbody tr"),
        ["sdd AnomalyDINO 8 3 – – – 2 0 12.3"]
    );
    assert_eq!(texts(&page, ".found td"), ["–"; 3]);
    assert_eq!(
        texts(&page, "li"),
        ["bottle: image AUROC: all 2 images are normal"]
    );
    // There is no ROC curve, and it says why; the histogram is there.
    assert_eq!(elements(&page, ".plots svg").len(), 1);
    assert!(texts(&page, ".roc .missing")[0].contains("all 2 images are normal"));
    assert!(all_text(&page).contains("No anomalous image has a score."));
    assert!(all_text(&page).contains("no masks"));
}

#[test]
fn the_overlap_curve_is_there_where_masks_are() {
    let folder = Folder::new();
    let mut class = folder.class("bottle", &MIXED);
    class.metrics.aupro = Some(0.7774);
    let points = [(0.0, 0.0), (0.0, 0.5), (0.15, 0.75), (0.3, 1.0)];
    let points = points.map(|(false_positive_rate, overlap)| ProPoint {
        false_positive_rate,
        overlap,
    });
    class.pro_curve = Some(points.to_vec());
    let page = folder.report(&[evaluation(vec![class])], &context());
    assert_eq!(
        texts(&page, ".roc figcaption")[2],
        "Per-region-overlap curve of the pixels; AUPRO 0.777. Dashed: chance."
    );
    let plot = &elements(&page, ".roc svg")[2];
    assert_eq!(
        plot.attr("aria-label"),
        Some("Per-region-overlap curve of bottle, AUPRO 0.777")
    );
    // The limit is the right edge, and chance reaches it at the limit's height.
    let svg = plot.html();
    for expected in [
        "50.0,290.0 50.0,150.0 190.0,80.0 330.0,10.0",
        "M50.0,290.0L330.0,206.0",
        ">0.1</text>",
        ">0.3</text>",
    ] {
        assert!(svg.contains(expected), "{expected}: {svg}");
    }
    let plain = folder.report(
        &[evaluation(vec![folder.class("bottle", &MIXED)])],
        &context(),
    );
    assert_eq!(elements(&plain, ".roc svg").len(), 2);
}

#[test]
fn galleries_show_the_extremes_in_order() {
    let folder = Folder::new();
    let page = folder.report(
        &[evaluation(vec![folder.class("bottle", &MIXED)])],
        &context(),
    );
    assert_eq!(
        texts(&page, ".gallery figcaption"),
        [
            "4.png anomalous: crack score 0.900, rank 1 of 5 0 of 2 normal images score higher",
            "3.png anomalous: crack score 0.550, rank 2 of 5 0 of 2 normal images score higher",
            "1.png normal score 0.350, rank 3 of 5 1 of 3 anomalous images score lower",
            "2.png anomalous: crack score 0.300, rank 4 of 5 1 of 2 normal images score higher",
            "0.png normal score 0.210, rank 5 of 5 0 of 3 anomalous images score lower",
            "1.png normal score 0.350, rank 3 of 5 1 of 3 anomalous images score lower",
            "0.png normal score 0.210, rank 5 of 5 0 of 3 anomalous images score lower",
            "2.png anomalous: crack score 0.300, rank 4 of 5 1 of 2 normal images score higher",
            "3.png anomalous: crack score 0.550, rank 2 of 5 0 of 2 normal images score higher",
            "4.png anomalous: crack score 0.900, rank 1 of 5 0 of 2 normal images score higher",
        ],
    );
}

#[test]
fn the_report_opens_with_what_is_found() {
    let folder = Folder::new();
    let class = |name: &str, normal: usize, scale: f32| {
        let normal = (0..normal).map(|i| (Label::Normal, scale * i as f32 / normal as f32));
        let anomalous = [0.5, 0.93, 0.97, 1.5].map(|score| (Label::Anomalous, scale * score));
        folder.class(name, &normal.chain(anomalous).collect::<Vec<_>>())
    };
    let one = folder.report(&[evaluation(vec![class("nut", 30, 1.0)])], &context());
    assert_eq!(texts(&one, "h2")[0], "How many defects are found");
    assert_eq!(
        texts(&one, ".found tbody td"),
        [
            "2 of 4 no false alarm in 30 normal images, score 0.970 or higher; too few normal images \
             for this rate, which needs 100",
            "2 of 4 1 false alarm in 30 normal images, score 0.967 or higher",
            "3 of 4 3 false alarms in 30 normal images, score 0.900 or higher",
        ]
    );
    // Each class has its own threshold; sums have none.
    let classes = vec![class("nut", 30, 1.0), class("bolt", 100, 7.0)];
    let two = folder.report(&[evaluation(classes)], &context());
    assert_eq!(
        texts(&two, "section:first-child .found tbody td"),
        [
            "3 of 8 1 false alarm in 130 normal images; too few normal images in some class, this \
             rate needs 100 in each",
            "4 of 8 6 false alarms in 130 normal images",
            "6 of 8 13 false alarms in 130 normal images",
        ]
    );
    assert_eq!(elements(&two, "#curves-1 .found tbody tr").len(), 2);
}

#[test]
fn classes_are_ranked_by_themselves() {
    let folder = Folder::new();
    // The scores of the second class are a hundred times larger, and all in order.
    let large: Vec<(Label, f32)> = (0..10)
        .map(|i| {
            (
                if i < 5 {
                    Label::Normal
                } else {
                    Label::Anomalous
                },
                10.0 + i as f32,
            )
        })
        .collect();
    let classes = vec![folder.class("small", &MIXED), folder.class("large", &large)];
    let page = folder.report(&[evaluation(classes)], &context());
    let captions = texts(&page, ".gallery figcaption");
    assert!(captions[0].starts_with("9.png anomalous: crack score 19.000, rank 1 of 10"));
    assert!(captions[1].starts_with("4.png anomalous: crack score 0.900, rank 1 of 5"));
    assert!(
        captions[8].starts_with("1.png normal score 0.350"),
        "{}",
        captions[8]
    );
    assert_eq!(
        texts(&page, "#curves-1 h3"),
        ["Classes", "Defects found in each class"]
    );
    assert_eq!(
        texts(&page, "#curves-1 table:not(.found) tbody tr"),
        ["small – – – 2 3", "large – – – 5 5"],
    );
}

#[test]
fn images_that_failed_are_listed() {
    let folder = Folder::new();
    let mut class = folder.class("bottle", &MIXED);
    class.images[1].prediction = Err("a/1.png is empty (0 bytes)".to_owned());
    let page = folder.report(&[evaluation(vec![class])], &context());
    assert!(texts(&page, "h3").contains(&"Images that could not be used (1)".to_owned()));
    assert_eq!(
        texts(&page, "#not-scored-1 tbody tr"),
        ["1.png a/1.png is empty (0 bytes)"]
    );
}

#[test]
fn an_image_that_is_gone_is_named_in_its_place() {
    let folder = Folder::new();
    let class = folder.class("bottle", &MIXED);
    let gone = class.images[4].sample.image.clone();
    std::fs::remove_file(&gone).unwrap();
    let page = folder.report(&[evaluation(vec![class])], &context());
    let missing = texts(&page, ".gallery .missing");
    assert_eq!(missing.len(), 2);
    assert!(
        missing[0].contains(&format!("{} does not exist", gone.display())),
        "{}",
        missing[0]
    );
    assert_eq!(elements(&page, ".gallery img").len(), 3 * 8);
}

/// The pictures of the galleries in order: image, heat map, overlay.
fn pictures(page: &Html) -> Vec<Image> {
    let decode = |element: ElementRef| {
        let data = element
            .attr("src")
            .unwrap()
            .strip_prefix("data:image/jpeg;base64,")
            .unwrap();
        Image::decode(&BASE64_STANDARD.decode(data).unwrap()).unwrap()
    };
    elements(page, ".gallery img")
        .into_iter()
        .map(decode)
        .collect()
}

fn brightness(image: &Image) -> f64 {
    let sum: f64 = image.as_bytes().iter().map(|&byte| f64::from(byte)).sum();
    sum / image.as_bytes().len() as f64
}

#[test]
fn images_stay_as_they_are_where_patches_are_normal() {
    let folder = Folder::new();
    let typical = [
        (Label::Normal, RANGE.median),
        (Label::Normal, 0.5 * RANGE.median),
    ];
    let page = folder.report(&[evaluation(vec![folder.class("a", &typical)])], &context());
    let pictures = pictures(&page);
    assert_eq!((pictures[0].width(), pictures[0].height()), (256, 128));
    assert!((brightness(&pictures[0]) - 120.0).abs() < 2.0);
    for heat in [&pictures[2], &pictures[5]] {
        assert_eq!((heat.width(), heat.height()), (256, 128));
        // Nothing lies over the image where nothing is wrong.
        assert!(
            (brightness(heat) - 120.0).abs() < 3.0,
            "{}",
            brightness(heat)
        );
    }
}

#[test]
fn heat_maps_have_the_outlines_of_scores_and_masks() {
    let folder = Folder::new();
    let mut class = folder.class("a", &[(Label::Anomalous, 0.2)]);
    // The left half is hot, the mask is the right quarter.
    let prediction = class.images[0].prediction.as_mut().unwrap();
    prediction.map = Map::new(2, 4, [[0.6, 0.6, 0.2, 0.2]; 2].concat()).unwrap();
    let mask: Vec<u8> = (0..64 * 32)
        .flat_map(|at| [if at % 64 < 48 { 0 } else { 255 }; 3])
        .collect();
    let mask_path = folder.path("mask.png");
    Image::new(64, 32, mask)
        .unwrap()
        .save_png(&mask_path)
        .unwrap();
    class.images[0].sample.mask = MaskSource::File(mask_path.into());
    let page = folder.report(&[evaluation(vec![class])], &context());
    let heat = &pictures(&page)[2];
    let row: Vec<[u8; 3]> = (0..256).map(|x| heat.pixel(x, 64).unwrap()).collect();
    let white = |[r, g, b]: [u8; 3]| r > 200 && g > 200 && b > 200;
    let blue = |[r, g, b]: [u8; 3]| r < 90 && g > 150 && b > 200;
    assert!(
        row[120..136].iter().any(|&pixel| white(pixel)),
        "{:?}",
        &row[120..136]
    );
    assert!(
        row[190..196].iter().any(|&pixel| blue(pixel)),
        "{:?}",
        &row[190..196]
    );
    assert!(
        !row[140..188]
            .iter()
            .any(|&pixel| white(pixel) || blue(pixel))
    );
    assert!(texts(&page, ".legend")[0].contains("according to the mask"));
}

#[test]
fn published_figures_stand_beside_ours_with_their_source() {
    let folder = Folder::new();
    let mut class = folder.class("a", &MIXED);
    class.metrics.image_auroc = Some(0.8333);
    let figure = |data: &str, image_auroc| Published {
        method: "WinCLIP".to_owned(),
        data: data.to_owned(),
        image_auroc: Some(image_auroc),
        source: "Jeong et al., CVPR 2023",
        ..Published::default()
    };
    let published = vec![
        figure("sdd", 0.843),
        Published {
            pixel_auroc: Some(0.688),
            note: Some("doubtful".to_owned()),
            ..figure("headct", 0.818)
        },
    ];
    let context = ReportContext {
        published,
        ..context()
    };
    let page = folder.report(&[evaluation(vec![class])], &context);
    assert_eq!(
        texts(&page, "tr")
            .iter()
            .filter(|row| row.contains("report") || row.contains("CVPR"))
            .collect::<Vec<_>>(),
        [
            "headct WinCLIP none 0.818 – 0.688 – Jeong et al., CVPR 2023; doubtful",
            "sdd AnomalyDINO 8 0.833 – – – this report",
            "sdd WinCLIP none 0.843 – – – Jeong et al., CVPR 2023",
        ],
    );
}

#[test]
fn the_losses_of_training_are_drawn_and_their_names_escaped() {
    let folder = Folder::new();
    let epoch = |epoch| EpochLog {
        epoch,
        loss: 2.0,
        parts: vec![("<b>image</b>".to_owned(), 1.0)],
        seconds: 1.0,
    };
    let context = ReportContext {
        losses: vec![epoch(1), epoch(2)],
        ..context()
    };
    let page = folder.report(&[], &context);
    assert_eq!(elements(&page, "polyline").len(), 2);
    assert!(elements(&page, "svg b").is_empty());
    assert!(all_text(&page).contains("<b>image</b>"));
    assert!(!all_text(&page).contains("Metrics"));
}

#[test]
fn a_report_that_cannot_be_written_names_its_path() {
    let path = Path::new("no-such-folder/report.html");
    match write_report(path, &[], &context()) {
        Err(ReportError::Write { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_calibrated_detector_shows_its_decisions() {
    let folder = Folder::new();
    let context = ReportContext {
        calibration: Some(Calibration {
            rule: "recall=0.9".parse().unwrap(),
            threshold: 0.4,
            probability: Some(Platt {
                slope: 20.0,
                offset: -8.0,
            }),
            normal: 40,
            anomalous: 30,
            data: "folder:<nuts>".to_owned(),
            date: "2026-01-01T00:00:00Z".to_owned(),
        }),
        ..context()
    };
    let page = folder.report(&[evaluation(vec![folder.class("nut", &MIXED)])], &context);
    let text = all_text(&page);
    for expected in [
        "0.4 or higher is anomalous (recall=0.9, chosen from 40 normal and 30 anomalous images of \
         folder:<nuts>).",
        "finds 2 of 3 anomalous images and calls 0 of 2 normal ones anomalous.",
        "Brier score 0.170, calibration error",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    // Of probabilities 0.02, 0.27 and 0.12, and above 0.9 twice.
    let dots = texts(&page, "svg circle title");
    assert_eq!(dots, ["1 image", "1 image", "1 image", "2 images"]);
    let plain = folder.report(
        &[evaluation(vec![folder.class("nut", &MIXED)])],
        &self::context(),
    );
    assert!(!all_text(&plain).contains("Decisions of the detector"));
    // The threshold to move starts there.
    let sentence = texts(&page, ".images p").remove(0);
    assert!(
        sentence.contains("0.400 (at first the detector's own) finds 2 of 3"),
        "{sentence}"
    );
    let decisions = texts(&page, ".decision").join(" ");
    assert_eq!(decisions, "anomalous anomalous normal normal normal");
}

#[test]
fn every_image_has_a_row_with_pictures() {
    let folder = Folder::new();
    let mut class = folder.class("bottle", &MIXED);
    class.images[2].sample.mask = MaskSource::File(class.images[2].sample.image.clone().into());
    let gone = class.images[0].sample.image.clone();
    std::fs::remove_file(&gone).unwrap();
    let page = folder.report(&[evaluation(vec![class])], &context());
    assert_eq!(
        texts(&page, ".images tbody tr"),
        [
            "image heat map overlay 4.png anomalous: crack 0.900 1 anomalous".to_owned(),
            "image heat map overlay 3.png anomalous: crack 0.550 2 anomalous".to_owned(),
            "image heat map overlay 1.png normal 0.350 3 anomalous".to_owned(),
            "image heat map mask overlay 2.png anomalous: crack 0.300 4 anomalous".to_owned(),
            format!(
                "This image cannot be shown: {} does not exist; check the path 0.png normal 0.210 5 normal",
                gone.display()
            ),
        ]
    );
    for picture in elements(&page, ".images img") {
        assert_eq!(picture.attr("loading"), Some("lazy"));
        assert_eq!(
            (picture.attr("width"), picture.attr("height")),
            (Some("144"), Some("72"))
        );
    }
    // The highest F1 is where 0.3 is anomalous.
    let sentence = texts(&page, ".images p").remove(0);
    assert_eq!(
        sentence,
        "Threshold The threshold 0.300 (at first that of the highest F1) finds 3 of 3 anomalous \
         images and calls 1 of 2 normal ones anomalous: precision 0.750, recall 1.000, F1 0.857 ."
    );
    let slider = &elements(&page, "input[type=range]")[0];
    let ends = ["min", "max", "value"].map(|name| slider.attr(name).unwrap());
    assert_eq!(ends, ["0.21", "0.9", "0.3"]);
    let images = &elements(&page, ".images")[0];
    let scores = ["data-normal", "data-anomalous"].map(|name| images.attr(name).unwrap());
    assert_eq!(scores, ["0.21 0.35", "0.3 0.55 0.9"]);
    assert!(
        elements(&page, ".slider[hidden]").len() == 1,
        "shown by the script alone"
    );
}

#[test]
fn a_report_of_many_images_stays_small() {
    let folder = Folder::new();
    let record = folder.record("a", "0.png", Label::Anomalous, 0.5);
    let mut class = folder.class("a", &MIXED);
    for i in 0..2200 {
        let mut record = record.clone();
        record.sample.id = format!("{i}.png");
        class.images.push(record);
    }
    let page = folder.report(&[evaluation(vec![class])], &context());
    assert_eq!(elements(&page, ".images tbody tr").len(), 2205);
    assert_eq!(elements(&page, ".images .strip").len(), 2000);
    assert!(texts(&page, ".images .note")[0].contains("205 images have no pictures: those"));
    let bytes = std::fs::metadata(folder.path("report.html")).unwrap().len();
    assert!(bytes < 40_000_000, "{bytes}");
}

#[test]
fn a_report_of_very_many_images_lists_those_out_of_order() {
    let folder = Folder::new();
    let mut class = folder.class("a", &MIXED);
    let record = folder.record("a", "x.png", Label::Anomalous, 0.95);
    class.images.extend(std::iter::repeat_n(record, 11_000));
    // One class of two has half of the report's rows and pictures.
    let classes = vec![class, folder.class("b", &MIXED)];
    let page = folder.report(&[evaluation(classes)], &context());
    let listed = texts(&page, ".images tbody tr th");
    assert_eq!(listed.len(), 5000 + 5);
    let ids = listed.iter().filter(|id| !id.starts_with("x.png"));
    assert_eq!(ids.count(), 2 + 5, "what is out of order is there");
    let note = &texts(&page, ".images .note")[0];
    assert!(
        note.contains("4000 images have no pictures and 6005 are not listed"),
        "{note}"
    );
    assert!(texts(&page, ".decided")[0].starts_with("finds 11003 of 11003 anomalous images"));
}
