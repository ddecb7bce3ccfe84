//! `data check`: everything that can be said about a data set before it is used. Every image is
//! read and decoded, since a header survives where the rest of a file is cut off. Nothing is
//! repaired or guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anomalens_vision::{Mask, MaskChannel, MaskFile, MaskReading, MaskSource};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::data_ref::DataRef;
use crate::data_set::classes;
use crate::decode::{bytes_of, decoded_size, part, read_mask, wrong_size};
use crate::error::Error;
use crate::finding::{Finding, FindingKind, Severity};
use crate::layouts::{Layout, Published};
use crate::sample::{Label, Sample, Split};

/// Findings of one kind that the plain text shows; the rest is counted.
const SHOWN_PER_KIND: usize = 10;

/// The share of an image above which its mask is suspected to be misread.
const NEARLY_ALL: f64 = 0.8;

/// Samples of one class, split and defect type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Name of the class.
    pub class: String,
    /// Training or test.
    pub split: Split,
    /// Normal or anomalous.
    pub label: Label,
    /// "good", or what the anomaly is called.
    pub defect_type: String,
    /// How many.
    pub samples: usize,
}

/// What is in a data set, and what is wrong with it.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// The data set, as LAYOUT:PATH.
    pub data: String,
    /// Its layout.
    pub layout: &'static Layout,
    /// Samples by class, split and defect type.
    pub counts: Vec<Count>,
    /// Everything found, errors first.
    pub findings: Vec<Finding>,
    /// Image and mask files that were not read, because the check was interrupted.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_read: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Checks a data set: folders, label files, images, masks, duplicates and published counts.
///
/// # Errors
/// When there is nothing to check: the folder is missing, a file, empty, in another layout or
/// without images.
pub fn check(data: &DataRef) -> Result<CheckReport, Error> {
    check_while(data, &|_, _| ControlFlow::Continue(()))
}

/// Like [`check`]; `progress` is called with the number of files that were read and of all files,
/// and may end the check early: what was found so far is reported.
///
/// # Errors
/// As [`check`].
pub fn check_while(data: &DataRef, progress: &Progress<'_>) -> Result<CheckReport, Error> {
    let scan = data.scan()?;
    let (root, samples) = (&scan.root, &scan.samples);
    let paths = image_paths(samples);
    let masks = samples
        .iter()
        .filter(|sample| has_mask_file(sample))
        .count();
    let reading = Reading {
        progress,
        total: paths.len() + masks,
        read: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    };
    let images: Images<'_> = paths
        .into_par_iter()
        .filter_map(|path| reading.next(|| (path, read_image(path))))
        .collect();

    let mut findings = scan.findings;
    findings.extend(images.iter().filter_map(|(path, image)| {
        let message = image.as_ref().err()?;
        Some(Finding::new(
            FindingKind::UnreadableImage,
            relative(root, path),
            message,
        ))
    }));
    findings.extend(mask_findings(root, samples, &images, &reading));
    findings.extend(duplicates(samples, &images));
    findings.extend(empty_splits(samples));
    findings.extend(published_counts(data.layout, samples));
    findings.sort_by_key(|finding| (finding.severity, finding.kind));

    Ok(CheckReport {
        data: data.to_string(),
        layout: data.layout,
        counts: count(samples),
        findings,
        not_read: reading.total - reading.read.into_inner(),
    })
}

/// What [`check_while`] calls: files read, all files.
pub type Progress<'a> = dyn Fn(usize, usize) -> ControlFlow<()> + Sync + 'a;

/// How far the files are read.
struct Reading<'a> {
    progress: &'a Progress<'a>,
    total: usize,
    read: AtomicUsize,
    stopped: AtomicBool,
}

impl Reading<'_> {
    /// Reads one file, unless the check was ended.
    fn next<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let result = read();
        let count = self.read.fetch_add(1, Ordering::Relaxed) + 1;
        if (self.progress)(count, self.total).is_break() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        Some(result)
    }
}

impl CheckReport {
    /// Whether all was read and there are no errors; there may be warnings.
    pub fn is_sound(&self) -> bool {
        let mut findings = self.findings.iter();
        self.not_read == 0 && findings.all(|finding| finding.severity != Severity::Error)
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.data)?;
        if let Some(about) = &self.layout.about {
            writeln!(f, "{} ({})", about.title, about.licence)?;
            writeln!(f, "{}", about.citation)?;
            writeln!(f, "published: {}", about.obtain)?;
        }
        writeln!(f, "split: {}", self.layout.split)?;

