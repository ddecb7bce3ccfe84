//! BrainMRI: magnetic resonance images without (`no`) and with (`yes`) a tumour. Split as in
//! InCTRL's conversion, which takes the files in the order of the file system; here it is sorted.

use crate::layouts::{About, Layout, SPLIT_SORTED, missing_entries, scan_kinds};
use crate::sample::GOOD;

/// Folder and the kind of what is in it.
const KINDS: [(&str, &str); 2] = [("no", GOOD), ("yes", "tumour")];

pub(super) const LAYOUT: Layout = Layout {
    name: "brainmri",
    summary: "BrainMRI, brain scans with and without a tumour",
    expects: "no/* (normal), yes/* (anomalous)",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "Brain MRI Images for Brain Tumor Detection",
        licence: "stated on the owner's page; none comes with the files",
        citation: "N. Chakrabarty, Brain MRI Images for Brain Tumor Detection, Kaggle, 2019",
        published: &[(GOOD, 98), ("tumour", 155)],
        published_in: "the data set's page",
    }),
    missing: |root| Ok(missing_entries(root, &KINDS.map(|(folder, _)| folder))),
    scan: |scan| scan_kinds(scan, "brain", &KINDS),
};
