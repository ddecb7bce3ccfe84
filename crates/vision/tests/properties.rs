//! What holds for every input: no panic on any bytes, and invariants of the geometry.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Cursor;
use std::sync::LazyLock;

use anomalens_vision::{Alignment, Filter, Image, Limits, Map, Preprocess, Resize};
use image::{DynamicImage, ImageFormat};
use proptest::prelude::*;

/// Small files of all formats that are read.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let picture = DynamicImage::from(common::image("b.png").crop(5, 5, 24, 20).unwrap());
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];
    let mut files: Vec<_> = formats
        .into_iter()
        .chain([ImageFormat::WebP])
        .map(|format| {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        })
        .collect();
    for fixture in [
        "cmyk_adobe.jpg",
        "progressive.jpg",
        "lossy.webp",
        "bilevel.tif",
        "palette.bmp",
    ] {
        files.push(std::fs::read(common::fixture(fixture)).unwrap());
    }
    files
});

/// Keeps a damaged header from making the test slow.
const SMALL: Limits = Limits {
    max_bytes: 1 << 20,
    max_pixels: 1 << 16,
    max_memory: 64 << 20,
};

fn any_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        Just(Filter::Bilinear),
        Just(Filter::Bicubic),
        Just(Filter::Lanczos)
    ]
}

fn any_image() -> impl Strategy<Value = Image> {
    (1..40_u32, 1..40_u32).prop_flat_map(|(width, height)| {
        prop::collection::vec(any::<u8>(), (width * height * 3) as usize)
            .prop_map(move |pixels| Image::new(width, height, pixels).unwrap())
    })
}

fn any_map() -> impl Strategy<Value = Map> {
    (1..20_usize, 1..20_usize).prop_flat_map(|(rows, columns)| {
        prop::collection::vec(-1e3_f32..1e3, rows * columns)
            .prop_map(move |scores| Map::new(rows, columns, scores).unwrap())
    })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Image::decode_with(&bytes, &SMALL.into()).is_err());
    }

    #[test]
    fn damaged_files_never_panic(
        file in 0..10_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = FILES[file].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Whole files, damaged, must reach the pixel decoders too: cut every second one only.
        if length.index(2) == 0 {
            bytes.truncate(length.index(bytes.len()));
        }
        match Image::decode_with(&bytes, &SMALL.into()) {
            Ok(image) => {
                let pixels = u64::from(image.width()) * u64::from(image.height());
                prop_assert!(pixels <= SMALL.max_pixels);
            }
            // A panic is caught and reported so.
            Err(error) => prop_assert!(!error.to_string().contains("decoder failed"), "{error}"),
        }
    }

    #[test]
    fn resizing_one_colour_gives_that_colour(
        colour in any::<[u8; 3]>(),
        from in (1..60_u32, 1..60_u32),
        to in (1..60_u32, 1..60_u32),
        filter in any_filter(),
    ) {
        let pixels = colour.repeat((from.0 * from.1) as usize);
        let image = Image::new(from.0, from.1, pixels).unwrap();
        let resized = image.resize(to.0, to.1, filter).unwrap();
        prop_assert_eq!((resized.width(), resized.height()), to);
        prop_assert!(resized.as_bytes().as_chunks::<3>().0.iter().all(|&pixel| pixel == colour));
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(image in any_image(), filter in any_filter()) {
        prop_assert_eq!(&image.resize(image.width(), image.height(), filter).unwrap(), &image);
    }

    #[test]
    fn rotation_keeps_the_size_and_full_turns_change_nothing(
        image in any_image(),
        degrees in -1e4..1e4_f64,
        turns in -3..4_i32,
    ) {
        let rotated = image.rotate(degrees);
        prop_assert_eq!((rotated.width(), rotated.height()), (image.width(), image.height()));
        prop_assert_eq!(&image.rotate(f64::from(360 * turns)), &image);
        prop_assert_eq!(&image.rotate(180.0).rotate(180.0), &image);
    }

    #[test]
    fn map_resizing_keeps_the_range(
        map in any_map(),
        rows in 1..50_usize,
        columns in 1..50_usize,
        corners in any::<bool>(),
    ) {
        let alignment = if corners { Alignment::Corners } else { Alignment::Edges };
        let (low, high) = map.range().unwrap();
        let (resized_low, resized_high) =
            map.resize(rows, columns, alignment).unwrap().range().unwrap();
        prop_assert!(low <= resized_low && resized_high <= high);
        prop_assert_eq!(map.resize(map.rows(), map.columns(), alignment).unwrap(), map);
    }

    #[test]
    fn smoothing_keeps_the_range_and_the_mean(map in any_map(), sigma in 0.0..5.0_f64) {
        let smooth = map.smooth(sigma).unwrap();
        let (low, high) = map.range().unwrap();
        let slack = 1e-3;
        prop_assert!(smooth.values().iter().all(|&v| v >= low - slack && v <= high + slack));
        // Mirrored borders lose nothing and add nothing.
        prop_assert!((smooth.top_mean(1.0) - map.top_mean(1.0)).abs() < slack);
    }

    #[test]
    fn preprocessed_sizes_are_as_declared(
        image in any_image(),
        size in 0..40_u32,
        other in 0..40_u32,
        mode in 0..4,
    ) {
        let resize = match mode {
            0 => Resize::Stretch { height: size, width: other },
            1 => Resize::ShorterSide { size },
            2 => Resize::ShorterSideCentreCrop { size, crop: other },
            _ => Resize::ShorterSideMultiple { size, multiple: other },
        };
        let preprocess = Preprocess { resize, ..Preprocess::clip_square(1) };
        let declared = preprocess.output_size(image.width(), image.height());
        let footprint = preprocess.footprint(image.width(), image.height());
        match (declared, preprocess.apply(&image)) {
            (Ok((height, width)), Ok(input)) => {
                prop_assert!(height > 0 && width > 0);
                prop_assert_eq!((input.height, input.width), (height, width));
                prop_assert_eq!(input.values.len(), 3 * height * width);
                let seen = footprint.unwrap();
                prop_assert!(seen.x >= 0.0 && seen.x + seen.width <= image.width() as f32 + 1e-3);
                prop_assert!(seen.y >= 0.0 && seen.y + seen.height <= image.height() as f32 + 1e-3);
                if mode == 3 {
                    prop_assert_eq!((height as u32 % other, width as u32 % other), (0, 0));
                }
            }
            (Err(declared), Err(applied)) => prop_assert_eq!(declared, applied),
            (declared, applied) => prop_assert!(false, "{declared:?} but {applied:?}"),
        }
    }
}