        let width = |header: &str, column: fn(&Count) -> &str| {
            self.counts
                .iter()
                .map(|count| column(count).chars().count())
                .fold(header.len(), usize::max)
        };
        let class = width("class", |count| &count.class);
        let defect = width("defect type", |count| &count.defect_type);
        writeln!(
            f,
            "\n{:class$}  split  {:defect$}  samples",
            "class", "defect type"
        )?;
        for count in &self.counts {
            writeln!(
                f,
                "{:class$}  {:5}  {:defect$}  {:7}",
                count.class, count.split, count.defect_type, count.samples
            )?;
        }

        writeln!(f)?;
        for of_kind in self.findings.chunk_by(|a, b| a.kind == b.kind) {
            for finding in of_kind.iter().take(SHOWN_PER_KIND) {
                let severity = match finding.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                };
                writeln!(f, "{severity}: {finding}")?;
            }
            if let hidden @ 1.. = of_kind.len().saturating_sub(SHOWN_PER_KIND) {
                writeln!(f, "... and {hidden} more like these")?;
            }
        }
        let errors = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        write!(
            f,
            "errors: {errors}, warnings: {}",
            self.findings.len() - errors
        )?;
        if self.not_read > 0 {
            write!(
                f,
                "\ninterrupted: {} files were not read; this is what was found so far",
                self.not_read
            )?;
        }
        Ok(())
    }
}

/// What is kept of an image that was read.
struct ImageFacts {
    size: (u32, u32),
    digest: [u8; 32],
}

type Images<'a> = BTreeMap<&'a Path, Result<ImageFacts, String>>;

/// Every image once, however many samples are cut from it.
fn image_paths(samples: &[Sample]) -> Vec<&Path> {
    let mut paths: Vec<&Path> = samples
        .iter()
        .map(|sample| sample.image.as_path())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn read_image(path: &Path) -> Result<ImageFacts, String> {
    let bytes = bytes_of(path)?;
    Ok(ImageFacts {
        size: decoded_size(&bytes)?,
        digest: Sha256::digest(&bytes).into(),
    })
}

fn has_mask_file(sample: &Sample) -> bool {
    matches!(sample.mask, MaskSource::File(_))
}

fn mask_findings(
    root: &Path,
    samples: &[Sample],
    images: &Images<'_>,
    reading: &Reading<'_>,
) -> Vec<Finding> {
    samples
        .par_iter()
        .filter_map(|sample| {
            let image = images.get(sample.image.as_path());
            let image = image.and_then(|image| image.as_ref().ok());
            match &sample.mask {
                MaskSource::File(file) => {
                    let at = relative(root, &file.path);
                    let mask = reading.next(|| read_mask(&file.path, file.reading))?;
                    let (kind, message) = match mask {
                        Ok(mask) => {
                            let (kind, message) = mask_fault(sample, &mask, image?.size)?;
                            let advice = match kind {
                                FindingKind::FullMask => reading_advice(file),
                                _ => String::new(),
                            };
                            (kind, message + &advice)
                        }
                        Err(message) => (FindingKind::UnreadableImage, message),
                    };
                    Some(Finding::new(kind, at, message))
                }
                MaskSource::Outlines(outlines) => {
                    let (kind, message) = mask_fault(sample, &outlines.to_mask(), image?.size)?;
                    Some(Finding::new(kind, &sample.id, message))
                }
                MaskSource::Empty | MaskSource::Unknown => None,
            }
        })
        .collect()
}

/// What is wrong with a mask in an image of this size.
fn mask_fault(sample: &Sample, mask: &Mask, image: (u32, u32)) -> Option<(FindingKind, String)> {
    let size = (mask.width(), mask.height());
    if size != image {
        return Some((FindingKind::MaskSize, wrong_size("this mask", size, image)));
    }
    let part = part(mask, sample.crop)?;
    let marked = part.count();
    let share = marked as f64 / part.values().len() as f64;
    match sample.label {
        Label::Anomalous if marked == 0 => Some((
            FindingKind::EmptyMask,
            format!("this mask marks no pixel, and {} is anomalous", sample.id),
        )),
        Label::Normal if marked > 0 => Some((
            FindingKind::MaskOfNormal,
            format!("this mask marks pixels, and {} is normal", sample.id),
        )),
        _ if share > NEARLY_ALL => Some((
            FindingKind::FullMask,
            format!("this mask marks {:.0}% of {}", 100.0 * share, sample.id),
        )),
        _ => None,
    }
}

/// How else a mask file that marks nearly everything may be meant.
fn reading_advice(file: &MaskFile) -> String {
    if file.reading != MaskReading::default() {
        return "; are the settings of the masks right?".to_owned();
    }
    let alpha = MaskReading {
        channel: MaskChannel::Alpha,
        ..file.reading
    };
    // Its alpha channel marks something, and not everything.
    let marks = read_mask(&file.path, alpha).is_ok_and(|mask| {
        let marked = mask.count();
        marked > 0 && marked < mask.values().len()
    });
    if marks {
        "; if its alpha channel is meant, set mask-from=alpha".to_owned()
    } else {
        "; if it marks what is normal, set mask-invert=true".to_owned()
    }
}

/// Samples with the same bytes that are split or labelled differently.
fn duplicates(samples: &[Sample], images: &Images<'_>) -> Vec<Finding> {
    // Within a class: where each kind in turn is normal, an image is a sample of several.
    let mut groups: BTreeMap<_, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        if let Some(Ok(image)) = images.get(sample.image.as_path()) {
            groups
                .entry((image.digest, sample.crop, &sample.class))
                .or_default()
                .push(sample);
        }
    }
    let mut findings: Vec<Finding> = groups
        .into_values()
        .filter_map(|group| {
            let (first, others) = group.split_first()?;
            let other = others
                .iter()
                .find(|other| (other.split, other.label) != (first.split, first.label))?;
            let clash = if other.label != first.label {
                "under two labels"
            } else {
                "in training and in test"
            };
            let message = format!("the same file as {}, {clash}", other.id);
            Some(Finding::new(FindingKind::Duplicate, &first.id, message))
        })
        .collect();
    findings.sort_by(|a, b| a.at.cmp(&b.at));
    findings
}

