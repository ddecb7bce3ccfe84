//! From images to features: batch after batch, the next images being decoded while the network works
//! on these.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::{
    DecodeNote, DecodeOptions, GeometryError, Image, NoteLog, Preprocessed, Rect,
};
use rayon::prelude::*;

use super::source::is_flat;
use crate::{DetectorError, ImageSource, InputSpec, SourceError, Tta};

/// How images are streamed.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Images that go through the network at once.
    pub batch: usize,
    /// How image files are decoded, and what that may cost.
    pub decode: DecodeOptions,
    /// Where notes on image files are gathered.
    pub notes: NoteLog,
    /// Whether the pixels of images that are scored by themselves are handed on with their result.
    pub keep_pixels: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            batch: 8,
            decode: DecodeOptions::default(),
            notes: NoteLog::default(),
            keep_pixels: false,
        }
    }
}

/// An image on its way: its views as inputs to the network, and what stays of it.
struct Prepared {
    views: Vec<Preprocessed>,
    size: ImageSize,
    flat: bool,
    notes: Vec<DecodeNote>,
    pixels: Option<Arc<Image>>,
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

impl ImageSize {
    /// The same for features that are taken for those of the whole image.
    pub(super) fn with_margins(self) -> Self {
        let footprint = Rect {
            x: 0.0,
            y: 0.0,
            width: self.width as f32,
            height: self.height as f32,
        };
        Self { footprint, ..self }
    }
}

/// What becomes of an image: its features, or why it has none.
pub type Encoded = Result<(ImageFeatures, ImageSize), SourceError>;

/// The features of all views of an image.
pub(super) struct Views {
    pub(super) views: Vec<ImageFeatures>,
    pub(super) size: ImageSize,
    /// Whether the image is of one colour.
    pub(super) flat: bool,
    /// What was noted when the file was decoded.
    pub(super) notes: Vec<DecodeNote>,
    pub(super) pixels: Option<Arc<Image>>,
}

/// Calls `sink` with the index of each source and its features, in order, until there are no more
/// or it breaks off. A file that cannot be used is handed on as its error. Only a few batches
/// are in memory at any time.
///
/// # Errors
/// [`DetectorError`] if the network fails; such an error is not the fault of one image.
pub fn stream_features(
    encoder: &dyn ImageEncoder,
    input: &InputSpec,
    sources: &[ImageSource],
    options: &StreamOptions,
    mut sink: impl FnMut(usize, Encoded) -> ControlFlow<()>,
) -> Result<(), DetectorError> {
    let tta = Tta::default();
    stream_views(encoder, input, tta, sources, options, |index, views| {
        let first = |Views {
                         mut views, size, ..
                     }: Views| (views.swap_remove(0), size);
        sink(index, views.map(first))
    })
}

/// [`stream_features`] with all views of each image.
pub(super) fn stream_views(
    encoder: &dyn ImageEncoder,
    input: &InputSpec,
    tta: Tta,
    sources: &[ImageSource],
    options: &StreamOptions,
    mut sink: impl FnMut(usize, Result<Views, SourceError>) -> ControlFlow<()>,
) -> Result<(), DetectorError> {
    let patch = encoder.spec().multiple;
    let batch = options.batch.max(1);
    let (sender, receiver) = sync_channel::<Vec<Result<Prepared, SourceError>>>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let open = |source: &ImageSource| {
                let image = source.open(&options.decode)?;
                options.notes.add(source.path(), &image);
                let prepared = Prepared::new(&image, input, tta, patch);
                let prepared = prepared.map_err(|error| source.unfit(error))?;
                let pixels = options.keep_pixels.then_some(image);
                Ok(Prepared { pixels, ..prepared })
            };
            for sources in sources.chunks(batch) {
                if sender.send(sources.par_iter().map(open).collect()).is_err() {
                    break; // The sink broke off.
                }
            }
        });
        let mut index = 0;
        for prepared in receiver {
            for encoded in encode_prepared(encoder, input, tta, prepared)? {
                if sink(index, encoded).is_break() {
                    return Ok(());
                }
                index += 1;
            }
        }
        Ok(())
    })
}

/// The features of images that are in memory already, all views of each; those of the first view
/// come first in each batch.
pub(crate) fn encode_images<'i>(
    encoder: &dyn ImageEncoder,
    input: &InputSpec,
    tta: Tta,
    images: impl IntoIterator<Item = &'i Image>,
) -> Result<Vec<ImageFeatures>, DetectorError> {
    let images: Vec<&Image> = images.into_iter().collect();
    let mut features = Vec::with_capacity(images.len());
    for images in images.chunks(StreamOptions::default().batch) {
        let prepared = images
            .par_iter()
            .map(|image| Prepared::new(image, input, tta, encoder.spec().multiple));
        let mut left: Vec<_> = prepared
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|prepared| prepared.views.into_iter())
            .collect();
        for _ in 0..tta.count() {
            let view = left.iter_mut().map(Iterator::next).collect();
            features.extend(encode_inputs(encoder, input, view)?.into_iter().flatten());
        }
    }
    Ok(features)
}

impl Prepared {
    fn new(
        image: &Image,
        input: &InputSpec,
        tta: Tta,
        patch: usize,
    ) -> Result<Self, GeometryError> {
        let (width, height) = (image.width(), image.height());
        let footprint = input.preprocess.footprint(width, height)?;
        Ok(Self {
            views: tta.views(input.preprocess.apply(image)?, patch),
            size: ImageSize {
                width,
                height,
                footprint,
            },
            flat: is_flat(image),
            notes: image.notes().to_vec(),
            pixels: None,
        })
    }
}

/// Encodes the images that could be prepared; errors keep their places.
fn encode_prepared(
    encoder: &dyn ImageEncoder,
    input: &InputSpec,
    tta: Tta,
    prepared: Vec<Result<Prepared, SourceError>>,
) -> Result<Vec<Result<Views, SourceError>>, DetectorError> {
    let (mut left, mut encoded) = (vec![], vec![]);
    for prepared in prepared {
        let (views, started) = match prepared {
            Ok(Prepared {
                views,
                size,
                flat,
                notes,
                pixels,
            }) => {
                let started = Views {
                    views: vec![],
                    size,
                    flat,
                    notes,
                    pixels,
                };
                (views, Ok(started))
            }
            Err(error) => (vec![], Err(error)),
        };
        left.push(views.into_iter());
        encoded.push(started);
    }
    for _ in 0..tta.count() {
        let view = left.iter_mut().map(Iterator::next).collect();
        let features = encode_inputs(encoder, input, view)?;
        for (image, features) in encoded.iter_mut().zip(features) {
            if let Ok(image) = image {
                image.views.extend(features);
            }
        }
    }
    Ok(encoded)
}

/// Encodes the inputs that are there; each result in its input's place.
fn encode_inputs(
    encoder: &dyn ImageEncoder,
    input: &InputSpec,
    inputs: Vec<Option<Preprocessed>>,
) -> Result<Vec<Option<ImageFeatures>>, DetectorError> {
    let there: Vec<bool> = inputs.iter().map(Option::is_some).collect();
    let inputs: Vec<Preprocessed> = inputs.into_iter().flatten().collect();
    let mut features = input.encode(encoder, &inputs)?.into_iter();
    let mut next = |is_there: bool| if is_there { features.next() } else { None };
    Ok(there.into_iter().map(&mut next).collect())
}
