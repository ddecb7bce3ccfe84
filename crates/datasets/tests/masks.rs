//! Masks that are coded another way than the default reading takes them, and masks of images that
//! are stored turned: `check` reads what evaluation reads.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use std::ops::ControlFlow;

use anomalens_datasets::{DataRef, DataSet, FindingKind, check, check_while};
use anomalens_vision::{Image, Limits};
use common::*;
use image::{Luma, Pixel, PixelWithColorType, Rgb, Rgba};

/// A hole of 2 pixels in `plain`, whose masks are made pixel by pixel.
fn holes<P: Pixel<Subpixel = u8> + PixelWithColorType>(tree: &Tree, pixel: fn(bool) -> P) {
    plain(tree);
    for name in ["x", "y"] {
        let hole = |x, y| pixel(y == 1 && (1..3).contains(&x));
        let mask = image::ImageBuffer::from_fn(SIZE.0, SIZE.1, hole);
        let path = tree.path(&format!("plain/ground_truth/defect/{name}.png"));
        mask.save(path).unwrap();
    }
}

fn reference(tree: &Tree, settings: &str) -> DataRef {
    let path = tree.path("plain");
    format!("folder:{}{settings}", path.display())
        .parse()
        .unwrap()
}

/// How many pixels the first mask marks, and what `check` says of masks.
fn marked(tree: &Tree, settings: &str) -> (usize, Vec<String>) {
    let data = reference(tree, settings);
    let samples = DataSet::open(&data).unwrap().samples;
    let mut masks = samples
        .iter()
        .filter_map(|sample| sample.mask.open(&Limits::default()).unwrap());
    let count = masks.next().unwrap().count();
    let report = check(&data).unwrap();
    let told = report.findings.iter();
    let told = told
        .filter(|finding| [FindingKind::FullMask, FindingKind::EmptyMask].contains(&finding.kind));
    (count, told.map(ToString::to_string).collect())
}

#[test]
fn masks_that_mark_nearly_everything_are_told_and_can_be_read() {
    let invert = "if it marks what is normal, set mask-invert=true";
    let alpha = "if its alpha channel is meant, set mask-from=alpha";
    // name, masks, pixels that the default reading takes, what is said, settings
    type Case = (&'static str, fn(&Tree), usize, &'static str, &'static str);
    let cases: [Case; 4] = [
        (
            "black on white",
            |tree| holes(tree, |hole| Luma([if hole { 0 } else { 255 }])),
            22,
            invert,
            ",mask-invert=true",
        ),
        (
            "white and transparent",
            |tree| holes(tree, |hole| Rgba([255, 255, 255, u8::from(hole) * 255])),
            24,
            alpha,
            ",mask-from=alpha",
        ),
        (
            "transparent where it marks",
            |tree| holes(tree, |hole| Rgba([9, 9, 9, if hole { 0 } else { 255 }])),
            24,
            alpha,
            ",mask-from=alpha,mask-invert=true",
        ),
        (
            "yellow on blue",
            |tree| {
                let colour = |hole| Rgb(if hole { [255, 255, 0] } else { [0, 0, 255] });
                holes(tree, colour);
            },
            24,
            invert,
            ",mask-threshold=127",
        ),
    ];
    for (name, make, default, advice, settings) in cases {
        let tree = Tree::new();
        make(&tree);
        let (count, told) = marked(&tree, "");
        assert_eq!(count, default, "{name}");
        assert_eq!(told.len(), 2, "{name}: {told:?}");
        assert!(told[0].ends_with(advice), "{name}: {told:?}");
        assert_eq!(marked(&tree, settings), (2, vec![]), "{name}");
    }
}

#[test]
fn masks_follow_the_image_as_it_is_shown() {
    // The stored image is 6x4, its EXIF orientation makes it 4x6.
    for (name, (width, height), sound) in [("upright", (4, 6), true), ("as stored", (6, 4), false)]
    {
        let tree = Tree::new();
        for image in ["a", "b", "c", "d"] {
            tree.image(&format!("set/good/{image}.png"));
        }
        tree.turned("set/bad/x.jpg", 6, 4);
        tree.mask("set/ground_truth/bad/x.png", (width, height), &[(1, 1)]);
        let data = tree.data("folder", "set");
        let shown = Image::open(tree.path("set/bad/x.jpg")).unwrap();
        assert_eq!((shown.width(), shown.height()), (4, 6));
        let report = check(&data).unwrap();
        assert_eq!(report.is_sound(), sound, "{name}: {report}");
        let told = "this mask is 6x4, its image 4x6; is it drawn on the image before it was turned \
            upright, as its EXIF orientation says?";
        assert_eq!(
            !sound,
            report.to_string().contains(told),
            "{name}: {report}"
        );
    }
}

#[test]
fn an_interrupted_check_tells_what_it_found() {
    let tree = Tree::new();
    plain(&tree);
    tree.image("plain/ground_truth/defect/z.png"); // A mask without an image.
    let data = tree.data("folder", "plain");
    let all = check_while(&data, &|_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(all.not_read, 0);
    let stopped = check_while(&data, &|read, total| {
        assert!(read <= total);
        ControlFlow::Break(())
    })
    .unwrap();
    assert!(stopped.not_read > 0 && !stopped.is_sound());
    assert_eq!(stopped.counts, all.counts);
    assert!(
        stopped
            .findings
            .iter()
            .any(|finding| finding.kind == FindingKind::MaskWithoutImage),
        "{stopped}"
    );
    let end = format!(
        "interrupted: {} files were not read; this is what was found so far",
        stopped.not_read
    );
    assert!(stopped.to_string().ends_with(&end), "{stopped}");
}
