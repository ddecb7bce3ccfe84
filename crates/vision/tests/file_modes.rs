//! Resizing in the mode of a file and making it RGB afterwards, as torchvision does on Pillow's images.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use anomalens_vision::{Filter, Image, Preprocess, RgbConversion};

/// Every tensor of the goldens: file, filter, size.
fn cases() -> Vec<(String, String, Filter, (u32, u32))> {
    let names = common::Goldens::open("file_modes.safetensors").names();
    let case = |name: String| {
        let mut parts = name.rsplitn(3, '.');
        let (width, height) = parts.next().unwrap().split_once('x').unwrap();
        let size = (width.parse().unwrap(), height.parse().unwrap());
        let filter = match parts.next().unwrap() {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            _ => Filter::Lanczos,
        };
        let file = parts.next().unwrap().to_owned();
        (name, file, filter, size)
    };
    names.into_iter().map(case).collect()
}

#[test]
fn files_are_resized_in_their_own_mode() {
    let goldens = common::Goldens::open("file_modes.safetensors");
    let cases = cases();
    assert_eq!(cases.len(), 9 * 3 * 4);
    for (name, file, filter, (width, height)) in cases {
        let image = Image::open(common::fixture(&file)).unwrap();
        let resized = image.resize_in_file_mode(width, height, filter).unwrap();
        assert_eq!(resized, goldens.image(&name), "{name}");
    }
}

/// Otherwise the goldens would not show a difference.
#[test]
fn modes_matter() {
    let size = |rgb| {
        let preprocess = Preprocess {
            rgb,
            ..Preprocess::clip_square(14)
        };
        move |image: &Image| preprocess.apply(image).unwrap()
    };
    let (before, after) = (
        size(RgbConversion::BeforeResize),
        size(RgbConversion::AfterResize),
    );
    for (file, differs) in [
        ("mode_rgba.png", true),
        ("mode_la.png", true),
        ("mode_rgba.webp", true),
        ("mode_palette.png", true),
        ("mode_bilevel.png", true),
        ("mode_cmyk.jpg", true),
        ("mode_rgb16.png", true),
        ("mode_grey.png", false),
    ] {
        let image = Image::open(common::fixture(file)).unwrap();
        assert_eq!(before(&image) != after(&image), differs, "{file}");
        // Cut out and mirrored, it is still in the mode of its file.
        let part = image.crop(3, 2, 20, 16).unwrap().mirror();
        assert_eq!(before(&part) != after(&part), differs, "{file}, a part");
        let back = part.mirror().crop(0, 0, 20, 16).unwrap();
        assert_eq!(after(&back), after(&image.crop(3, 2, 20, 16).unwrap()));
    }
}

#[test]
fn the_choice_is_stored() {
    let ours = Preprocess::clip_square(336);
    let text = serde_json::to_string(&ours).unwrap();
    assert!(!text.contains("rgb"), "{text}");
    let theirs = Preprocess {
        rgb: RgbConversion::AfterResize,
        ..ours.clone()
    };
    for preprocess in [ours, theirs] {
        let text = serde_json::to_string(&preprocess).unwrap();
        let again: Preprocess = serde_json::from_str(&text).unwrap();
        assert_eq!(again, preprocess);
    }
}
