//! Resizing, preprocessing, masks and rotation against Pillow, torchvision and OpenCV.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use anomalens_vision::{Filter, GeometryError, Image, Limits, Mask, Preprocess, Rect, Resize};
use common::Goldens;

#[test]
fn resizing_equals_pillow_bit_for_bit() {
    let goldens = Goldens::open("preprocess.safetensors");
    let mut cases = 0;
    for name in goldens.names() {
        let Some(case) = name
            .strip_prefix("resize.")
            .and_then(|n| n.strip_suffix(".out"))
        else {
            continue;
        };
        let filter = match case.split('.').next() {
            Some("bilinear") => Filter::Bilinear,
            Some("bicubic") => Filter::Bicubic,
            Some("lanczos") => Filter::Lanczos,
            other => panic!("no such filter: {other:?}"),
        };
        let expected = goldens.image(&name);
        let input = goldens.image(&format!("resize.{case}.in"));
        let resized = input
            .resize(expected.width(), expected.height(), filter)
            .unwrap();
        assert!(resized == expected, "{case}");
        cases += 1;
    }
    assert_eq!(cases, 15);
}

#[test]
fn preprocessing_equals_torchvision() {
    let goldens = Goldens::open("preprocess.safetensors");
    let cases = [
        ("clip_square.56.a", Preprocess::clip_square(56), "a.png"),
        ("clip_square.56.b", Preprocess::clip_square(56), "b.png"),
        ("clip_square.56.c", Preprocess::clip_square(56), "c.png"),
        ("clip_square.70.b", Preprocess::clip_square(70), "b.png"),
        (
            "clip_centre_crop.80.a",
            Preprocess::clip_centre_crop(80),
            "a.png",
        ),
        (
            "imagenet_square.56.a",
            Preprocess::imagenet_square(56),
            "a.png",
        ),
    ];
    for (name, preprocess, image) in cases {
        let input = preprocess.apply(&common::image(image)).unwrap();
        assert_eq!(
            goldens.shape(name),
            [3, input.height, input.width],
            "{name}"
        );
        let difference = common::largest_difference(&input.values, &goldens.floats(name));
        // One 8-bit level would be 0.015; this is the rounding of f32.
        assert!(difference < 1e-6, "{name}: {difference}");
    }
}

#[test]
fn masks_equal_the_reference_pipeline() {
    let goldens = Goldens::open("preprocess.safetensors");
    let mask = Mask::open(&common::path("mask.png").into(), &Limits::default()).unwrap();
    for size in [56, 70] {
        let resized = mask.resize(size, size).unwrap();
        let values: Vec<u8> = resized.values().iter().copied().map(u8::from).collect();
        assert_eq!(values, goldens.bytes(&format!("mask.{size}")), "{size}");
    }
}

#[test]
fn rotation_equals_opencv() {
    let goldens = Goldens::open("rotate.safetensors");
    let image = goldens.image("in");
    let centre = (
        f64::from(image.width()) / 2.0,
        f64::from(image.height()) / 2.0,
    );
    for degrees in [45, 90, 180, 225] {
        let rotated = image.rotate_about(degrees.into(), centre);
        assert!(
            rotated == goldens.image(&format!("out.{degrees}")),
            "{degrees}"
        );
    }
}

#[test]
fn quarter_turns_of_squares_are_exact() {
    let [a, b, c, d] = [[1, 2, 3], [40, 50, 60], [97, 98, 99], [200, 210, 220]];
    let image = |pixels: [[u8; 3]; 4]| Image::new(2, 2, pixels.concat()).unwrap();
    let upright = image([a, b, c, d]);
    let cases = [
        (0.0, [a, b, c, d]),
        (90.0, [b, d, a, c]),
        (180.0, [d, c, b, a]),
        (270.0, [c, a, d, b]),
        (-90.0, [c, a, d, b]),
        (720.0, [a, b, c, d]),
    ];
    for (degrees, expected) in cases {
        assert_eq!(upright.rotate(degrees), image(expected), "{degrees}");
    }
}

#[test]
fn output_sizes_and_footprints() {
    let all = |width, height| Rect {
        x: 0.0,
        y: 0.0,
        width,
        height,
    };
    let shorter_side = Preprocess {
        resize: Resize::ShorterSide { size: 224 },
        ..Preprocess::imagenet_square(1)
    };
    let patchcore = Preprocess {
        resize: Resize::ShorterSideCentreCrop {
            size: 256,
            crop: 224,
        },
        ..Preprocess::imagenet_square(1)
    };
    let cases = [
        (
            "stretch",
            Preprocess::clip_square(518),
            (500, 1240),
            (518, 518),
            all(500.0, 1240.0),
        ),
        (
            "longer side truncated",
            shorter_side,
            (500, 1240),
            (555, 224),
            all(500.0, 1240.0),
        ),
        (
            "centre crop of a landscape",
            Preprocess::clip_centre_crop(240),
            (640, 480),
            (240, 240),
            Rect {
                x: 80.0,
                y: 0.0,
                width: 480.0,
                height: 480.0,
            },
        ),
        // 256 x 259 rows leave a surplus of 35: half of it, 17.5, becomes the even 18.
        (
            "surplus rounded to even",
            patchcore,
            (256, 259),
            (224, 224),
            Rect {
                x: 16.0,
                y: 18.0,
                width: 224.0,
                height: 224.0,
            },
        ),
        (
            "bottom and right cut",
            Preprocess::imagenet_shorter_side(448, 14),
            (1000, 900),
            (448, 490),
            all(1000.0 * 490.0 / 497.0, 900.0),
        ),
        (
            "one pixel",
            Preprocess::clip_square(14),
            (1, 1),
            (14, 14),
            all(1.0, 1.0),
        ),
    ];
    for (name, preprocess, (width, height), size, footprint) in cases {
        assert_eq!(preprocess.output_size(width, height), Ok(size), "{name}");
        assert_eq!(preprocess.footprint(width, height), Ok(footprint), "{name}");
    }
}

