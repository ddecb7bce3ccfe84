//! Images that a list names, wherever they lie: what `meta`, `manifest` and `coco` have in common.

use std::collections::BTreeMap;
use std::path::Path;

use crate::finding::FindingKind;
use crate::scan::{Item, Scan};

/// The kind of an anomaly that a list does not name.
pub(super) const UNNAMED_KIND: &str = "anomaly";

/// The images of a list.
#[derive(Default)]
pub(super) struct Listed {
    /// In which classes an image was met, and where.
    met: BTreeMap<String, BTreeMap<String, String>>,
}

impl Listed {
    /// Takes an image that is listed at `at`, by the path that stands there. An image may belong to
    /// several classes: its ids are kept apart.
    pub(super) fn add(&mut self, scan: &mut Scan, at: &str, mut item: Item<'_>) {
        item.image = scan.as_there(&item.image);
        if !scan.path(&item.image).is_file() {
            tell_missing(scan, &item.image, at);
            return;
        }
        let image = below_root(&scan.root, &item.image);
        let classes = self.met.entry(image.clone()).or_default();
        let class = item.class.to_owned();
        let elsewhere = !classes.is_empty();
        if let Some(first) = classes.get(&class) {
            let message = format!("{image} is listed already in {first}");
            scan.find(FindingKind::BadRow, at, message);
            return;
        }
        classes.insert(class, at.to_owned());
        let mark = format!("@{}", item.class);
        scan.add(Item { image, ..item });
        if elsewhere && let Some(sample) = scan.samples.last_mut() {
            sample.id += &mark;
        }
    }
}

/// Reports a file that is listed at `at` and is not there.
pub(super) fn tell_missing(scan: &mut Scan, path: &str, at: &str) {
    let drive = matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    let advice = if drive || Path::new(path).is_absolute() {
        "; a list with absolute paths must be made anew where the data were moved"
    } else {
        ""
    };
    let message = format!("named in {at}; no such file{advice}");
    scan.find(FindingKind::MissingFile, path, message);
}

/// A path as ids have it: below the root where it is.
fn below_root(root: &Path, path: &str) -> String {
    let below = Path::new(path).strip_prefix(root);
    below.ok().and_then(Path::to_str).unwrap_or(path).to_owned()
}
