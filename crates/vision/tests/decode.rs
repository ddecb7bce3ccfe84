//! Every kind of file that is read, and every kind that is refused with its sentence.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Cursor;
use std::path::Path;

use anomalens_vision::{Image, ImageError, Limits, Mask, MaskChannel, MaskFile, MaskReading};
use image::{DynamicImage, ImageFormat};

fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decode(bytes: &[u8]) -> Result<Image, ImageError> {
    Image::decode(bytes)
}

/// 2 x 1 pixels with 8-bit samples.
fn rgb() -> DynamicImage {
    DynamicImage::ImageRgb8(image::RgbImage::from_raw(2, 1, vec![200, 30, 40, 7, 0, 255]).unwrap())
}

#[test]
fn formats_and_colour_types() {
    use ImageFormat::{Bmp, Png, Tiff, WebP};
    let colour = vec![200, 30, 40, 7, 0, 255];
    let grey = vec![90, 90, 90, 255, 255, 255];
    // 128 of 65535 is still nearer to level 0, 129 nearer to level 1.
    let deep_colour = DynamicImage::ImageRgb16(
        image::ImageBuffer::from_raw(2, 1, vec![0, 128, 129, 32768, 65278, 65535]).unwrap(),
    );
    let from_deep = vec![0, 0, 1, 128, 254, 255];
    let deep_grey = DynamicImage::ImageLuma16(
        image::ImageBuffer::from_raw(2, 1, vec![90 * 257, 65535]).unwrap(),
    );
    let luma = DynamicImage::ImageLuma8(image::GrayImage::from_raw(2, 1, vec![90, 255]).unwrap());
    let luma_alpha = DynamicImage::ImageLumaA8(
        image::GrayAlphaImage::from_raw(2, 1, vec![90, 0, 255, 128]).unwrap(),
    );
    let rgba = DynamicImage::ImageRgba8(
        image::RgbaImage::from_raw(2, 1, vec![200, 30, 40, 0, 7, 0, 255, 128]).unwrap(),
    );
    let cases = [
        ("RGB PNG", encode(&rgb(), Png), &colour),
        ("RGB BMP", encode(&rgb(), Bmp), &colour),
        ("RGB TIFF", encode(&rgb(), Tiff), &colour),
        ("RGB WebP", encode(&rgb(), WebP), &colour),
        ("grey PNG", encode(&luma, Png), &grey),
        ("grey BMP", encode(&luma, Bmp), &grey),
        ("grey TIFF", encode(&luma, Tiff), &grey),
        ("grey with alpha PNG", encode(&luma_alpha, Png), &grey),
        ("RGBA PNG", encode(&rgba, Png), &colour),
        ("RGBA TIFF", encode(&rgba, Tiff), &colour),
        ("16-bit RGB PNG", encode(&deep_colour, Png), &from_deep),
        ("16-bit RGB TIFF", encode(&deep_colour, Tiff), &from_deep),
        ("16-bit grey PNG", encode(&deep_grey, Png), &grey),
        ("16-bit grey TIFF", encode(&deep_grey, Tiff), &grey),
    ];
    for (name, bytes, expected) in cases {
        let image = decode(&bytes).unwrap();
        assert_eq!((image.width(), image.height()), (2, 1), "{name}");
        assert_eq!(image.as_bytes(), expected, "{name}");
    }
}

#[test]
fn palettes_and_bilevel() {
    let (red, green, blue) = ([200, 30, 40], [20, 180, 60], [30, 50, 190]);
    let palette = [red, green, blue, red, green, blue, red, green].concat();
    let row = [255, 0, 255, 0, 0, 0, 255, 255, 255]
        .map(|level| [level; 3])
        .concat();
    let bilevel = row.repeat(2);
    let cases = [
        ("palette.png", &palette),
        ("palette_alpha.png", &palette),
        ("palette.bmp", &palette),
        ("palette.tif", &palette),
        ("bilevel.png", &bilevel),
        ("bilevel.tif", &bilevel),
        ("bilevel.bmp", &bilevel),
    ];
    for (name, expected) in cases {
        let image = Image::open(common::fixture(name)).unwrap();
        assert_eq!(image.as_bytes(), expected, "{name}");
    }
}

