//! The backbone that is part of the program, so that nothing has to be fetched.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::{BackboneError, PackedNetwork, Precision, SharedBytes, open_packed, write_packed};

/// Weights that are part of the program.
#[derive(Debug)]
pub struct Embedded {
    /// The name under which they are opened.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// SPDX expression.
    pub licence: &'static str,
    /// Packed weights, gzipped; [`write_embedded`] made them.
    pub bytes: &'static [u8],
}

/// The weights in this program, if it was built with the feature `embedded`.
#[cfg(feature = "embedded")]
pub const EMBEDDED: Option<Embedded> = Some(Embedded {
    name: "dinov2-s-focus-int8",
    description: "the first 10 blocks of dinov2-s-focus in 8 bits",
    licence: "MIT",
    bytes: include_bytes!("../../../assets/dinov2-s-focus-int8.packed.gz"),
});

/// The weights in this program, if it was built with the feature `embedded`.
#[cfg(not(feature = "embedded"))]
pub const EMBEDDED: Option<Embedded> = None;

/// The backbone to use where none is named: it is here, or can be had without an account.
pub const DEFAULT_WEIGHTS: &str = match EMBEDDED {
    Some(Embedded { name, .. }) => name,
    None => "dinov2-s-focus",
};

impl Embedded {
    /// Those called `name`, if they are in this program.
    pub(crate) fn find(name: &str) -> Option<Self> {
        EMBEDDED.filter(|embedded| embedded.name == name)
    }

    /// The network, which computes in 8 bits.
    pub(crate) fn open(&self) -> Result<PackedNetwork, BackboneError> {
        let mut bytes = Vec::new();
        GzDecoder::new(self.bytes)
            .read_to_end(&mut bytes)
            .map_err(|error| BackboneError::Packed(error.to_string()))?;
        open_packed(SharedBytes::Owned(bytes.into()))
    }
}

/// Writes the first `blocks` blocks of the weight file `from` in 8 bits to `to`, in the form of
/// [`Embedded::bytes`]; the file is replaced in one step.
///
/// # Errors
/// As [`write_packed`].
pub fn write_embedded(from: &Path, blocks: usize, to: &Path) -> Result<(), BackboneError> {
    let writing = |source: io::Error| BackboneError::Write {
        path: to.to_owned(),
        source,
    };
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = tempfile::tempdir_in(folder).map_err(writing)?;
    let (packed, gzipped) = (folder.path().join("packed"), folder.path().join("gzipped"));
    write_packed(from, Precision::Int8, Some(blocks), &packed)?;
    let compress = || {
        let mut gzip = GzEncoder::new(fs::File::create(&gzipped)?, Compression::best());
        gzip.write_all(&fs::read(&packed)?)?;
        gzip.finish()?;
        fs::rename(&gzipped, to)
    };
    compress().map_err(writing)
}
