//! Draws the line between normal and anomalous from normal images alone, with at most 10 % false
//! alarms: `cargo run --release -p anomalens --example calibrate`

#![allow(clippy::print_stdout)] // An example prints.

use anomalens::AnomalyDetector;
use anomalens::metrics::Rule;
use anomalens::synthetic::Spec;
use anomalens::vision::Image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("anomalens-{}", std::process::id()));
    let spec: Spec = "textures,materials=1,images=30,side=112".parse()?;
    spec.write(&folder)?;
    let set = folder.join("weave-001");
    let open = |i: usize, part: &str| Image::open(set.join(part).join(format!("{i:04}.png")));
    let mut detector = AnomalyDetector::builder().fit_dir(set.join("train/good"))?;
    let normal: Vec<Image> = (0..29)
        .map(|i| open(i, "test/good"))
        .collect::<Result<_, _>>()?;
    let calibration = detector.calibrate(&normal, &[], Rule::FalsePositiveRate(0.1))?;
    println!("anomalous from a score of {} on", calibration.threshold);
    let result = detector.predict(&open(29, "test/good")?)?;
    println!(
        "a normal image: score {}, anomalous {:?}",
        result.score(),
        result.is_anomalous()
    );
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
