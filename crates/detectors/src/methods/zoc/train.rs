//! Training (paper, section 3.1): the decoder learns to write the captions of images from their embeddings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::decoder::{Decoder, Sizes, heads_of};
use super::settings::Settings;
use super::vocabulary::Vocabulary;
use super::{CHECKPOINT, NAME, ZocDetector, configured, refuse};
use crate::components::prompts::embeddings;
use crate::settings::Checked;
use crate::training::{
    Adam, Batch, Learned, Learner, Losses, Record, Run, TrainProgress, Trained, TrainingSample,
    fingerprint, run, shuffled_batches,
};
use crate::{DetectorError, TrainContext};

/// AdamW's settings in the paper's code, and how long it trains.
const LEARNING_RATE: f64 = 1e-5;
const BETAS: [f64; 2] = [0.9, 0.999];
const DECAY: f64 = 0.01;
const EPOCHS: usize = 25;
const BATCH: usize = 32;

/// Captions of an image that are learned from, and tokens of each with those of start and end.
const MOST_CAPTIONS: usize = 5;
const MOST_TOKENS: usize = 77;

/// More bytes than the captions of COCO have.
const MOST_BYTES: u64 = 1 << 30;

/// Positions of a decoder that is trained from nothing.
pub(super) const POSITIONS: usize = 512;

/// What is read of a file of captions.
#[derive(Deserialize)]
struct CaptionFile {
    images: Vec<CaptionImage>,
    annotations: Vec<Caption>,
}

#[derive(Deserialize)]
struct CaptionImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Caption {
    image_id: u64,
    caption: String,
}

/// The captions in the file called `name`, by the names of the images' files.
pub(super) fn captions(name: &str) -> Result<BTreeMap<String, Vec<String>>, DetectorError> {
    if name.is_empty() {
        return Err(refuse(
            "it learns from captions: name their file (`captions_*.json` of COCO) with --set \
             captions=FILE",
        ));
    }
    let read = || -> std::io::Result<CaptionFile> {
        let file = File::open(name)?;
        if file.metadata()?.len() > MOST_BYTES {
            return Err(std::io::Error::other("it is larger than 1 GB"));
        }
        let reader = BufReader::new(file.take(MOST_BYTES));
        serde_json::from_reader(reader).map_err(std::io::Error::from)
    };
    let file = read().map_err(|e| refuse(format!("`captions`: {name} cannot be read: {e}")))?;
    let mut of_image: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for Caption { image_id, caption } in file.annotations {
        let captions = of_image.entry(image_id).or_default();
        if captions.len() < MOST_CAPTIONS {
            captions.push(caption);
        }
    }
    let named = file.images.into_iter().filter_map(|image| {
        let captions = of_image.remove(&image.id)?;
        Some((image.file_name, captions))
    });
    Ok(named.collect())
}

/// The name of a sample's file.
fn file_name(sample: &TrainingSample) -> String {
    let name = sample.source.path().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The sizes of a decoder that is trained from nothing, for embeddings of length `embedding`.
pub(super) fn sizes(settings: &Settings, embedding: usize, vocabulary: usize) -> Sizes {
    let width = settings.width.given().unwrap_or(2 * embedding);
    Sizes {
        layers: settings.layers,
        width,
        middle: 4 * width,
        vocabulary,
        positions: POSITIONS,
        heads: settings.heads.given().unwrap_or_else(|| heads_of(width)),
    }
}

/// Learns the decoder.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder, options, ..
    } = *context;
    let learned = context.start.map(Learned::read).transpose()?;
    let (settings, text) = configured(context.settings, learned.as_ref(), encoder)?;
    let vocabulary = Vocabulary::open(&settings.vocabulary)?;
    let captions = captions(&settings.captions)?;
    let samples = context.samples.iter();
    let samples: Vec<TrainingSample> = samples
        .filter(|sample| captions.contains_key(&file_name(sample)))
        .cloned()
        .collect();
    if samples.is_empty() {
        return Err(refuse(format!(
            "`captions`: {} has none for these images, by the names of their files",
            settings.captions
        )));
    }
    let embedding = encoder.spec().embedding;
    let decoder = match &learned {
        Some(learned) => Decoder::take(
            &|name| learned.tensor(name),
            settings.heads.given(),
            Some(options.seed),
        )?,
        None => Decoder::random(sizes(&settings, embedding, vocabulary.len()), options.seed)?,
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(decoder.parameters(), rate, BETAS)?.with_decay(DECAY);
    let identity = json!({
        "method": NAME,
        "config": settings,
        "start": context.start,
        "backbone": options.backbone,
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(&samples),
    });
    let checked = Checked::new(settings)?;
    let embed = |texts: &[String]| embeddings(&text, texts);
    let detector = ZocDetector::new(checked, decoder, &vocabulary, &embed)?;
    let cutter = vocabulary.cutter()?;
    let Some(start) = detector.checked.settings.start.given() else {
        return Err(refuse("`start` names no token"));
    };
    let end = vocabulary.token("</s>");
    let cut = |caption: &String| {
        let tokens = [start].into_iter().chain(cutter.cut(caption)).chain(end);
        tokens
            .take(MOST_TOKENS.min(detector.decoder.sizes.positions))
            .collect()
    };
    let captions = captions.iter();
    let learner = CaptionLearner {
        decoder: &detector.decoder,
        captions: captions
            .map(|(name, captions)| (name.as_str(), captions.iter().map(cut).collect()))
            .collect(),
    };
    let samples = samples.as_slice();
    let plan = Run {
        encoder,
        input: &detector.checked.profile.input,
        record: Record {
            blocks: 0,
            patches: 0,
            width: 0,
            embedding,
        },
        samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: None,
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if let Some(last) = log.epochs.last() {
        let path = options.folder.join(CHECKPOINT);
        // Nothing is set apart for validation.
        detector.decoder.write(&path, log.epochs.len(), last.loss)?;
    }
    Ok(Trained {
        detector: Box::new(detector),
        log,
    })
}

/// Learns to write captions.
struct CaptionLearner<'a> {
    decoder: &'a Decoder,
    /// Their tokens, by the names of the images' files.
    captions: BTreeMap<&'a str, Vec<Vec<usize>>>,
}

impl Learner for CaptionLearner<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let embeddings = features.embedding.as_ref();
        let embeddings = embeddings.ok_or_else(|| refuse("the features lack the embedding"))?;
        let pairs = samples.iter().enumerate().flat_map(|(image, sample)| {
            let captions = self.captions.get(file_name(sample).as_str());
            let captions = captions.map_or(&[][..], Vec::as_slice);
            captions.iter().map(move |caption| (image as u32, caption))
        });
        let (images, captions): (Vec<u32>, Vec<&Vec<usize>>) = pairs.unzip();
        let lengths: Vec<usize> = captions.iter().map(|caption| caption.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padded = captions.iter().flat_map(|caption| {
            let tokens = caption.iter().map(|&token| token as u32);
            tokens.chain(std::iter::repeat(0)).take(longest)
        });
        let shape = (captions.len(), longest);
        let captions = Tensor::from_vec(padded.collect::<Vec<u32>>(), shape, &Device::Cpu)?;
        let embeddings = embeddings.index_select(&Tensor::new(images, &Device::Cpu)?, 0)?;
        let total = self.decoder.loss(&captions, &lengths, &embeddings)?;
        let parts = vec![("caption", total.clone())];
        Ok(Losses { total, parts })
    }
}
