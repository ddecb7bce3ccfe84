//! Fits a detector on a folder of normal images and scores an image:
//! `cargo run --release -p anomalens --example folder -- good/ photo.png`

#![allow(clippy::print_stdout)] // An example prints.

use anomalens::AnomalyDetector;
use anomalens::vision::Image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (folder, photo) = arguments
        .next()
        .zip(arguments.next())
        .ok_or("give a folder and an image")?;
    let detector = AnomalyDetector::builder().fit_dir(folder)?;
    let result = detector.predict(&Image::open(photo)?)?;
    println!(
        "score {}, {} regions",
        result.score(),
        result.regions()?.len()
    );
    result.overlay()?.save_png("overlay.png")?;
    Ok(())
}
