//! `LAYOUT:PATH`, the way a user names a data set: `folder:/data/bottle`, `elpv:/data/elpv`. Settings
//! may follow, which say how masks are read: `kvasir:/data/kvasir,mask-threshold=127`,
//! `,mask-invert=true`, `,mask-from=alpha`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anomalens_base::{did_you_mean, nearest};
use anomalens_vision::{MaskChannel, MaskReading, MaskSource};

use crate::error::Error;
use crate::finding::Severity;
use crate::images::is_pattern;
use crate::layouts::{Layout, layout};
use crate::listing::list;
use crate::sample::Sample;
use crate::scan::Scan;
use crate::settings::split_settings;

const MASK_THRESHOLD: &str = "mask-threshold";
const MASK_INVERT: &str = "mask-invert";
const MASK_FROM: &str = "mask-from";
const SETTINGS: [&str; 3] = [MASK_THRESHOLD, MASK_INVERT, MASK_FROM];

/// Values of [`MASK_FROM`].
const CHANNELS: [(&str, MaskChannel); 2] = [
    ("brightness", MaskChannel::Brightness),
    ("alpha", MaskChannel::Alpha),
];

/// A layout and the folder (or file) that is said to be in it. Parsing looks at the text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRef {
    /// How the data set is laid out.
    pub layout: &'static Layout,
    /// The folder of the data set, or the file that lists it.
    pub root: PathBuf,
    /// Which pixels of mask files are anomalous. The references take all that are not black.
    pub masks: MaskReading,
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
            set(&mut data.masks, name, value).map_err(|reason| Error::Setting {
                given: text.to_owned(),
                reason,
            })?;
        }
        Ok(data)
    }
}

fn set(masks: &mut MaskReading, name: &str, value: &str) -> Result<(), String> {
    match name {
        // Nothing is above the largest value.
        MASK_THRESHOLD => {
            masks.threshold = value
                .parse()
                .ok()
                .filter(|threshold| *threshold < u16::MAX)
                .ok_or_else(|| format!("{name} is a number from 0 to {}", u16::MAX - 1))?;
        }
        MASK_INVERT => {
            masks.invert = value
                .parse()
                .map_err(|_| format!("{name} is true or false"))?;
        }
        MASK_FROM => {
            let known = CHANNELS.iter().find(|(name, _)| *name == value);
            let (_, channel) = known.ok_or_else(|| {
                let known = CHANNELS.map(|(name, _)| name);
                format!("{name} is {}", known.join(" or "))
            })?;
            masks.channel = *channel;
        }
        _ => {
            return Err(format!(
                "there is no setting {name}{}; the settings are {} (end a folder of this name \
                 with /)",
                did_you_mean(nearest(name, SETTINGS).as_deref()),
                SETTINGS.join(", ")
            ));
        }
    }
    Ok(())
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root.display().to_string();
        // A folder whose name ends as settings do is told from them by a slash.
        let slash = match split_settings(&root) {
            (_, settings) if settings.is_empty() => "",
            _ => "/",
        };
        write!(f, "{}:{root}{slash}", self.layout.name)?;
        let MaskReading {
            threshold,
            channel,
            invert,
        } = self.masks;
        if threshold > 0 {
            write!(f, ",{MASK_THRESHOLD}={threshold}")?;
        }
        if invert {
            write!(f, ",{MASK_INVERT}=true")?;
        }
        if channel != MaskChannel::default()
            && let Some((name, _)) = CHANNELS.iter().find(|(_, known)| *known == channel)
        {
            write!(f, ",{MASK_FROM}={name}")?;
        }
        Ok(())
    }
}

impl DataRef {
    /// A data set with all settings as they are by default.
    pub fn new(layout: &'static Layout, root: impl Into<PathBuf>) -> Self {
        Self {
            layout,
            root: root.into(),
            masks: MaskReading::default(),
        }
    }

    /// Looks at the folders and label files, and at no images but those which label others.
    pub(crate) fn scan(&self) -> Result<Scan, Error> {
        let Self {
            layout,
            root,
            masks,
        } = self;
        if !root.exists() && is_pattern(root.as_os_str()) {
            return Err(Error::RootIsPattern { root: root.clone() });
        }
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

        let mut scan = Scan::new(root, layout.about.is_some(), *masks);
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
        if *masks != MaskReading::default()
            && !scan.samples.iter().any(has_mask_file)
            && !has_errors
        {
            return Err(Error::Setting {
                given: self.to_string(),
                reason: "these settings are for masks in image files, and there are none"
                    .to_owned(),
            });
        }
        Ok(scan)
    }
}
