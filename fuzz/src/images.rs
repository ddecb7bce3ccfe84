//! Images and masks.

use std::io::Cursor;

use anomalens_vision::{DecodeOptions, Image, Limits, Mask};
use image::{DynamicImage, ImageFormat};

/// Little is allowed, so that a mutation that takes more is found.
fn limits() -> Limits {
    Limits {
        max_bytes: 8 << 20,
        max_pixels: 1 << 20,
        max_memory: 64 << 20,
    }
}

pub(crate) fn image(bytes: &[u8]) -> bool {
    let options = DecodeOptions::from(limits());
    match Image::decode_with(bytes, &options) {
        Ok(image) => {
            assert!(u64::from(image.width()) * u64::from(image.height()) <= limits().max_pixels);
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

pub(crate) fn mask(bytes: &[u8]) -> bool {
    Mask::decode(bytes, anomalens_vision::MaskReading::default(), &limits()).is_ok()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (width, height) = (11, 7);
    let rgb: Vec<u8> = (0..width * height * 3)
        .map(|i| (i * 5 % 251) as u8)
        .collect();
    let image = image::RgbImage::from_raw(width, height, rgb).unwrap();
    let image = DynamicImage::from(image);
    let encode = |image: DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    vec![
        encode(image.clone(), ImageFormat::Png),
        encode(image.to_luma_alpha16().into(), ImageFormat::Png),
        encode(image.clone(), ImageFormat::Jpeg),
        encode(image.to_luma8().into(), ImageFormat::Jpeg),
        encode(image.clone(), ImageFormat::Bmp),
        encode(image.to_rgba16().into(), ImageFormat::Tiff),
        encode(image.to_rgba8().into(), ImageFormat::WebP),
    ]
}