/// The centres of the four blocks of 16 x 16 pixels.
fn blocks(image: &Image) -> [[u8; 3]; 4] {
    [(8, 8), (24, 8), (8, 24), (24, 24)].map(|(x, y)| image.pixel(x, y).unwrap())
}

#[test]
fn lossy_formats_keep_colours() {
    let expected = [[200, 30, 40], [20, 180, 60], [30, 50, 190], [230, 220, 210]];
    for name in [
        "cmyk_adobe.jpg",
        "ycck_adobe.jpg",
        "progressive.jpg",
        "lossy.webp",
    ] {
        let image = Image::open(common::fixture(name)).unwrap();
        for (found, expected) in blocks(&image).into_iter().zip(expected) {
            let close = found.iter().zip(expected).all(|(f, e)| f.abs_diff(e) <= 4);
            assert!(close, "{name}: {found:?} instead of {expected:?}");
        }
    }
    let grey = DynamicImage::ImageLuma8(image::GrayImage::from_pixel(8, 8, image::Luma([90])));
    let grey = decode(&encode(&grey, ImageFormat::Jpeg)).unwrap();
    assert_eq!(grey.pixel(4, 4), Some([90; 3]));
}

/// A JPEG of 32 x 16 pixels, red on the left and blue on the right.
fn jpeg() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(32, 16, |x, _| {
        image::Rgb(if x < 16 { [250, 0, 0] } else { [0, 0, 250] })
    });
    encode(&DynamicImage::ImageRgb8(picture), ImageFormat::Jpeg)
}

/// Puts an EXIF segment with one entry, the orientation, behind the start marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut segment = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
    segment.extend(b"\x01\x12\0\x03\0\0\0\x01\0");
    segment.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

#[test]
fn exif_orientation_is_applied() {
    let cases = [
        // Orientation, size, where red is to be found.
        (1, (32, 16), (4, 8)),
        (2, (32, 16), (28, 8)),
        (3, (32, 16), (28, 8)),
        (4, (32, 16), (4, 8)),
        (5, (16, 32), (8, 4)),
        (6, (16, 32), (8, 4)),
        (7, (16, 32), (8, 28)),
        (8, (16, 32), (8, 28)),
        (9, (32, 16), (4, 8)),
    ];
    for (orientation, size, (x, y)) in cases {
        let image = decode(&with_orientation(&jpeg(), orientation)).unwrap();
        assert_eq!((image.width(), image.height()), size, "{orientation}");
        let [red, _, blue] = image.pixel(x, y).unwrap();
        assert!(red > 200 && blue < 50, "{orientation}");
    }
}

#[test]
fn truncation_is_an_error_at_every_length() {
    let picture = DynamicImage::from(common::image("b.png"));
    let cases = [
        ("JPEG", encode(&picture, ImageFormat::Jpeg)),
        (
            "JPEG with a thumbnail's end marker",
            with_orientation(&jpeg(), 1),
        ),
        (
            "progressive JPEG",
            std::fs::read(common::fixture("progressive.jpg")).unwrap(),
        ),
        ("PNG", encode(&picture, ImageFormat::Png)),
        ("BMP", encode(&picture, ImageFormat::Bmp)),
        ("TIFF", encode(&picture, ImageFormat::Tiff)),
        ("WebP", encode(&picture, ImageFormat::WebP)),
        (
            "lossy WebP",
            std::fs::read(common::fixture("lossy.webp")).unwrap(),
        ),
    ];
    for (name, bytes) in cases {
        decode(&bytes).unwrap();
        // PNG ends with a chunk that holds no pixels.
        let no_pixels = match name {
            "PNG" => 16,
            "TIFF" => 5, // The place of the next page.
            _ => 1,
        };
        let end = bytes.len() - no_pixels;
        for length in (0..=end).step_by(end / 97 + 1).chain([end]) {
            assert!(
                decode(&bytes[..length]).is_err(),
                "{name}: {length} of {}",
                bytes.len()
            );
        }
    }
}

