//! Which images are scored, and which of the results that are there already are still true.

use std::collections::HashSet;
use std::path::PathBuf;

use anomalens::base::ContentHash;
use anomalens::detectors::{DetectorFile, Scope};
use anomalens::evaluation::{FileStamp, ResultFolder, ResultRecord, picture_names};
use anyhow::Result;
use rayon::prelude::*;

use super::Args;
use crate::images::Listing;

/// What is to be done.
pub(super) struct Plan {
    /// The images, in order.
    pub(super) images: Vec<Planned>,
    /// What the images are together, where they are scored jointly.
    pub(super) group: Option<String>,
}

/// One image.
pub(super) struct Planned {
    pub(super) path: PathBuf,
    /// The key of its record.
    pub(super) key: String,
    /// What its pictures are called, without ending.
    pub(super) name: PathBuf,
    /// What the file is now; none if it cannot be looked at.
    pub(super) stamp: Option<FileStamp>,
    /// Whether its result is there and true.
    pub(super) is_done: bool,
}

impl Plan {
    /// Compares the images with the results in `folder`. Results of images that are not given any
    /// more are taken out with their pictures.
    pub(super) fn new(
        args: &Args,
        detector: &DetectorFile,
        listing: &Listing,
        folder: &mut ResultFolder,
    ) -> Result<Self> {
        let files = &listing.files;
        let names = picture_names(
            files
                .iter()
                .map(|file| (file.name.as_path(), file.path.as_path())),
        );
        let stamps: Vec<Option<FileStamp>> = files
            .par_iter()
            .map(|file| FileStamp::of(&file.path).ok())
            .collect();
        let keys: Vec<String> = files
            .iter()
            .map(|file| ResultRecord::key_of(&file.path))
            .collect();
        let group = (detector.detector.scope() != Scope::Single).then(|| group(&keys, &stamps));
        let is_done = |i: usize, folder: &ResultFolder| {
            let record = folder.record(&keys[i]);
            record
                .zip(stamps[i].as_ref())
                .is_some_and(|(record, stamp)| {
                    record.group == group
                        && has_all(record, args, folder)
                        && has_name(record, &names[i])
                        && record
                            .file
                            .as_ref()
                            .is_some_and(|then| then.is_still(stamp, &files[i].path))
                })
        };
        let done: Vec<bool> = (0..files.len())
            .into_par_iter()
            .map(|i| is_done(i, folder))
            .collect();
        let images: Vec<Planned> = files
            .iter()
            .zip(names)
            .zip(keys.iter().cloned().zip(stamps))
            .zip(done)
            .map(|(((file, name), (key, stamp)), is_done)| Planned {
                path: file.path.clone(),
                key,
                name,
                stamp,
                is_done,
            })
            .collect();
        let kept: Vec<String> = images
            .iter()
            .filter(|image| image.is_done)
            .map(|image| image.key.clone())
            .collect();
        let gone = folder.retain(&kept)?;
        remove_pictures(folder, &gone);
        Ok(Self { images, group })
    }

    /// The images whose results are there and true.
    pub(super) fn done(&self) -> HashSet<usize> {
        let done = self.images.iter().enumerate().filter(|(_, i)| i.is_done);
        done.map(|(i, _)| i).collect()
    }

    /// The keys of all records, in the order of the images; what could not be listed comes last.
    pub(super) fn keys(&self, listing: &Listing) -> Vec<String> {
        let problems = listing.problems.iter();
        let problems = problems.map(|(path, _)| ResultRecord::key_of(path));
        let images = self.images.iter().map(|image| image.key.clone());
        images.chain(problems).collect()
    }
}

/// Differs where another image, another content or another order gives other scores.
fn group(keys: &[String], stamps: &[Option<FileStamp>]) -> String {
    let members: String = keys
        .iter()
        .zip(stamps)
        .map(|(key, stamp)| format!("{key:?} {stamp:?}\n"))
        .collect();
    ContentHash::of_bytes(members.as_bytes()).short()
}

/// Whether `record` has everything that is wanted now.
fn has_all(record: &ResultRecord, args: &Args, folder: &ResultFolder) -> bool {
    let is_there = |file: &Option<String>| {
        let path = file.as_ref().map(|file| folder.root().join(file));
        path.is_some_and(|path| path.is_file())
    };
    let has_pictures = || {
        record.colours.as_deref() == Some(args.colours.name())
            && record.max_side == Some(args.max_side)
            && is_there(&record.heat_map)
            && is_there(&record.overlay)
    };
    let has_map = |ending: &str| {
        let of_format = |map: &String| map.ends_with(&format!(".{ending}"));
        record.map.as_ref().is_some_and(of_format) && is_there(&record.map)
    };
    (args.no_pictures || has_pictures()) && args.maps.is_none_or(|maps| has_map(maps.ending()))
}

/// Whether the files of `record` are called as they would be now.
fn has_name(record: &ResultRecord, name: &std::path::Path) -> bool {
    let expected = name.to_string_lossy().replace('\\', "/");
    record.files().all(|file| {
        let below = file.split_once('/').map_or(file, |(_, below)| below);
        below
            .rsplit_once('.')
            .is_some_and(|(stem, _)| stem == expected)
    })
}

/// Removes the files of records that are not kept, and folders that are empty then.
pub(super) fn remove_pictures(folder: &ResultFolder, gone: &[ResultRecord]) {
    let kept: HashSet<&str> = folder.records().flat_map(ResultRecord::files).collect();
    for file in gone.iter().flat_map(ResultRecord::files) {
        let path = folder.root().join(file);
        let is_ours = !file.contains("..") && path.starts_with(folder.root());
        if is_ours && !kept.contains(file) && std::fs::remove_file(&path).is_ok() {
            let folders = path.ancestors().skip(1);
            let below = folders.take_while(|parent| *parent != folder.root());
            // A folder that is not empty stays, and so do those above it.
            let _ = below
                .map(std::fs::remove_dir)
                .take_while(Result::is_ok)
                .count();
        }
    }
}
