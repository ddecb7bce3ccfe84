//! Simulated textiles with nothing, something small or everything wrong: the folder `simulated`
//! of the Python package `conformal-clip-data`. No split is published; the one of InCTRL's
//! conversions is used.

use crate::layouts::{About, Layout, Published, SPLIT_SORTED, missing_entries, scan_kinds};
use crate::sample::GOOD;
use crate::split::split_normals;

/// Folder and the kind of what is in it.
const KINDS: [(&str, &str); 3] = [("nominal", GOOD), ("global", "global"), ("local", "local")];

pub(super) const LAYOUT: Layout = Layout {
    name: "textile",
    summary: "simulated textiles with local and global defects",
    expects: "nominal/* (normal), local/*, global/* (anomalous)",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "Simulated textile images",
        licence: "MIT",
        citation: "F. M. Megahed et al., arXiv:2501.12596, 2025",
        obtain: "Python package conformal-clip-data; here by `anomalens models path textile`",
        published: Published::Kinds(&[(GOOD, 1000), ("local", 500), ("global", 500)]),
        published_in: "the package conformal-clip-data 0.1.4",
    }),
    missing: |root| Ok(missing_entries(root, &KINDS.map(|(folder, _)| folder))),
    scan: |scan| {
        scan.tell_strays("", &KINDS.map(|(folder, _)| folder))?;
        scan_kinds(scan, "", "textile", &KINDS)?;
        split_normals(&mut scan.samples);
        Ok(())
    },
};