#[test]
fn bytes_after_the_end_of_a_jpeg_are_ignored() {
    let mut bytes = jpeg();
    bytes.extend(b"maker notes");
    decode(&bytes).unwrap();
}

#[test]
fn the_extension_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("camera.jpg");
    std::fs::write(&path, encode(&rgb(), ImageFormat::Png)).unwrap();
    Image::open(&path).unwrap();
}

/// A PNG whose header claims a size, with pixel data for far less.
fn png_with_size(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode(&rgb(), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xEDB8_8320
        } else {
            crc >> 1
        }
    };
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn bad_bytes_have_their_sentence() {
    let png = encode(&rgb(), ImageFormat::Png);
    let float = DynamicImage::ImageRgb32F(image::ImageBuffer::new(2, 1));
    let dicom = [&[0; 128][..], b"DICM", &[0; 8]].concat();
    let mut bad_checksum = png.clone();
    let at = bad_checksum.len() - 14;
    bad_checksum[at] ^= 1;
    let formats = "give a PNG, JPEG, BMP, TIFF or WebP file";
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        (
            "empty",
            vec![],
            "the image data is empty (0 bytes); copy or export the image again".into(),
        ),
        (
            "text",
            b"path,label\nimages/1.png,good\n".to_vec(),
            format!("the image data is not an image, it looks like text (\"path,label images/1.png,\"); {formats}"),
        ),
        (
            "zeros",
            vec![0; 100],
            format!("the image data is not an image, it looks like zeros only, as an interrupted copy leaves them; {formats}"),
        ),
        (
            "binary",
            vec![1, 2, 3, 254],
            format!("the image data is not an image, it looks like unknown binary data (first bytes 01 02 03 fe); {formats}"),
        ),
        (
            "PDF",
            b"%PDF-1.7".to_vec(),
            format!("the image data is not an image, it looks like a PDF document; {formats}"),
        ),
        (
            "GIF",
            b"GIF89a".to_vec(),
            "the image data is in GIF format, which is not supported; convert it to PNG, JPEG, BMP, TIFF or WebP".into(),
        ),
        (
            "DICOM",
            dicom,
            "the image data is in DICOM format, which is not supported; convert it to PNG, JPEG, BMP, TIFF or WebP".into(),
        ),
        (
            "floating point",
            encode(&float, ImageFormat::Tiff),
            "the image data is a TIFF image of a kind that is not supported (samples of 32 bits or floating-point, whose range is not known); save it as an 8-bit or 16-bit PNG".into(),
        ),
        (
            "truncated JPEG",
            jpeg()[..300].to_vec(),
            "the image data is a truncated or damaged JPEG image (the end of the image is missing); copy or export the image again".into(),
        ),
        (
            "decompression bomb",
            png_with_size(60_000, 60_000),
            "the image data has 60000 x 60000 pixels, more than the limit of 100000000 pixels; shrink it or raise the limit".into(),
        ),
    ];
    for (name, bytes, message) in cases {
        assert_eq!(decode(&bytes).unwrap_err().to_string(), message, "{name}");
    }
    let damaged = [
        ("PNG with a wrong checksum", bad_checksum),
        ("PNG without pixels", png[..40].to_vec()),
        ("PNG too short for its header", png_with_size(20, 20)),
    ];
    for (name, bytes) in damaged {
        let error = decode(&bytes).unwrap_err();
        assert!(
            matches!(error, ImageError::Damaged { format: "PNG", .. }),
            "{name}: {error}"
        );
    }
    let short = decode(&png[..40]).unwrap_err().to_string();
    assert_eq!(
        short,
        "the image data is a truncated or damaged PNG image (unexpected end of file); copy or \
         export the image again"
    );
}

