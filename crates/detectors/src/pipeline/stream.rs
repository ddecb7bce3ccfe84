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
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    /// Images that go through the network at once; as many as are good for it if that is left open.
    pub batch: Option<usize>,
    /// How image files are decoded, and what that may cost.
    pub decode: DecodeOptions,
    /// Where notes on image files are gathered.
    pub notes: NoteLog,
    /// Whether the pixels of images that are scored by themselves are handed on with their result.
    pub keep_pixels: bool,
}

/// How images are seen.
#[derive(Clone, Copy)]
pub(super) struct Looks<'a> {
    pub(super) input: &'a InputSpec,
    /// Further inputs, whose features come with those of the first.
    pub(super) further: &'a [InputSpec],
    pub(super) tta: Tta,
}

impl<'a> Looks<'a> {
    fn one(input: &'a InputSpec, tta: Tta) -> Self {
        Self {
            input,
            further: &[],
            tta,
        }
    }

    /// Pixels of a patch of each input, by which views are moved.
    fn patches(&self, encoder: &dyn ImageEncoder) -> Result<Vec<usize>, DetectorError> {
        let patch = |input: &InputSpec| Ok(encoder.network(input.network)?.spec().multiple);
        self.all().map(patch).collect()
    }

    fn all(self) -> impl Iterator<Item = &'a InputSpec> {
        std::iter::once(self.input).chain(self.further)
    }
}

/// An image on its way: its inputs to the networks, those of each view together, and what stays of
/// it.
struct Prepared {
    views: Vec<Vec<Preprocessed>>,
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
    let looks = Looks::one(input, Tta::default());
    stream_views(encoder, &looks, sources, options, |index, views| {
        let first = |Views {
                         mut views, size, ..
                     }: Views| (views.swap_remove(0), size);
        sink(index, views.map(first))
    })
}

/// [`stream_features`] with all views of each image.
pub(super) fn stream_views(
    encoder: &dyn ImageEncoder,
    looks: &Looks<'_>,
    sources: &[ImageSource],
    options: &StreamOptions,
    mut sink: impl FnMut(usize, Result<Views, SourceError>) -> ControlFlow<()>,
) -> Result<(), DetectorError> {
    let patches = looks.patches(encoder)?;
    let batch = options.batch.unwrap_or(encoder.batch()).max(1);
    let (sender, receiver) = sync_channel::<Vec<Result<Prepared, SourceError>>>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let open = |source: &ImageSource| {
                let image = source.open(&options.decode)?;
                options.notes.add(source.path(), &image);
                let prepared = Prepared::new(&image, looks, &patches);
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
            for encoded in encode_prepared(encoder, looks, prepared)? {
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
    let looks = Looks::one(input, tta);
    let patches = looks.patches(encoder)?;
    let images: Vec<&Image> = images.into_iter().collect();
    let mut features = Vec::with_capacity(images.len());
    for images in images.chunks(encoder.batch()) {
        let prepared = images
            .par_iter()
            .map(|image| Prepared::new(image, &looks, &patches));
        let mut left: Vec<_> = prepared
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|prepared| prepared.views.into_iter())
            .collect();
        for _ in 0..tta.count() {
            let view = left.iter_mut().map(Iterator::next).collect();
            features.extend(encode_view(encoder, &looks, view)?.into_iter().flatten());
        }
    }
    Ok(features)
}

impl Prepared {
    fn new(image: &Image, looks: &Looks<'_>, patches: &[usize]) -> Result<Self, GeometryError> {
        let (width, height) = (image.width(), image.height());
        let footprint = looks.input.preprocess.footprint(width, height)?;
        let mut views: Vec<Vec<Preprocessed>> = vec![vec![]; looks.tta.count()];
        for (input, &patch) in looks.all().zip(patches) {
            let of_input = looks.tta.views(input.preprocess.apply(image)?, patch);
            views
                .iter_mut()
                .zip(of_input)
                .for_each(|(view, one)| view.push(one));
        }
        Ok(Self {
            views,
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
    looks: &Looks<'_>,
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
    for _ in 0..looks.tta.count() {
        let view = left.iter_mut().map(Iterator::next).collect();
        let features = encode_view(encoder, looks, view)?;
        for (image, features) in encoded.iter_mut().zip(features) {
            if let Ok(image) = image {
                image.views.extend(features);
            }
        }
    }
    Ok(encoded)
}

/// Encodes one view of the images that are there; each result in its image's place.
fn encode_view(
    encoder: &dyn ImageEncoder,
    looks: &Looks<'_>,
    images: Vec<Option<Vec<Preprocessed>>>,
) -> Result<Vec<Option<ImageFeatures>>, DetectorError> {
    let there: Vec<bool> = images.iter().map(Option::is_some).collect();
    let mut left: Vec<_> = images.into_iter().flatten().map(Vec::into_iter).collect();
    let mut encoded: Vec<ImageFeatures> = vec![];
    for input in looks.all() {
        let inputs: Vec<Preprocessed> = left.iter_mut().filter_map(Iterator::next).collect();
        let features = input.encode(encoder, &inputs)?;
        match encoded.is_empty() {
            true => encoded = features,
            false => {
                let images = encoded.iter_mut().zip(features);
                images.for_each(|(image, further)| image.further.push(further));
            }
        }
    }
    let mut encoded = encoded.into_iter();
    let mut next = |is_there: bool| if is_there { encoded.next() } else { None };
    Ok(there.into_iter().map(&mut next).collect())
}
