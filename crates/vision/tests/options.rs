//! Bit depths and windows, pages, orientation, limits, and what is noted about a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use anomalens_vision::{
    DecodeNote, DecodeOptions, FileKind, Image, ImageError, Levels, Limits, Mask, MaskReading,
    NoteLog, image_size,
};

use common::tiff::{self, Page, grey16};

fn with(levels: Levels) -> DecodeOptions {
    DecodeOptions {
        levels,
        ..DecodeOptions::default()
    }
}

fn greys(image: &Image) -> Vec<u8> {
    image.as_bytes().chunks(3).map(|pixel| pixel[0]).collect()
}

fn png16(samples: [u16; 4], significant: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, 4, 1);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().unwrap();
    if let Some(bits) = significant {
        writer.write_chunk(png::chunk::sBIT, &[bits]).unwrap();
    }
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_be_bytes()).collect();
    writer.write_image_data(&data).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn deep_samples_are_scaled_by_the_stated_depth() {
    let low = grey16(4, 1, &[0, 2048, 4095, 1]);
    let floats = Page {
        strip: [0.0_f32, 0.5, 1.0, f32::NAN]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        ..low.clone()
    }
    .with(258, &[32])
    .with(339, &[3]);
    let signed = grey16(4, 1, &[0x8000, 0, 0x7FFF, 0xFC18]).with(339, &[2]);
    let signed_bytes = Page {
        strip: vec![0x80, 0, 0x7F, 0xFF],
        ..low.clone()
    }
    .with(258, &[8])
    .with(339, &[2]);
    let window = |low, high| Levels::Window { low, high };
    let tiff = |page: &Page| tiff::file(std::slice::from_ref(page));
    let cases = [
        ("16 bits", tiff(&low), Levels::FromFile, [0, 8, 16, 0]),
        (
            "12 of 16",
            tiff(&low),
            Levels::BitDepth(12),
            [0, 128, 255, 0],
        ),
        (
            "TIFF MaxSampleValue",
            tiff(&low.clone().with(281, &[4095])),
            Levels::FromFile,
            [0, 128, 255, 0],
        ),
        (
            "MaxSampleValue that is the image's own",
            tiff(&low.clone().with(281, &[4095 - 77])),
            Levels::FromFile,
            [0, 128, 255, 0],
        ),
        (
            "MaxSampleValue that is not true",
            tiff(&low.clone().with(281, &[255])),
            Levels::FromFile,
            [0, 8, 16, 0],
        ),
        (
            "PNG sBIT, in the low bits",
            png16([0, 2048, 4095, 1], Some(12)),
            Levels::FromFile,
            [0, 128, 255, 0],
        ),
        (
            "PNG sBIT, in the high bits",
            png16([0, 2048 << 4, 4095 << 4, 1 << 4], Some(12)),
            Levels::FromFile,
            [0, 128, 255, 0],
        ),
        (
            "PNG without sBIT",
            png16([0, 2048, 4095, 1], None),
            Levels::BitDepth(12),
            [0, 128, 255, 0],
        ),
        ("window", tiff(&low), window(1.0, 2048.0), [0, 255, 255, 0]),
        (
            "signed",
            tiff(&signed),
            Levels::FromFile,
            [0, 128, 255, 124],
        ),
        (
            "signed, window",
            tiff(&signed),
            window(-1000.0, 0.0),
            [0, 255, 255, 0],
        ),
        (
            "signed bytes",
            tiff(&signed_bytes),
            Levels::FromFile,
            [0, 128, 255, 127],
        ),
        (
            "floating point",
            tiff(&floats),
            window(0.0, 1.0),
            [0, 128, 255, 0],
        ),
    ];
    for (name, bytes, levels, expected) in cases {
        let image = Image::decode_with(&bytes, &with(levels)).unwrap();
        assert_eq!(greys(&image), expected, "{name}");
    }
    let eight = tiff(&Page {
        strip: vec![0, 7, 200, 255],
        ..low.with(258, &[8])
    });
    let image = Image::decode_with(&eight, &with(Levels::BitDepth(12))).unwrap();
    assert_eq!(
        greys(&image),
        [0, 7, 200, 255],
        "8 bits are left as they are"
    );
    for (low, high) in [(5.0, 5.0), (9.0, 1.0), (f64::NAN, 1.0)] {
        let error = Image::decode_with(&tiff(&signed), &with(window(low, high))).unwrap_err();
        assert!(
            matches!(error, ImageError::UnsupportedFeature { .. }),
            "{low} {high}: {error}"
        );
    }
}

