//! What is printed when images have been scored.

use anomalens::evaluation::{ResultFolder, ResultRecord};
use anyhow::Result;

use super::plan::Plan;
use super::{Args, Decide};
use crate::images::Listing;
use crate::{End, escaped, print_json, print_line, print_note, table};

/// Prints what was found, and how the run ended.
pub(super) fn print(
    args: &Args,
    listing: &Listing,
    plan: &Plan,
    folder: &ResultFolder,
    decide: &Decide,
) -> Result<End> {
    let records: Vec<&ResultRecord> = folder.records().collect();
    let bad: Vec<&&ResultRecord> = records.iter().filter(|r| r.error.is_some()).collect();
    for record in &bad {
        print_note(record.error.as_deref().unwrap_or_default());
    }
    for record in &records {
        for warning in &record.warnings {
            print_note(format!("{}: {warning}", record.image));
        }
    }
    for note in listing.notes() {
        print_note(note);
    }
    let all = plan.images.len() + listing.problems.len();
    let missing = all - records.len();
    if missing > 0 {
        print_note(format!(
            "interrupted: {} of {all} images are done; the same command resumes there",
            records.len()
        ));
    }
    if !bad.is_empty() {
        print_note(format!("{} of {all} images could not be used", bad.len()));
    }
    let printed = results(args, &records, decide);
    match printed {
        // Whoever reads may stop reading; that an image is bad is said all the same.
        Err(error) if !crate::is_closed_pipe(&error) => Err(error),
        _ if bad.is_empty() && missing == 0 => Ok(End::Done),
        _ => Ok(End::Incomplete),
    }
}

fn results(args: &Args, records: &[&ResultRecord], decide: &Decide) -> Result<()> {
    if args.json {
        for record in records {
            print_json(record)?;
        }
        return Ok(());
    }
    let is_decided = !matches!(decide, Decide::No);
    print_line(table::scores(records, is_decided))?;
    if let Some((threshold, rule)) = decide.threshold() {
        let count = |wanted: Option<bool>| records.iter().filter(|r| r.anomalous == wanted).count();
        let (anomalous, normal) = (count(Some(true)), count(Some(false)));
        print_line(format!(
            "{anomalous} of {} images are anomalous: score {threshold} or higher ({rule})",
            anomalous + normal
        ))?;
    }
    let what = match (args.no_pictures, args.maps) {
        (false, None) => "results, heat maps and overlays",
        (false, Some(_)) => "results, heat maps, overlays and maps",
        (true, None) => "results",
        (true, Some(_)) => "results and maps",
    };
    let folder = escaped(&args.output.to_string_lossy());
    print_line(format!("{what}: {folder}"))?;
    if args.report {
        print_line(format!("report: {folder}/{}", super::page::PAGE))?;
    }
    Ok(())
}
