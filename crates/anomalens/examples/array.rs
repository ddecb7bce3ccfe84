//! Scores an image that is an array of bytes, as a camera delivers it, against drawn normal ones:
//! `cargo run --release -p anomalens --example array`

#![allow(clippy::print_stdout)] // An example prints.

use anomalens::AnomalyDetector;
use anomalens::detectors::ReferenceImage;
use anomalens::vision::Image;

/// A frame of 256 x 192 pixels, `[height, width, 3]`: stripes, and a bright spot if there is a defect.
fn frame(seed: u32, defect: bool) -> Vec<u8> {
    let pixels = (0..192_u32).flat_map(|y| (0..256_u32).map(move |x| (x, y)));
    let shade = |(x, y): (u32, u32)| {
        let spot = defect && x.abs_diff(140) < 12 && y.abs_diff(90) < 12;
        match spot {
            true => [250, 240, 60],
            false => [(90 + x / 16 % 2 * 50 + seed % 5) as u8; 3],
        }
    };
    pixels.flat_map(shade).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let references: Vec<ReferenceImage> = (0..2)
        .map(|seed| {
            let image = Image::new(256, 192, frame(seed, false))?;
            Ok(ReferenceImage::new(seed.to_string(), image))
        })
        .collect::<Result<_, anomalens::Error>>()?;
    let detector = AnomalyDetector::builder().fit(&references)?;
    for defect in [false, true] {
        let result = detector.predict(&Image::new(256, 192, frame(3, defect))?)?;
        let map = result.map()?;
        println!(
            "defect: {defect}, score {:.3}, map {} x {}, regions {:?}",
            result.score(),
            map.columns(),
            map.rows(),
            result.regions()?
        );
    }
    Ok(())
}