#[test]
fn bad_paths_have_their_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let small = Limits {
        max_bytes: 50,
        max_pixels: 1,
        ..Limits::default()
    };
    let png = encode(&rgb(), ImageFormat::Png);
    let bmp = encode(&rgb(), ImageFormat::Bmp);
    assert!(png.len() > 50);
    let cases = [
        (
            folder.path().join("missing.png"),
            "{} does not exist; check the path",
        ),
        (
            folder.path().to_path_buf(),
            "{} is a folder, not an image file; name a file in it",
        ),
        (
            write("empty.png", b""),
            "{} is empty (0 bytes); copy or export the image again",
        ),
        (
            write("notes.png", b"hello"),
            "{} is not an image, it looks like text (\"hello\"); \
             give a PNG, JPEG, BMP, TIFF or WebP file",
        ),
        (
            write("large.png", &png),
            "{} is larger than the limit of 50 bytes; shrink it or raise the limit",
        ),
    ];
    let sentence = |path: &Path, message: &str| message.replace("{}", &path.display().to_string());
    for (path, message) in &cases {
        let expected = sentence(path, message);
        assert_eq!(
            Image::open_with(path, &small.into())
                .unwrap_err()
                .to_string(),
            expected
        );
        assert_eq!(
            Mask::open(&path.clone().into(), &small)
                .unwrap_err()
                .to_string(),
            expected
        );
    }
    let path = write("wide.bmp", &bmp);
    let limits = Limits {
        max_pixels: 1,
        ..Limits::default()
    };
    assert_eq!(
        Image::open_with(&path, &limits.into())
            .unwrap_err()
            .to_string(),
        sentence(
            &path,
            "{} has 2 x 1 pixels, more than the limit of 1 pixels; shrink it or raise the limit"
        )
    );
}