fn empty_splits(samples: &[Sample]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for class in classes(samples) {
        let has = |split| samples.iter().any(|s| s.class == class && s.split == split);
        if !has(Split::Train) {
            let message = "no training images: there is nothing to fit on or draw shots from";
            findings.push(Finding::new(FindingKind::NoImages, &class, message));
        }
        if !has(Split::Test) {
            let message = "no test images: there is nothing to evaluate on";
            findings.push(Finding::new(FindingKind::NoImages, &class, message));
        }
    }
    findings
}

fn published_counts(layout: &Layout, samples: &[Sample]) -> Vec<Finding> {
    let Some(about) = &layout.about else {
        return Vec::new();
    };
    let of = |class: &str, split, label| {
        let counted = |sample: &&Sample| {
            sample.split == split
                && sample.label == label
                && (class.is_empty() || sample.class == class)
        };
        samples.iter().filter(counted).count()
    };
    let test = |class, [normal, anomalous]: [usize; 2]| {
        [
            (
                "normal test images",
                of(class, Split::Test, Label::Normal),
                normal,
            ),
            (
                "anomalous test images",
                of(class, Split::Test, Label::Anomalous),
                anomalous,
            ),
        ]
    };
    // What is counted, how many there are here, how many were published.
    let counts: Vec<(String, usize, usize)> = match about.published {
        Published::Kinds(kinds) => kinds
            .iter()
            .map(|&(kind, published)| {
                let here = samples
                    .iter()
                    .filter(|sample| sample.defect_type == kind)
                    .count();
                (kind.to_owned(), here, published)
            })
            .collect(),
        Published::Classes(classes) => classes
            .iter()
            .flat_map(|&(class, [train, normal, anomalous])| {
                let training = of(class, Split::Train, Label::Normal);
                [("training images", training, train)]
                    .into_iter()
                    .chain(test(class, [normal, anomalous]))
                    .map(move |(what, here, published)| {
                        (format!("{class}, {what}"), here, published)
                    })
            })
            .collect(),
        Published::Test(published) => test("", published)
            .map(|(what, here, published)| (what.to_owned(), here, published))
            .to_vec(),
    };
    counts
        .into_iter()
        .filter(|(_, here, published)| here != published)
        .map(|(what, here, published)| {
            let message = format!(
                "{here} here, {published} published ({})",
                about.published_in
            );
            Finding::new(FindingKind::Counts, what, message)
        })
        .collect()
}

fn count(samples: &[Sample]) -> Vec<Count> {
    let mut counts: BTreeMap<(&str, Split, Label, &str), usize> = BTreeMap::new();
    for sample in samples {
        let key = (
            sample.class.as_str(),
            sample.split,
            sample.label,
            sample.defect_type.as_str(),
        );
        *counts.entry(key).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((class, split, label, defect_type), samples)| Count {
            class: class.to_owned(),
            split,
            label,
            defect_type: defect_type.to_owned(),
            samples,
        })
        .collect()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}
