//! BrainMRI: magnetic resonance images without (`no`) and with (`yes`) a tumour. Split as in
//! InCTRL's conversion, which takes the files in the order of the file system; here it is sorted.

use crate::layouts::{About, Layout, Published, SPLIT_SORTED, missing_entries, scan_kinds};
use crate::sample::GOOD;
use crate::split::split_normals;

/// Folder and the kind of what is in it.
pub(super) const KINDS: [(&str, &str); 2] = [("no", GOOD), ("yes", "tumour")];
/// What the owner's archive, unpacked as it is, holds beside a second copy of the folders.
const IN_ARCHIVE: &str = "brain_tumor_dataset";

pub(super) const LAYOUT: Layout = Layout {
    name: "brainmri",
    summary: "BrainMRI, brain scans with and without a tumour",
    expects: "no/* (normal), yes/* (anomalous), or these in brain_tumor_dataset/",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "Brain MRI Images for Brain Tumor Detection",
        licence: "stated on the owner's page; none comes with the files",
        citation: "N. Chakrabarty, Brain MRI Images for Brain Tumor Detection, Kaggle, 2019",
        obtain: "www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        published: Published::Kinds(&[(GOOD, 98), ("tumour", 155)]),
        published_in: "the data set's page",
    }),
    missing: |root| {
        let folders = KINDS.map(|(folder, _)| folder);
        let in_archive = missing_entries(&root.join(IN_ARCHIVE), &folders).is_none();
        Ok(missing_entries(root, &folders).filter(|_| !in_archive))
    },
    scan: |scan| {
        let base = scan.first_there(&[IN_ARCHIVE, ""]);
        let [no, yes] = KINDS.map(|(folder, _)| folder);
        if base == IN_ARCHIVE {
            scan.tell_strays("", &[IN_ARCHIVE, no, yes])?;
        }
        scan.tell_strays(base, &[no, yes])?;
        scan_kinds(scan, base, "brain", &KINDS)?;
        split_normals(&mut scan.samples);
        Ok(())
    },
};