#[test]
fn impossible_sizes_are_errors() {
    let crop_too_large = Preprocess {
        resize: Resize::ShorterSideCentreCrop {
            size: 100,
            crop: 101,
        },
        ..Preprocess::clip_square(1)
    };
    let cases = [
        (
            "a strip",
            Preprocess::imagenet_shorter_side(448, 14),
            (10, 100_000),
            "resizing 10 x 100000 to 448 x 4480000 is too large; crop the image to a less extreme \
             shape or choose a smaller size",
        ),
        (
            "patch larger than the image",
            Preprocess::imagenet_shorter_side(10, 14),
            (100, 100),
            "the area to cut out would be empty; its size comes out as 0 x 0",
        ),
        (
            "patch of zero",
            Preprocess::imagenet_shorter_side(10, 0),
            (100, 100),
            "the area to cut out would be empty; its size comes out as 0 x 0",
        ),
        (
            "size of zero",
            Preprocess::clip_square(0),
            (100, 100),
            "the resized image would be empty; its size comes out as 0 x 0",
        ),
        (
            "crop larger than the size",
            crop_too_large,
            (100, 200),
            "the area of 101 x 101 at (0, 50) reaches outside the 100 x 200 image",
        ),
        (
            "gigantic",
            Preprocess::clip_square(u32::MAX),
            (100, 100),
            "resizing 100 x 100 to 4294967295 x 4294967295 is too large; crop the image to a less \
             extreme shape or choose a smaller size",
        ),
    ];
    for (name, preprocess, (width, height), message) in cases {
        let error = preprocess.output_size(width, height).unwrap_err();
        assert_eq!(error.to_string(), message, "{name}");
    }
}

#[test]
fn preprocessing_survives_storage() {
    let preprocess = Preprocess::imagenet_shorter_side(448, 14);
    let stored = serde_json::to_string(&preprocess).unwrap();
    assert_eq!(
        stored,
        r#"{"resize":{"mode":"shorter_side_multiple","size":448,"multiple":14},"filter":"bicubic","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225]}"#
    );
    assert_eq!(
        serde_json::from_str::<Preprocess>(&stored).unwrap(),
        preprocess
    );
    let zero = serde_json::from_str::<Preprocess>(&stored.replace("0.229", "0.0")).unwrap_err();
    assert!(
        zero.to_string()
            .starts_with("std must be three positive numbers"),
        "{zero}"
    );
}

#[test]
fn crops() {
    let image = Image::new(3, 2, (0..18).collect()).unwrap();
    let corner = image.crop(1, 1, 2, 1).unwrap();
    assert_eq!(corner.as_bytes(), [12, 13, 14, 15, 16, 17]);
    let mask = Mask::new(3, 2, vec![true, false, false, false, true, true]).unwrap();
    let cropped = mask.crop(1, 0, 2, 2).unwrap();
    assert_eq!(cropped.values(), [false, false, true, true]);
    assert_eq!((mask.count(), cropped.count(), cropped.any()), (3, 2, true));

    for area in [(2, 0, 2, 1), (0, 1, 1, 2), (u32::MAX, 0, 2, 1)] {
        let (x, y, width, height) = area;
        let outside = GeometryError::CropOutside {
            x,
            y,
            width,
            height,
            image_width: 3,
            image_height: 2,
        };
        assert_eq!(image.crop(x, y, width, height), Err(outside.clone()));
        assert_eq!(mask.crop(x, y, width, height), Err(outside));
    }
    assert!(matches!(
        image.crop(0, 0, 0, 1),
        Err(GeometryError::Empty { .. })
    ));
}

#[test]
fn wrong_numbers_of_pixels_are_errors() {
    for (width, height, pixels) in [(2, 1, 5), (2, 1, 7), (u32::MAX, u32::MAX, 3)] {
        let made = Image::new(width, height, vec![0; pixels]);
        assert!(
            matches!(made, Err(GeometryError::WrongLength { .. })),
            "{made:?}"
        );
        let made = Mask::new(width, height, vec![true; pixels]);
        assert!(
            matches!(made, Err(GeometryError::WrongLength { .. })),
            "{made:?}"
        );
    }
    assert!(matches!(
        Image::new(0, 1, vec![]),
        Err(GeometryError::Empty { .. })
    ));
}

#[test]
fn moved_images_repeat_their_edge() {
    let bytes = (0..3 * 4 * 3).map(|i| i as u8);
    let image = Image::new(4, 3, bytes.collect()).unwrap();
    // (name, right, down, the first channel of each pixel)
    let rows = |rows: [[u8; 4]; 3]| rows.concat().into_iter().map(|at| 3 * at);
    for (name, right, down, expected) in [
        (
            "nowhere",
            0,
            0,
            [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
        ),
        ("right", 1, 0, [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]),
        (
            "left and up",
            -2,
            -1,
            [[6, 7, 7, 7], [10, 11, 11, 11], [10, 11, 11, 11]],
        ),
        ("out of the picture", i64::MIN, i64::MAX, [[3, 3, 3, 3]; 3]),
    ] {
        let moved = image.moved(right, down);
        let first = moved.as_bytes().iter().step_by(3).copied();
        assert!(first.eq(rows(expected)), "{name}");
    }
}
