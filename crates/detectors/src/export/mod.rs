//! Detectors as ONNX files, which other programs run without this one.
//!
//! ```text
//! plan.rs      what goes in: which networks see it, at which size
//! whole.rs     the graph: bytes -> networks -> scores and maps
//! metadata.rs  what a caller must know, in the file
//! check.rs     the file that was written against our own engine
//! ```
//!
//! How a method scores in a graph stands beside how it scores here: `Detector::graph`.

mod check;
mod error;
mod metadata;
mod plan;
mod whole;

use std::path::Path;

use anomalens_backbones::Backbone;
use anomalens_onnx::model::Summary;
use anomalens_onnx::network::Size;

pub use check::Check;
pub use error::ExportError;

use crate::{DetectorError, DetectorFile};
use plan::Plan;

/// What is left to choose about a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// What is written; by default the whole detector, or where its method does not allow that, its
    /// networks.
    pub part: Option<Part>,
    /// The size of the images that go in; by default that of the detector.
    pub size: Option<Size>,
    /// Whether several images may go in at once.
    pub dynamic_batch: bool,
    /// Whether the networks compute in float16.
    pub half: bool,
    /// Whether operators of ONNX Runtime alone may be used, which makes it faster there.
    pub contrib: bool,
}

/// What of a detector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its networks: images in, features out.
    Encoder,
    /// All of it: images in, scores, maps and decisions out.
    Detector,
}

impl Part {
    /// As it is called in the file's metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Detector => "detector",
        }
    }
}

/// A file that was written.
#[derive(Debug, Clone)]
pub struct Exported {
    /// What it is.
    pub part: Part,
    /// Why it is not the whole detector, where nothing was chosen.
    pub reason: Option<String>,
    /// What goes in, by name, with the lengths: `batch` is any number.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// Bytes of the file and of the one beside it.
    pub bytes: u64,
    /// Whether its constants lie in a file beside it, with `.data` after its name.
    pub has_data_file: bool,
    /// What was found when it was run.
    pub check: Check,
}

/// What goes in or comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The lengths of its axes after the first, which is the batch.
    pub shape: Vec<usize>,
}

/// Writes the detector of `file` to `path`, and runs what was written beside `backbone`, which computes
/// in float32. Nothing is left where that fails.
///
/// # Errors
/// [`ExportError`] tells what cannot be exported and why.
pub fn export(
    file: &DetectorFile,
    backbone: &Backbone,
    options: &ExportOptions,
    path: &Path,
) -> Result<Exported, ExportError> {
    let encoder = backbone.encoder.as_ref();
    let plan = Plan::new(file.detector.as_ref(), encoder, options)?;
    let (mut built, part, reason) = match options.part {
        Some(Part::Encoder) => (
            whole::encoder(&plan, encoder, options)?,
            Part::Encoder,
            None,
        ),
        Some(Part::Detector) => (
            whole::detector(file, &plan, encoder, options)?,
            Part::Detector,
            None,
        ),
        None => match whole::detector(file, &plan, encoder, options) {
            Ok(built) => (built, Part::Detector, None),
            Err(ExportError::Detector(error @ DetectorError::NoGraph { .. })) => {
                let built = whole::encoder(&plan, encoder, options)?;
                (built, Part::Encoder, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        },
    };
    let reference = check::Reference::new(file, &plan, encoder, part, options)?;
    metadata::add(
        &mut built.graph,
        file,
        &plan,
        part,
        options,
        reference.range(),
    );
    let failed = |source| ExportError::Write {
        path: path.to_owned(),
        source,
    };
    // Written and checked where nobody looks, so that there is never a file that was not checked.
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => tempfile::tempdir_in(parent),
        _ => tempfile::tempdir_in("."),
    };
    let folder = folder.map_err(failed)?;
    let name = path
        .file_name()
        .ok_or_else(|| ExportError::NoName(path.to_owned()))?;
    let hidden = folder.path().join(name);
    let has_data_file = built.graph.write(&hidden).map_err(failed)?;
    let summary = Summary::read(&hidden).map_err(DetectorError::from)?;
    let check = reference.compare(&hidden, &plan, options)?;
    let data = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".data");
        name
    };
    if has_data_file {
        std::fs::rename(data(&hidden), data(path)).map_err(failed)?;
    }
    std::fs::rename(&hidden, path).map_err(failed)?;
    Ok(Exported {
        part,
        reason,
        inputs: plan.ports(),
        outputs: built.outputs,
        bytes: summary.bytes,
        has_data_file,
        check,
    })
}
