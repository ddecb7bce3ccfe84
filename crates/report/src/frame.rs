//! What all pages have in common, for templates/frame.html: title, styles, and the script, without
//! which all else is there.

use std::path::Path;

use anomalens_base::write_atomic;
use askama::Template;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::{Heading, ReportError};

const SCRIPT: &str = include_str!("../templates/report.js");

/// Head and end of a page.
pub(super) struct Frame<'a> {
    pub(super) heading: &'a Heading,
    pub(super) script: Option<&'static str>,
    /// What the browser may load and run: nothing from elsewhere, and no script but the page's own,
    /// which it knows by its SHA-256.
    pub(super) policy: String,
}

impl<'a> Frame<'a> {
    /// A page that sorts its tables and moves thresholds.
    pub(super) fn with_script(heading: &'a Heading) -> Self {
        let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
        Self {
            heading,
            script: Some(SCRIPT),
            policy: format!(
                "default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
                 script-src 'sha256-{hash}'"
            ),
        }
    }

    /// A page without pictures and script.
    pub(super) fn plain(heading: &'a Heading) -> Self {
        Self {
            heading,
            script: None,
            policy: "default-src 'none'; style-src 'unsafe-inline'".to_owned(),
        }
    }
}

/// Writes a page in one step.
pub(super) fn write_page(path: &Path, page: &impl Template) -> Result<(), ReportError> {
    write_atomic(path, page.render()?.as_bytes()).map_err(|source| ReportError::Write {
        path: path.to_owned(),
        source,
    })
}
