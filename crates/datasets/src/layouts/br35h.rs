//! Br35H: magnetic resonance images without (`no`) and with (`yes`) a tumour, of which AnomalyCLIP
//! takes all for the test. Its script takes whatever else lies in the root for anomalous; here the
//! owner's further folders, without labels or with other ones, are left out.

use crate::layouts::brainmri::KINDS;
use crate::layouts::{ALL_TEST, About, Layout, Published, missing_entries, scan_kinds};
use crate::sample::GOOD;

pub(super) const LAYOUT: Layout = Layout {
    name: "br35h",
    summary: "Br35H, brain scans with and without a tumour",
    expects: "no/* (normal), yes/* (anomalous)",
    split: ALL_TEST,
    about: Some(About {
        title: "Br35H :: Brain Tumor Detection 2020",
        licence: "stated on the owner's page; none comes with the files",
        citation: "A. Hamada, Br35H :: Brain Tumor Detection 2020, Kaggle, 2020",
        obtain: "www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
        published: Published::Kinds(&[(GOOD, 1500), ("tumour", 1500)]),
        published_in: "the data set's page",
    }),
    missing: |root| Ok(missing_entries(root, &KINDS.map(|(folder, _)| folder))),
    scan: |scan| {
        scan.tell_all_but(&KINDS.map(|(folder, _)| folder))?;
        scan_kinds(scan, "", "brain", &KINDS)
    },
};
