//! Where an image to be scored comes from: a file, a part of one, or memory.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_vision::{DecodeOptions, GeometryError, Image};
use sha2::{Digest, Sha256};

use crate::SourceError;

/// One image to be scored.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A file.
    File {
        /// Where it is.
        path: PathBuf,
        /// The part of it that is meant: x, y, width, height in pixels; all of it if `None`.
        crop: Option<[u32; 4]>,
    },
    /// An image that is decoded already.
    Memory {
        /// What it is called in errors.
        name: String,
        /// Its pixels.
        image: Arc<Image>,
    },
}

impl ImageSource {
    /// The file, or the name of an image in memory.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } => path,
            Self::Memory { name, .. } => name.as_ref(),
        }
    }

    /// The part of the file that is meant, if not all of it.
    pub fn crop(&self) -> Option<[u32; 4]> {
        match self {
            Self::File { crop, .. } => *crop,
            Self::Memory { .. } => None,
        }
    }

    /// The decoded image.
    ///
    /// # Errors
    /// [`SourceError`] with what is wrong with the file.
    pub fn open(&self, options: &DecodeOptions) -> Result<Arc<Image>, SourceError> {
        let (path, crop) = match self {
            Self::Memory { image, .. } => return Ok(image.clone()),
            Self::File { path, crop } => (path, crop),
        };
        let image = Image::open_with(path, options)?;
        let image = match *crop {
            Some([x, y, width, height]) => image
                .crop(x, y, width, height)
                .map_err(|source| self.unfit(source))?,
            None => image,
        };
        Ok(Arc::new(image))
    }

    pub(super) fn unfit(&self, source: GeometryError) -> SourceError {
        SourceError::Geometry {
            path: self.path().to_owned(),
            source,
        }
    }

    /// What tells the image's pixels from others, without decoding a file: its path, size and
    /// time, or a digest.
    pub(crate) fn content(&self) -> Cow<'_, str> {
        match self {
            Self::File { path, crop } => {
                let file = std::fs::metadata(path).ok();
                let changed = file.as_ref().and_then(|file| file.modified().ok());
                let age = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                let size = file.map(|file| file.len());
                format!("{path:?} {crop:?} {size:?} {age:?}").into()
            }
            Self::Memory { .. } => format!("{self:?}").into(),
        }
    }
}

/// Levels by which the pixels of an image of one colour differ: noise of the compression.
const FLAT: u8 = 2;

/// Whether an image is of one colour, as those of a closed shutter are.
pub(crate) fn is_flat(image: &Image) -> bool {
    let (pixels, _) = image.as_bytes().as_chunks::<3>();
    let mut range = [(u8::MAX, u8::MIN); 3];
    // Most images are found not to be within their first pixels.
    pixels.iter().all(|pixel| {
        range.iter_mut().zip(pixel).all(|((low, high), &value)| {
            (*low, *high) = ((*low).min(value), (*high).max(value));
            *high - *low <= FLAT
        })
    })
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, crop } => write!(f, "{path:?} {crop:?}"),
            Self::Memory { name, image } => {
                let digest: [u8; 32] = Sha256::digest(image.as_bytes()).into();
                write!(
                    f,
                    "{name:?} {} x {} {digest:?}",
                    image.width(),
                    image.height()
                )
            }
        }
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File { path, crop: None }
    }
}