#[test]
fn a_narrow_range_is_noted() {
    let file = |samples: &[u16; 4]| tiff::file(&[grey16(4, 1, samples)]);
    let cases = [
        (
            "12 of 16",
            file(&[0, 17, 4095, 9]),
            Levels::FromFile,
            Some("less than 1/8"),
        ),
        ("an eighth", file(&[0, 0, 8192, 9]), Levels::FromFile, None),
        (
            "stated",
            file(&[0, 17, 4095, 9]),
            Levels::BitDepth(12),
            None,
        ),
        (
            "too much stated",
            file(&[0, 17, 100, 9]),
            Levels::BitDepth(12),
            Some("less than 1/8"),
        ),
        (
            "too little stated",
            file(&[0, 17, 4095, 9]),
            Levels::BitDepth(10),
            Some("outside"),
        ),
        (
            "a window is meant",
            file(&[0, 17, 4095, 9]),
            Levels::Window {
                low: 0.0,
                high: 1e6,
            },
            None,
        ),
    ];
    for (name, bytes, levels, expected) in cases {
        let image = Image::decode_with(&bytes, &with(levels)).unwrap();
        let notes: Vec<String> = image.notes().iter().map(ToString::to_string).collect();
        match (expected, &notes[..]) {
            (None, []) => {}
            (Some(part), [note]) if note.contains(part) => {}
            _ => panic!("{name}: {notes:?}"),
        }
    }
    let log = NoteLog::default();
    for (name, levels) in [
        ("a", Levels::FromFile),
        ("b", Levels::FromFile),
        ("c", Levels::BitDepth(10)),
    ] {
        let image = Image::decode_with(&file(&[0, 17, 4095, 9]), &with(levels)).unwrap();
        log.clone().add(Path::new(name), &image);
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("a: its samples lie between 0 and 4095, less"),
        "{lines:?}"
    );
    assert!(lines[0].ends_with("(likewise for 1 more)"), "{lines:?}");
    assert!(lines[1].starts_with("c: "), "{lines:?}");
    let flat = Image::decode(&file(&[700; 4])).unwrap();
    assert!(flat.is_flat());
    assert!(!Image::decode(&file(&[0, 0, 0, 65535])).unwrap().is_flat());
}

