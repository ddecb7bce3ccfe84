//! From image files to features: batch after batch, the next images being decoded while the
//! network works on these.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::{DecodeOptions, GeometryError, Image, Limits, Preprocessed, Rect};
use rayon::prelude::*;

use crate::{DetectorError, Looks, Setup, SourceError};

/// One image to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// The file.
    pub path: PathBuf,
    /// The part of it that is meant: x, y, width, height in pixels; all of it if `None`.
    pub crop: Option<[u32; 4]>,
}

impl ImageSource {
    /// Decodes the image.
    ///
    /// # Errors
    /// [`SourceError`] that tells what is wrong with the file.
    pub fn open(&self, options: &DecodeOptions) -> Result<Image, SourceError> {
        let image = Image::open_with(&self.path, options)?;
        match self.crop {
            Some([x, y, width, height]) => image
                .crop(x, y, width, height)
                .map_err(|source| self.unfit(source)),
            None => Ok(image),
        }
    }

    fn unfit(&self, source: GeometryError) -> SourceError {
        SourceError::Geometry {
            path: self.path.clone(),
            source,
        }
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self { path, crop: None }
    }
}

/// How images are streamed.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Images that go through the network at once.
    pub batch: usize,
    /// What an image file may cost.
    pub limits: Limits,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            batch: 8,
            limits: Limits::default(),
        }
    }
}

/// An image on its way: its inputs to the network and how large it was.
struct Prepared {
    first: Preprocessed,
    second: Option<Preprocessed>,
    size: ImageSize,
}

/// The size of a decoded image and the part of it that the network saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageSize {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The part that the features cover, in pixels of the image.
    pub footprint: Rect,
}

/// What becomes of an image: its features, or why it has none.
pub type Encoded = Result<(ImageFeatures, ImageSize), SourceError>;

/// The features of both looks at an image; of the second one only where it was asked for.
pub(crate) struct Looked {
    pub(crate) first: ImageFeatures,
    pub(crate) second: Option<ImageFeatures>,
    pub(crate) size: ImageSize,
}

/// Calls `sink` with the index of each source and its features, in order, until there are no more
/// or it breaks off. A file that cannot be used is handed on as its error. Only a few batches
/// are in memory at any time.
///
/// # Errors
/// [`DetectorError`] if the network fails; such an error is not the fault of one image.
pub fn stream_features(
    encoder: &dyn ImageEncoder,
    setup: &Setup,
    sources: &[ImageSource],
    options: &StreamOptions,
    mut sink: impl FnMut(usize, Encoded) -> ControlFlow<()>,
) -> Result<(), DetectorError> {
    stream_looks(
        encoder,
        setup,
        Looks::Once,
        sources,
        options,
        |index, looked| {
            sink(
                index,
                looked.map(|Looked { first, size, .. }| (first, size)),
            )
        },
    )
}

/// [`stream_features`] with as many `looks` at each image.
pub(crate) fn stream_looks(
    encoder: &dyn ImageEncoder,
    setup: &Setup,
    looks: Looks,
    sources: &[ImageSource],
    options: &StreamOptions,
    mut sink: impl FnMut(usize, Result<Looked, SourceError>) -> ControlFlow<()>,
) -> Result<(), DetectorError> {
    let patch = encoder.spec().multiple;
    let batch = options.batch.max(1);
    let (sender, receiver) = sync_channel::<Vec<Result<Prepared, SourceError>>>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for sources in sources.chunks(batch) {
                let prepared = sources
                    .par_iter()
                    .map(|source| prepare(source, setup, looks, patch, &options.limits));
                if sender.send(prepared.collect()).is_err() {
                    break; // The sink broke off.
                }
            }
        });
        let mut index = 0;
        for prepared in receiver {
            for encoded in encode_prepared(encoder, setup, prepared)? {
                if sink(index, encoded).is_break() {
                    return Ok(());
                }
                index += 1;
            }
        }
        Ok(())
    })
}

/// The features of images that are in memory already, in as many `looks` at each; the first comes
/// first.
pub(crate) fn encode_images<'i>(
    encoder: &dyn ImageEncoder,
    setup: &Setup,
    looks: Looks,
    images: impl IntoIterator<Item = &'i Image>,
) -> Result<Vec<ImageFeatures>, DetectorError> {
    let images: Vec<&Image> = images.into_iter().collect();
    let mut features = Vec::with_capacity(images.len());
    for images in images.chunks(StreamOptions::default().batch) {
        let firsts = images.iter().map(|image| setup.preprocess.apply(image));
        let firsts = firsts.collect::<Result<Vec<_>, _>>()?;
        let seconds = firsts
            .iter()
            .map(|first| looks.second(first, encoder.spec().multiple))
            .collect();
        for inputs in [firsts.into_iter().map(Some).collect(), seconds] {
            features.extend(encode_inputs(encoder, setup, inputs)?.into_iter().flatten());
        }
    }
    Ok(features)
}

fn prepare(
    source: &ImageSource,
    setup: &Setup,
    looks: Looks,
    patch: usize,
    limits: &Limits,
) -> Result<Prepared, SourceError> {
    let image = source.open(&DecodeOptions::from(*limits))?;
    let (width, height) = (image.width(), image.height());
    let unfit = |error| source.unfit(error);
    let footprint = setup.preprocess.footprint(width, height).map_err(unfit)?;
    let first = setup.preprocess.apply(&image).map_err(unfit)?;
    Ok(Prepared {
        second: looks.second(&first, patch),
        first,
        size: ImageSize {
            width,
            height,
            footprint,
        },
    })
}

/// Encodes the images that could be prepared; errors keep their places.
fn encode_prepared(
    encoder: &dyn ImageEncoder,
    setup: &Setup,
    prepared: Vec<Result<Prepared, SourceError>>,
) -> Result<Vec<Result<Looked, SourceError>>, DetectorError> {
    let (mut firsts, mut seconds, mut sizes) = (vec![], vec![], vec![]);
    for prepared in prepared {
        let (first, second, size) = match prepared {
            Ok(Prepared {
                first,
                second,
                size,
            }) => (Some(first), second, Ok(size)),
            Err(error) => (None, None, Err(error)),
        };
        firsts.push(first);
        seconds.push(second);
        sizes.push(size);
    }
    let firsts = encode_inputs(encoder, setup, firsts)?;
    let seconds = encode_inputs(encoder, setup, seconds)?;
    let looks = firsts.into_iter().zip(seconds).zip(sizes);
    Ok(looks
        .filter_map(|((first, second), size)| match (first, size) {
            (_, Err(error)) => Some(Err(error)),
            (Some(first), Ok(size)) => Some(Ok(Looked {
                first,
                second,
                size,
            })),
            (None, Ok(_)) => None, // Every input that is there has features.
        })
        .collect())
}

/// Encodes the inputs that are there; each result in its input's place.
fn encode_inputs(
    encoder: &dyn ImageEncoder,
    setup: &Setup,
    inputs: Vec<Option<Preprocessed>>,
) -> Result<Vec<Option<ImageFeatures>>, DetectorError> {
    let there: Vec<bool> = inputs.iter().map(Option::is_some).collect();
    let inputs: Vec<Preprocessed> = inputs.into_iter().flatten().collect();
    let mut features = encoder.encode(&inputs, &setup.request)?.into_iter();
    let mut next = |is_there: bool| if is_there { features.next() } else { None };
    Ok(there.into_iter().map(&mut next).collect())
}
