//! `LAYOUT:PATH`, the way a user names a data set: `folder:/data/bottle`, `elpv:/data/elpv`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;
use crate::finding::Severity;
use crate::layouts::{Layout, layout};
use crate::listing::list;
use crate::scan::Scan;

/// A layout and the folder (or file) that is said to be in it. Parsing looks at the text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRef {
    /// How the data set is laid out.
    pub layout: &'static Layout,
    /// The folder of the data set, or the file that lists it.
    pub root: PathBuf,
}

impl FromStr for DataRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, path) = text.split_once(':').ok_or_else(|| Error::NoLayout {
            given: text.to_owned(),
        })?;
        let layout = layout(name)?;
        if path.is_empty() {
            return Err(Error::NoPath {
                layout: name.to_owned(),
            });
        }
        Ok(Self {
            layout,
            root: PathBuf::from(path),
        })
    }
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.layout.name, self.root.display())
    }
}

impl DataRef {
    /// Looks at the folders and label files, and at no images but those which label others.
    pub(crate) fn scan(&self) -> Result<Scan, Error> {
        let Self { layout, root } = self;
        if !root.exists() {
            return Err(Error::RootMissing {
                root: root.clone(),
                obtain: layout.about.as_ref().map(|about| about.obtain),
            });
        }
        if root.is_file() && !layout.fits(root) {
            return Err(Error::RootIsFile { root: root.clone() });
        }
        if root.is_dir() && list(root)?.is_empty() && !layout.fits(root) {
            return Err(Error::RootEmpty { root: root.clone() });
        }
        layout.recognise(root)?;

        let mut scan = Scan::new(root, layout.about.is_some());
        layout.scan(&mut scan)?;
        let has_errors = scan
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Error);
        if scan.samples.is_empty() && !has_errors {
            return Err(Error::NoImages {
                layout: layout.name,
                root: root.clone(),
            });
        }
        Ok(scan)
    }
}