#[test]
fn pages_in_full_resolution_can_be_read() {
    let page = |side: u16, value: u16| grey16(side, side, &vec![value; usize::from(side).pow(2)]);
    let thumbnail = page(2, 9 * 257).with(254, &[1]);
    let old_thumbnail = page(2, 9 * 257).with(255, &[2]);
    let mask = page(8, 9 * 257).with(254, &[4]);
    let (first, second) = (page(8, 100 * 257), page(6, 200 * 257));
    let cases: [(&str, Vec<Page>, &[u32]); 5] = [
        ("one page", vec![first.clone()], &[8]),
        (
            "thumbnail first",
            vec![thumbnail.clone(), first.clone()],
            &[8],
        ),
        ("thumbnail of old", vec![old_thumbnail, first.clone()], &[8]),
        (
            "pages and a mask",
            vec![mask, first, thumbnail.clone(), second],
            &[8, 6],
        ),
        (
            "thumbnails alone",
            vec![thumbnail.clone(), thumbnail],
            &[2, 2],
        ),
    ];
    for (name, pages, sides) in cases {
        let bytes = tiff::file(&pages);
        for (number, &side) in (0..).zip(sides) {
            let options = DecodeOptions {
                page: number,
                ..DecodeOptions::default()
            };
            let image = Image::decode_with(&bytes, &options).unwrap();
            assert_eq!(image.width(), side, "{name}");
            let noted = image.notes().contains(&DecodeNote::OtherPages {
                page: number,
                pages: sides.len() as u32,
            });
            assert_eq!(noted, sides.len() > 1, "{name}");
        }
        let options = DecodeOptions {
            page: sides.len() as u32,
            ..DecodeOptions::default()
        };
        let error = Image::decode_with(&bytes, &options).unwrap_err();
        assert!(
            matches!(error, ImageError::NoSuchPage { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn sizes_come_from_the_header() {
    let turned = grey16(3, 2, &[0; 6]).with(274, &[6]);
    let bytes = tiff::file(&[turned]);
    assert_eq!(image_size(&bytes).unwrap(), (2, 3));
    // The pixels are not needed.
    assert_eq!(image_size(&bytes[..bytes.len() - 5]).unwrap(), (2, 3));
    let as_stored = DecodeOptions {
        upright: false,
        ..DecodeOptions::default()
    };
    let image = Image::decode_with(&bytes, &as_stored).unwrap();
    assert_eq!((image.width(), image.height()), (3, 2));
    for name in [
        "lossy.webp",
        "palette.bmp",
        "palette.png",
        "progressive.jpg",
    ] {
        let bytes = std::fs::read(common::fixture(name)).unwrap();
        let image = Image::decode(&bytes).unwrap();
        let size = (image.width(), image.height());
        assert_eq!(image_size(&bytes).unwrap(), size, "{name}");
    }
    assert!(matches!(
        image_size(b"GIF89a"),
        Err(ImageError::UnsupportedFormat { .. })
    ));
}

#[test]
fn masks_are_upright_and_keep_signed_labels() {
    let turned = grey16(3, 2, &[0, 0, 7, 0, 0, 0]).with(274, &[6]);
    let mask = Mask::decode(
        &tiff::file(&[turned]),
        MaskReading::default(),
        &Limits::default(),
    )
    .unwrap();
    assert_eq!((mask.width(), mask.height()), (2, 3));
    assert_eq!(mask.values(), [false, false, false, false, false, true]);
    let signed = grey16(3, 1, &[0, 1, 0xFFFF]).with(339, &[2]);
    let mask = Mask::decode(
        &tiff::file(&[signed]),
        MaskReading::default(),
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(mask.values(), [false, true, false]);
}

#[test]
fn memory_is_limited_for_each_image_and_for_all_together() {
    let picture = image::DynamicImage::from(common::image("b.png"));
    let mut png = std::io::Cursor::new(vec![]);
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    let small = Limits {
        max_memory: 10_000,
        ..Limits::default()
    };
    let error = Image::decode_with(&png, &small.into()).unwrap_err();
    assert!(matches!(error, ImageError::TooMuchMemory { .. }), "{error}");
    // With room for one at a time, many threads wait for each other, and all come through.
    let tight = Limits {
        max_memory: 17 << 20,
        ..Limits::default()
    };
    std::thread::scope(|scope| {
        let decode = || (0..20).all(|_| Image::decode_with(&png, &tight.into()).is_ok());
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(decode)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
}

#[test]
fn names_and_bytes_show_what_is_read() {
    use FileKind::{Image, Other, UnreadImage};
    let names = [
        ("a.png", Image),
        ("a.JPG", Image),
        ("b/c.tiff", Image),
        ("a.gif", UnreadImage("GIF")),
        ("a.HEIC", UnreadImage("HEIC")),
        ("a.pgm", UnreadImage("Netpbm")),
        ("a.jp2", UnreadImage("JPEG 2000")),
        ("a.avi", UnreadImage("video")),
        ("a.nii.gz", UnreadImage("NIfTI")),
        ("a.tar.gz", Other),
        ("a.txt", Other),
        ("png", Other),
    ];
    for (name, kind) in names {
        assert_eq!(FileKind::of_name(Path::new(name)), kind, "{name}");
    }
    let bytes: [(&[u8], FileKind); 5] = [
        (b"\x89PNG\r\n\x1a\n", Image),
        (b"GIF89a", UnreadImage("GIF")),
        (b"P5\n1 1\n", UnreadImage("PGM")),
        (b"%PDF-1.7", Other),
        (b"", Other),
    ];
    for (bytes, kind) in bytes {
        assert_eq!(FileKind::of_bytes(bytes), kind, "{bytes:?}");
    }
}
