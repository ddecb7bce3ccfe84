//! The backbones that are part of the program, so that nothing has to be fetched.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anomalens_base::replace_file;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::load::pack;
use crate::vit::open_packed_as;
use crate::{BackboneError, PackedNetwork, Precision, SharedBytes};

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
pub const EMBEDDED: &[Embedded] = &[
    Embedded {
        name: "dinov2-s-focus-int8",
        description: "the first 10 blocks of dinov2-s-focus in 8 bits; the other two are spoilt",
        licence: "MIT",
        bytes: include_bytes!("../../../assets/dinov2-s-focus-int8.packed.gz"),
    },
    Embedded {
        name: "efficientnet-lite0-int8",
        description: "the first 5 stages of efficientnet-lite0 in 8 bits",
        licence: "Apache-2.0",
        bytes: include_bytes!("../../../assets/efficientnet-lite0-int8.packed.gz"),
    },
];

/// The weights in this program, if it was built with the feature `embedded`.
#[cfg(not(feature = "embedded"))]
pub const EMBEDDED: &[Embedded] = &[];

/// The backbone to use where none is named: it is here, or can be fetched without an account.
pub const DEFAULT_WEIGHTS: &str = match EMBEDDED {
    [Embedded { name, .. }, ..] => name,
    [] => WHOLE_WEIGHTS,
};

/// The backbone to use beside it, for methods that join what several networks see.
pub const DEFAULT_COMPANION: &str = match EMBEDDED {
    [_, Embedded { name, .. }, ..] => name,
    _ => "efficientnet-lite0",
};

/// More than any backbone in a program unpacks to.
const MOST_BYTES: u64 = 1 << 30;

/// The backbone to use where all its blocks are needed and none is named.
pub const WHOLE_WEIGHTS: &str = "dinov2-s-focus";

impl Embedded {
    /// Those called `name`, if they are in this program.
    pub fn find(name: &str) -> Option<&'static Self> {
        EMBEDDED.iter().find(|embedded| embedded.name == name)
    }

    /// The network, which computes in 8 bits, or in `computes`.
    pub(crate) fn open(&self, computes: Option<Precision>) -> Result<PackedNetwork, BackboneError> {
        let mut bytes = Vec::new();
        GzDecoder::new(self.bytes)
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| BackboneError::Packed(error.to_string()))?;
        let bytes = SharedBytes::read(&bytes[..], bytes.len())
            .map_err(|error| BackboneError::Packed(error.to_string()))?;
        open_packed_as(bytes, computes)
    }
}

/// Writes the first `blocks` blocks of the weight file `from` in 8 bits to `to`, in the form of
/// [`Embedded::bytes`]; the file is replaced in one step.
///
/// # Errors
/// As [`write_packed`](crate::write_packed).
pub fn write_embedded(from: &Path, blocks: usize, to: &Path) -> Result<(), BackboneError> {
    let writing = |source: io::Error| BackboneError::Write {
        path: to.to_owned(),
        source,
    };
    // Without a name, so that nothing of it stays if the program is killed.
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut packed = tempfile::tempfile_in(folder).map_err(writing)?;
    pack(from, Precision::Int8, Some(blocks), |network, original| {
        network.write(Precision::Int8, original, &mut packed)
    })?
    .map_err(writing)?;
    replace_file(to, |file| {
        packed.seek(SeekFrom::Start(0))?;
        let mut gzip = GzEncoder::new(file, Compression::best());
        io::copy(&mut BufReader::new(packed), &mut gzip)?;
        gzip.finish().map(drop)
    })
    .map_err(writing)
}
