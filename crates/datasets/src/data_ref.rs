//! `LAYOUT:PATH`, the way a user names a data set: `folder:/data/bottle`, `elpv:/data/elpv`. A setting
//! may follow: `kvasir:/data/kvasir,mask-threshold=127`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;
use crate::finding::Severity;
use crate::layouts::{Layout, layout};
use crate::listing::list;
use crate::sample::{MaskSource, Sample};
use crate::scan::Scan;
use crate::settings::split_settings;

const MASK_THRESHOLD: &str = "mask-threshold";

/// A layout and the folder (or file) that is said to be in it. Parsing looks at the text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRef {
    /// How the data set is laid out.
    pub layout: &'static Layout,
    /// The folder of the data set, or the file that lists it.
    pub root: PathBuf,
    /// Pixels of mask files are anomalous whose value is above this one, in the units of the file
    /// (white is 255, or 65535 in files of 16 bits). The references take all that is above 0.
    pub mask_threshold: u16,
}

impl FromStr for DataRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, path) = text.split_once(':').ok_or_else(|| Error::NoLayout {
            given: text.to_owned(),
        })?;
        let layout = layout(name)?;
        let (path, settings) = split_settings(path);
        if path.is_empty() {
            return Err(Error::NoPath {
                layout: name.to_owned(),
            });
        }
        let mut data = Self::new(layout, path);
        for (name, value) in settings {
            let bad = |reason| Error::Setting {
                given: text.to_owned(),
                reason,
            };
            if name != MASK_THRESHOLD {
                return Err(bad(format!(
                    "there is no setting {name}, only {MASK_THRESHOLD} (end a folder of this name \
                     with /)"
                )));
            }
            // Nothing is above the largest value.
            data.mask_threshold = value
                .parse()
                .ok()
                .filter(|threshold| *threshold < u16::MAX)
                .ok_or_else(|| bad(format!("{name} is a number from 0 to {}", u16::MAX - 1)))?;
        }
        Ok(data)
    }
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.layout.name, self.root.display())?;
        match self.mask_threshold {
            0 => Ok(()),
            threshold => write!(f, ",{MASK_THRESHOLD}={threshold}"),
        }
    }
}

impl DataRef {
    /// A data set with all settings as they are by default.
    pub fn new(layout: &'static Layout, root: impl Into<PathBuf>) -> Self {
        Self {
            layout,
            root: root.into(),
            mask_threshold: 0,
        }
    }

    /// Looks at the folders and label files, and at no images but those which label others.
    pub(crate) fn scan(&self) -> Result<Scan, Error> {
        let Self {
            layout,
            root,
            mask_threshold,
        } = self;
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

        let mut scan = Scan::new(root, layout.about.is_some(), *mask_threshold);
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
        let has_mask_file = |sample: &Sample| matches!(sample.mask, MaskSource::File(_));
        if *mask_threshold > 0 && !scan.samples.iter().any(has_mask_file) && !has_errors {
            return Err(Error::Setting {
                given: self.to_string(),
                reason: format!("{MASK_THRESHOLD} is for masks in image files, and there are none"),
            });
        }
        Ok(scan)
    }
}
