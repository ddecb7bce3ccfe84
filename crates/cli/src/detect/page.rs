//! The page of `--report`.

use std::collections::HashMap;
use std::path::Path;

use anomalens::detectors::{DetectorFile, ImageSource};
use anomalens::evaluation::{Record, ResultFolder, ResultRecord};
use anomalens::report::{Decider, Heading, ResultImage, ResultsContext, write_results_report};
use anomalens::vision::DecodeOptions;
use anyhow::Result;

use super::{Args, Decide};
use crate::images::Listing;
use crate::progress::interrupted;
use crate::{command_line, now};

/// The name of the page.
pub(super) const PAGE: &str = "report.html";

/// Writes the page of all results in `folder`.
pub(super) fn write(
    args: &Args,
    decode: DecodeOptions,
    listing: &Listing,
    folder: &ResultFolder,
    detector: &DetectorFile,
    decide: &Decide,
) -> Result<()> {
    let paths: HashMap<String, &Path> = listing
        .files
        .iter()
        .map(|file| (ResultRecord::key_of(&file.path), file.path.as_path()))
        .collect();
    let images: Vec<ResultImage> = folder
        .records()
        .map(|record| image(record, paths.get(&record.key()).copied(), folder))
        .collect();
    let mut notes = listing.notes();
    if interrupted() {
        notes.push("The run was interrupted: images are missing.".to_owned());
    }
    let given: Vec<String> = args
        .images
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    let context = ResultsContext {
        heading: Heading {
            title: format!("Anomalens on {}", given.join(", ")),
            command: command_line(),
            date: now(),
            program: format!("anomalens {}", env!("CARGO_PKG_VERSION")),
            backbone: {
                let all = detector.backbone.all();
                let all = all.map(|one| format!("{} ({})", one.name, one.precision));
                all.collect::<Vec<_>>().join(" + ")
            },
            notes,
        },
        detector: match &args.detector {
            Some(path) => format!("{}, {}", detector.detector.method(), path.display()),
            None => format!(
                "{}, normal images: {}",
                detector.detector.method(),
                detector.provenance.data
            ),
        },
        decider: decide
            .threshold()
            .map(|(threshold, origin)| Decider { threshold, origin }),
        decode,
    };
    Ok(write_results_report(
        &folder.root().join(PAGE),
        &images,
        &context,
    )?)
}

fn image(record: &ResultRecord, path: Option<&Path>, folder: &ResultFolder) -> ResultImage {
    let picture = |file: &Option<String>| file.as_ref().map(|file| folder.root().join(file));
    ResultImage {
        name: record.image.clone(),
        score: record.score,
        anomalous: record.anomalous,
        probability: record.probability,
        regions: record.regions.clone(),
        source: path.map(|path| ImageSource::File {
            path: path.to_owned(),
            crop: record.seen,
        }),
        heat_map: picture(&record.heat_map),
        overlay: picture(&record.overlay),
        error: record.error.clone(),
        notes: record.warnings.clone(),
    }
}