#[test]
fn masks_are_what_is_above_the_threshold() {
    let luma = |values| DynamicImage::ImageLuma8(image::GrayImage::from_raw(3, 1, values).unwrap());
    let deep =
        |values| DynamicImage::ImageLuma16(image::ImageBuffer::from_raw(3, 1, values).unwrap());
    let deep_colours =
        |values| DynamicImage::ImageRgb16(image::ImageBuffer::from_raw(3, 1, values).unwrap());
    let colours =
        |values| DynamicImage::ImageRgb8(image::RgbImage::from_raw(3, 1, values).unwrap());
    let clear = |values| {
        let pixels = image::RgbaImage::from_raw(3, 1, values).unwrap();
        DynamicImage::ImageRgba8(pixels)
    };
    let cases = [
        ("0 and 255", luma(vec![0, 255, 255]), 0),
        ("labels", luma(vec![0, 1, 2]), 0),
        ("a higher threshold", luma(vec![127, 128, 255]), 127),
        ("white alone", luma(vec![254, 255, 255]), 254),
        ("16-bit labels", deep(vec![0, 1, 99]), 0),
        ("16-bit, higher", deep(vec![32767, 32768, 65535]), 32767),
        // Blue of 1 has a grey value of 0.1, which Pillow rounds to 0.
        ("colours", colours(vec![0, 0, 1, 0, 1, 0, 255, 0, 0]), 0),
        // Green of 255 has a grey value of 150.
        (
            "colours, higher",
            colours(vec![255, 0, 0, 0, 255, 0, 128, 128, 128]),
            127,
        ),
        (
            "16-bit colours",
            deep_colours(vec![300, 200, 0, 0, 301, 0, 0, 0, 65535]),
            300,
        ),
        (
            "transparency does not matter",
            clear(vec![0, 0, 0, 255, 9, 9, 9, 0, 9, 9, 9, 255]),
            0,
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, picture, threshold) in cases {
        let path = folder.path().join("mask.png");
        picture.save(&path).unwrap();
        let mut file = MaskFile::from(path);
        file.reading.threshold = threshold;
        let mask = Mask::open(&file, &Limits::default()).unwrap();
        assert_eq!(mask.values(), [false, true, true], "{name}");
        file.reading.invert = true;
        let mask = Mask::open(&file, &Limits::default()).unwrap();
        assert_eq!(mask.values(), [true, false, false], "{name}, inverted");
    }
}

#[test]
fn masks_may_be_in_the_alpha_channel() {
    let grey =
        |values| DynamicImage::ImageLumaA8(image::ImageBuffer::from_raw(3, 1, values).unwrap());
    let colours =
        |values| DynamicImage::ImageRgba8(image::RgbaImage::from_raw(3, 1, values).unwrap());
    let deep =
        |values| DynamicImage::ImageRgba16(image::ImageBuffer::from_raw(3, 1, values).unwrap());
    let cases = [
        ("grey", Some(grey(vec![9, 0, 9, 1, 9, 255])), 0),
        (
            "colours",
            Some(colours(vec![9, 9, 9, 127, 0, 0, 0, 128, 9, 9, 9, 255])),
            127,
        ),
        (
            "16 bits",
            Some(deep(vec![9, 9, 9, 300, 0, 0, 0, 301, 9, 9, 9, 65535])),
            300,
        ),
        ("no alpha", None, 0),
    ];
    for (name, picture, threshold) in cases {
        let reading = MaskReading {
            threshold,
            channel: MaskChannel::Alpha,
            invert: false,
        };
        let opaque = DynamicImage::ImageRgb8(image::RgbImage::new(3, 1));
        let mut bytes = std::io::Cursor::new(vec![]);
        let image = picture.as_ref().unwrap_or(&opaque);
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let mask = Mask::decode(bytes.get_ref(), reading, &Limits::default());
        match picture {
            Some(_) => assert_eq!(mask.unwrap().values(), [false, true, true], "{name}"),
            None => assert!(matches!(mask, Err(ImageError::NoAlpha { .. })), "{name}"),
        }
    }
}

#[test]
fn saved_images_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.png");
    let image = common::image("b.png");
    std::fs::write(&path, "an older result").unwrap();
    image.save_png(&path).unwrap();
    assert_eq!(Image::open(&path).unwrap(), image);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let nowhere = folder.path().join("missing").join("result.png");
    let error = image.save_png(&nowhere).unwrap_err();
    assert!(
        matches!(&error, ImageError::Unwritable { path, .. } if *path == nowhere),
        "{error}"
    );
}

#[test]
fn files_that_were_decoded_wrongly_once() {
    let open = |name| Image::open(common::fixture(name));
    assert_eq!(
        open("scans_separate_420.jpg").unwrap(),
        open("scans_together_420.jpg").unwrap()
    );
    let bilevel = open("fill_order_2_group4.tif").unwrap();
    // Of the pixels that Pillow 13.0 reads.
    assert_eq!(crc32(bilevel.as_bytes()), 0x36c9_82e0);
    for name in [
        "ends_early_9999.jpg",
        "chunk_length_1.webp",
        "chunk_length_2.webp",
    ] {
        let error = open(name).unwrap_err();
        assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    }
}

/// A colour profile that unpacks to a gigabyte is not unpacked.
#[test]
fn a_profile_that_is_a_bomb_is_passed_over() {
    let png = encode(&rgb(), ImageFormat::Png);
    let mut packed = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    let data = [b"iCCPbomb\0\0", &packed.finish().unwrap()[..]].concat();
    let length = u32::try_from(data.len() - 4).unwrap();
    let checksum = crc32(&data).to_be_bytes();
    let chunk = [&length.to_be_bytes()[..], &data, &checksum].concat();
    // Behind the header of 33 bytes.
    let bytes = [&png[..33], &chunk, &png[33..]].concat();
    let limits = Limits {
        max_memory: 20 << 20,
        ..Limits::default()
    };
    Image::decode_with(&bytes, &limits.into()).unwrap();
}
